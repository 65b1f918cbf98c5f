//! A producer that keeps batches together and answers once the broker has.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use amends_protocol::transport::{Error, Inbound, Outbound, Placement, Sink};
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, Producer},
};

use crate::{
    KafkaSettings, context,
    producer::{Delivery, Kind, Reporting, Slot},
    settings, topics,
};

/// From this size on a batch goes by the producer that lingers. Measured against a real broker on two busy cores, 500
/// bytes a message: at 16 lingering saves nothing and costs 0.9 ms; at 32 it saves a fifth of the CPU for 0.8 ms, at 64
/// two fifths for 0.6 ms; from 128 on it is faster as well.
const BIG: usize = 32;

/// How long a topic's number of partitions is believed.
const COUNT_LIFE: Duration = Duration::from_secs(10);

/// What is kept of a message that is too big for its dead letter topic.
const DEAD_LETTER_LIMIT: usize = 64 * 1024;

/// Sends messages and waits for the broker's word. Cheap to share, and meant to be: it has threads and connections.
pub struct KafkaSink {
    settings: KafkaSettings,
    /// For batches of a few: sends at once.
    quick: Slot,
    /// For big ones: waits a millisecond, so that a batch is one request and not several. Alone in flight that would
    /// cost a millisecond at every hop. `None` where everything has to go one way to keep its order.
    bulk: Option<Slot>,
    counts: Arc<Counts>,
    turn: AtomicUsize,
}

impl KafkaSink {
    /// For commands and replies.
    ///
    /// acks=all, so that what is acknowledged outlives a broker. Idempotence is off: it cost 13 % of throughput and
    /// twice the p99, and a message that the client sends again is nothing new to anybody here, for commands
    /// and replies are made to arrive more than once and in any order.
    pub fn new(settings: &KafkaSettings) -> Result<Self, settings::Error> {
        let quick = Slot::new(settings, Kind::Quick)?;
        let bulk = Some(Slot::new(settings, Kind::Bulk)?);
        Ok(Self::with(settings, quick, bulk))
    }

    /// For domain events, whose readers want each order's in order and not twice: one idempotent producer.
    pub fn in_order(settings: &KafkaSettings) -> Result<Self, settings::Error> {
        Ok(Self::with(settings, Slot::new(settings, Kind::InOrder)?, None))
    }

    fn with(settings: &KafkaSettings, quick: Slot, bulk: Option<Slot>) -> Self {
        let turn = AtomicUsize::new(rand::random::<u16>().into());
        Self { settings: settings.clone(), quick, bulk, counts: Arc::default(), turn }
    }

    /// Chooses everybody's partition, and only then sends: either all can be placed or none is sent.
    async fn place(&self, producer: &Arc<Reporting>, messages: &[Outbound]) -> Result<Vec<i32>, Error> {
        let mut counts = HashMap::<&str, i32>::new();
        for message in messages {
            if !counts.contains_key(message.topic.as_str()) {
                counts.insert(&message.topic, self.counts.of(producer, &message.topic).await?);
            }
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let partition = |message: &Outbound| {
            let count = counts[message.topic.as_str()];
            match message.placement {
                Placement::Home(slot) => i32::from(slot) % count,
                Placement::Together => i32::try_from(turn % count.unsigned_abs() as usize).unwrap_or(0),
            }
        };
        Ok(messages.iter().map(partition).collect())
    }
}

impl Sink for KafkaSink {
    async fn send(&self, messages: Vec<Outbound>) -> Result<(), Error> {
        if messages.is_empty() {
            return Ok(());
        }
        let slot = self.bulk.as_ref().filter(|_| messages.len() >= BIG).unwrap_or(&self.quick);
        let producer = slot.producer();
        let partitions = self.place(&producer, &messages).await?;
        let delivery = Arc::new(Delivery::of(messages.len()));
        for (message, partition) in messages.iter().zip(partitions) {
            let mut key = [0; 36];
            let record = BaseRecord::with_opaque_to(&message.topic, delivery.clone())
                .partition(partition)
                .key(message.key.hyphenated().encode_lower(&mut key).as_bytes())
                .payload(&message.bytes[..]);
            let record = match &message.traceparent {
                Some(parent) => record.headers(headers(&[("traceparent", parent)])),
                None => record,
            };
            enqueue(&producer, record, &delivery).await;
        }
        let sent = delivery.reports().await;
        if sent.is_err() {
            messages.iter().for_each(|message| self.counts.doubt(&message.topic));
            slot.mend(&self.settings);
        }
        sent.map_err(|error| Error(format!("sending: {error}")))
    }

