//! A librdkafka producer, the thread that serves it, and what replaces it once it cannot go on.

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

/// How long the serving thread asks for at a time, and so how long it outlives its producer at most.
const SERVE: Duration = Duration::from_secs(5);

/// The messages of one call that the broker has not answered for.
pub struct Delivery {
    left: AtomicUsize,
    failed: OnceLock<KafkaError>,
    done: Notify,
}

impl Delivery {
    /// Of so many messages, at least one.
    pub fn of(messages: usize) -> Self {
        Self { left: AtomicUsize::new(messages), failed: OnceLock::new(), done: Notify::new() }
    }

    /// One more is answered for: it is stored, or will not be.
    pub fn report(&self, error: Option<KafkaError>) {
        if let Some(error) = error {
            let _ = self.failed.set(error);
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.notify_one();
        }
    }

    /// Waits for them all; the first error, if there was one.
    pub async fn reports(&self) -> Result<(), KafkaError> {
        self.done.notified().await;
        self.failed.get().cloned().map_or(Ok(()), Err)
    }
}

/// Hands delivery reports to whoever waits for them, from the thread that serves the producer.
pub struct Reports;

/// A producer with a thread that serves it.
///
/// The client library's own (`ThreadedProducer`) asks for a tenth of a second at a time, and rounds what is left of it
/// down to milliseconds: it spins through the last one of each, which is 1 % of a core for every producer, at rest too.
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
                    served.poll(SERVE);
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

/// What a producer is for.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Batches of a few: sends at once.
    Quick,
    /// Big batches: lingers for a millisecond.
    Bulk,
    /// Domain events: idempotent, so that each partition's stay in order.
    InOrder,
}

/// A producer, and another one when it has met an error that it cannot get over.
pub struct Slot {
    kind: Kind,
    producer: Mutex<Arc<Reporting>>,
}

impl Slot {
    /// With its first producer.
    pub fn new(settings: &KafkaSettings, kind: Kind) -> Result<Self, settings::Error> {
        let producer = produce(settings, kind).map_err(settings::Error::Settings)?;
        Ok(Self { kind, producer: Mutex::new(Arc::new(producer)) })
    }

    /// The one to use now.
    pub fn producer(&self) -> Arc<Reporting> {
        self.producer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// After an error: an idempotent producer is dead once a broker has forgotten its sequence.
    pub fn mend(&self, settings: &KafkaSettings) {
        let mut producer = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((code, reason)) = producer.client().fatal_error() {
            tracing::warn!(%code, reason, "the producer cannot go on, making another");
            match produce(settings, self.kind) {
                Ok(another) => *producer = Arc::new(another),
                Err(error) => tracing::error!(%error, "no other producer could be made"),
            }
        }
    }
}

fn produce(settings: &KafkaSettings, kind: Kind) -> Result<Reporting, KafkaError> {
    let (linger, idempotence) = match kind {
        Kind::Quick => ("0", "false"),
        Kind::Bulk => ("1", "false"),
        Kind::InOrder => ("1", "true"),
    };
    let timeout = settings.delivery_timeout.as_millis().to_string();
    let config = settings.client(&[
        ("acks", "all"),
        ("enable.idempotence", idempotence),
        ("linger.ms", linger),
        ("message.timeout.ms", &timeout),
        // The broker's limit decides, so that a dead letter may be as big as the message was.
        ("message.max.bytes", "100000000"),
        // What waits for the broker in this process, 128 MiB: more than the biggest message, and not librdkafka's 1 GiB.
        ("queue.buffering.max.kbytes", "131072"),
    ]);
    config.create_with_context(Reports).map(Reporting::new)
}
