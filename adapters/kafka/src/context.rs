//! Passes librdkafka's log to `tracing`.

use std::sync::{Mutex, PoisonError};

use rdkafka::{
    ClientContext, config::RDKafkaLogLevel, consumer::ConsumerContext, error::KafkaError,
    message::DeliveryResult, producer::ProducerContext,
};

/// librdkafka's word for a log line about a connection that failed.
const CONNECTION_FAILED: &str = "FAIL";

/// A client whose callbacks only log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self::error(&error, reason);
    }
}

impl ConsumerContext for Quiet {}

/// A client that also remembers why its last connection failed: librdkafka's own error says only that none was made.
#[derive(Debug, Default)]
pub(crate) struct Remembering(Mutex<Option<String>>);

impl Remembering {
    /// Returns why the last connection failed, and forgets it.
    pub(crate) fn take_failure(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// It sends nothing.
impl ProducerContext for Remembering {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

impl ClientContext for Remembering {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == CONNECTION_FAILED {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(without_thread(message).to_owned());
        }
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self::error(&error, reason);
    }
}

/// Returns a log line without the name of librdkafka's thread.
fn without_thread(message: &str) -> &str {
    match message.strip_prefix("[thrd:").and_then(|rest| rest.split_once("]: ")) {
        Some((_, rest)) => rest,
        None => message,
    }
}

/// librdkafka reports an unreachable broker as an error, several times per second. Callers get an error when their own
/// request fails; this log is for closer inspection.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    use RDKafkaLogLevel::{Alert, Critical, Emerg};
    match level {
        Emerg | Alert | Critical => tracing::error!(facility, "{message}"),
        _ => tracing::debug!(facility, "{message}"),
    }
}

/// The same for librdkafka's errors.
pub(crate) fn error(error: &KafkaError, reason: &str) {
    tracing::debug!(%error, reason, "librdkafka");
}

/// Returns the result of a separate thread. If the runtime stops first, no caller is left to receive it.
pub(crate) async fn finished<T>(thread: tokio::task::JoinHandle<T>) -> T {
    match thread.await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => std::future::pending().await,
    }
}