    async fn dead_letter(&self, message: &Inbound, reason: &str) -> Result<(), Error> {
        let topic = topics::dead_letter_topic(&message.topic);
        let (partition, offset) = (message.partition.to_string(), message.offset.to_string());
        let about = [
            ("reason", reason),
            ("topic", message.topic.as_str()),
            ("partition", &partition),
            ("offset", &offset),
        ];
        let mut about = about.to_vec();
        about.extend(message.traceparent.as_deref().map(|parent| ("traceparent", parent)));

        let producer = self.quick.producer();
        let mut sent = dead_letter(&producer, &topic, &message.bytes, &about).await;
        if let Err(KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge)) = sent {
            // With our headers it has outgrown the topic's limit. A part of it is better than a partition that
            // stands still.
            let size = message.bytes.len().to_string();
            about.push(("truncated-from", &size));
            let kept = &message.bytes[..message.bytes.len().min(DEAD_LETTER_LIMIT)];
            sent = dead_letter(&producer, &topic, kept, &about).await;
        }
        if sent.is_err() {
            self.quick.mend(&self.settings);
        }
        sent.map_err(|error| Error(format!("sending to {topic}: {error}")))
    }
}

async fn dead_letter(
    producer: &Reporting,
    topic: &str,
    bytes: &[u8],
    about: &[(&str, &str)],
) -> Result<(), KafkaError> {
    let delivery = Arc::new(Delivery::of(1));
    let record = BaseRecord::<(), [u8], _>::with_opaque_to(topic, delivery.clone());
    enqueue(producer, record.payload(bytes).headers(headers(about)), &delivery).await;
    delivery.reports().await
}

/// Into the client's queue. While that is full, it waits: the queue is what bounds memory when the broker is slow.
async fn enqueue<K: rdkafka::message::ToBytes + ?Sized>(
    producer: &Reporting,
    mut record: BaseRecord<'_, K, [u8], Arc<Delivery>>,
    delivery: &Arc<Delivery>,
) {
    loop {
        match producer.send(record) {
            Ok(()) => return,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err((error, _)) => return delivery.report(Some(error)),
        }
    }
}

fn headers(pairs: &[(&str, &str)]) -> OwnedHeaders {
    let headers = OwnedHeaders::new_with_capacity(pairs.len());
    pairs.iter().fold(headers, |headers, (key, value)| headers.insert(Header { key, value: Some(*value) }))
}

/// How many partitions topics have: looked up at first use, then now and then beside the sending.
#[derive(Default)]
struct Counts {
    known: Mutex<HashMap<String, (i32, Instant)>>,
}

impl Counts {
    async fn of(self: &Arc<Self>, producer: &Arc<Reporting>, topic: &str) -> Result<i32, Error> {
        let known = self.known().get(topic).copied();
        match known {
            Some((count, seen)) if seen.elapsed() < COUNT_LIFE => Ok(count),
            Some((count, _)) => {
                // One look at a time.
                self.learn(topic, count);
                drop(self.look(producer, topic));
                Ok(count)
            }
            None => context::finished(self.look(producer, topic)).await,
        }
    }

    /// The next call looks again.
    fn doubt(&self, topic: &str) {
        self.known().remove(topic);
    }

    fn look(
        self: &Arc<Self>,
        producer: &Arc<Reporting>,
        topic: &str,
    ) -> tokio::task::JoinHandle<Result<i32, Error>> {
        let (counts, producer, topic) = (self.clone(), producer.clone(), topic.to_owned());
        tokio::task::spawn_blocking(move || {
            let metadata = producer.client().fetch_metadata(Some(&topic), Duration::from_secs(5));
            let metadata = metadata.map_err(|error| Error(format!("looking at {topic}: {error}")))?;
            let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
            match i32::try_from(partitions) {
                Ok(count) if count > 0 => {
                    counts.learn(&topic, count);
                    Ok(count)
                }
                _ => Err(Error(format!("there is no topic {topic}"))),
            }
        })
    }

    fn learn(&self, topic: &str, count: i32) {
        self.known().insert(topic.to_owned(), (count, Instant::now()));
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, (i32, Instant)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
