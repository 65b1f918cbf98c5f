//! A librdkafka producer, its polling thread, and its replacement after a fatal error.

use std::{
    ops::Deref,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    error::KafkaError,
    message::DeliveryResult,
    producer::{BaseProducer, Producer, ProducerContext},
};
use tokio::sync::Notify;

use crate::{KafkaSettings, context, settings};

/// Timeout of one poll, and so how long the thread outlives its producer at most.
const SERVE_PATIENCE: Duration = Duration::from_secs(5);

/// The messages of one call for which the broker has not answered yet.
pub struct Delivery {
    left: AtomicUsize,
    failed: OnceLock<KafkaError>,
    done: Notify,
}

impl Delivery {
    /// Creates it for this number of messages, at least one.
    pub fn of(messages: usize) -> Self {
        Self { left: AtomicUsize::new(messages), failed: OnceLock::new(), done: Notify::new() }
    }

    /// Records the result for one more message: it is stored, or will not be.
    pub fn report(&self, error: Option<KafkaError>) {
        if let Some(error) = error {
            let _ = self.failed.set(error);
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.notify_one();
        }
    }

    /// Waits for all results; returns the first error, if there was one.
    pub async fn reports(&self) -> Result<(), KafkaError> {
        self.done.notified().await;
        self.failed.get().cloned().map_or(Ok(()), Err)
    }
}

/// Passes delivery reports from the producer's thread to the waiting senders.
pub struct Reports;

/// A producer with its polling thread.
///
/// The client library's own (`ThreadedProducer`) polls for a tenth of a second at a time, and rounds the rest of it
/// down to milliseconds: it spins through the last millisecond of each, which is 1 % of a core per producer, even when
/// idle.
pub struct Reporting {
    producer: Arc<BaseProducer<Reports>>,
    over: Arc<AtomicBool>,
}

impl Reporting {
    fn new(producer: BaseProducer<Reports>) -> Self {
        let (producer, over) = (Arc::new(producer), Arc::new(AtomicBool::new(false)));
        let (served, stop) = (producer.clone(), over.clone());
        thread::Builder::new()
            .name("kafka-reports".to_owned())
            .spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    served.poll(SERVE_PATIENCE);
                }
            })
            .expect("a thread can be started");
        Self { producer, over }
    }
}

impl Deref for Reporting {
    type Target = BaseProducer<Reports>;

    fn deref(&self) -> &Self::Target {
        &self.producer
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        context::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        context::error(&error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Arc<Delivery>;

    fn delivery(&self, result: &DeliveryResult<'_>, delivery: Arc<Delivery>) {
        delivery.report(result.as_ref().err().map(|(error, _)| error.clone()));
    }
}

/// The use of a producer.
#[derive(Debug, Clone, Copy)]
pub enum ProducerKind {
    /// Small batches: sends at once.
    Quick,
    /// Large batches: lingers for a millisecond.
    Bulk,
    /// Domain events: idempotent, so that each partition stays in order.
    InOrder,
}

/// A producer, which is replaced after an error from which it cannot recover.
pub struct ReplaceableProducer {
    kind: ProducerKind,
    producer: Mutex<Arc<Reporting>>,
}

impl ReplaceableProducer {
    /// Creates the first producer.
    pub fn new(settings: &KafkaSettings, kind: ProducerKind) -> Result<Self, settings::Error> {
        let producer = produce(settings, kind).map_err(settings::Error::Settings)?;
        Ok(Self { kind, producer: Mutex::new(Arc::new(producer)) })
    }

    /// Returns the present producer.
    pub fn producer(&self) -> Arc<Reporting> {
        self.producer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Handles an error: an idempotent producer is unusable once a broker has lost its sequence.
    pub fn mend(&self, settings: &KafkaSettings) {
        let mut producer = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((code, reason)) = producer.client().fatal_error() {
            tracing::warn!(%code, reason, "the producer failed for good; creating another");
            match produce(settings, self.kind) {
                Ok(another) => *producer = Arc::new(another),
                Err(error) => tracing::error!(%error, "could not create another producer"),
            }
        }
    }
}

fn produce(settings: &KafkaSettings, kind: ProducerKind) -> Result<Reporting, KafkaError> {
    let (linger, idempotence) = match kind {
        ProducerKind::Quick => ("0", "false"),
        ProducerKind::Bulk => ("1", "false"),
        ProducerKind::InOrder => ("1", "true"),
    };
    let timeout = settings.delivery_timeout.as_millis().to_string();
    let config = settings.client(&[
        ("acks", "all"),
        ("enable.idempotence", idempotence),
        ("linger.ms", linger),
        ("message.timeout.ms", &timeout),
        // The broker's limit decides, so that a dead letter may be as large as the message was.
        ("message.max.bytes", "100000000"),
        // Messages waiting in this process: 128 MiB, more than the largest message, and not librdkafka's 1 GiB.
        ("queue.buffering.max.kbytes", "131072"),
    ]);
    let producer = config.create_with_context(Reports).map(Reporting::new)?;
    settings.credentials.reach(&producer.producer);
    Ok(producer)
}
