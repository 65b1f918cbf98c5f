//! librdkafka's own log, into `tracing`.

use rdkafka::{ClientContext, config::RDKafkaLogLevel, error::KafkaError};

/// A client whose callbacks do nothing but log.
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

/// It calls a broker that is away an error, several times a second. Ours are told when something they asked for
/// failed; this is for who looks closer.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    use RDKafkaLogLevel::{Alert, Critical, Emerg};
    match level {
        Emerg | Alert | Critical => tracing::error!(facility, "{message}"),
        _ => tracing::debug!(facility, "{message}"),
    }
}

/// As above.
pub(crate) fn error(error: &KafkaError, reason: &str) {
    tracing::debug!(%error, reason, "librdkafka");
}

/// What a thread of its own came to. Where the runtime stops first, nobody is left to hear it.
pub(crate) async fn finished<T>(thread: tokio::task::JoinHandle<T>) -> T {
    match thread.await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => std::future::pending().await,
    }
}
