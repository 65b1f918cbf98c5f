//! A producer that keeps batches together and completes a send once the broker has acknowledged it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use amends_protocol::{
    CommandKey, SIGNATURE_HEADER,
    transport::{Error, Inbound, Outbound, Placement, Sink},
};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, Producer},
};

use crate::{
    KafkaSettings, context,
    producer::{Delivery, ProducerKind, ReplaceableProducer, Reporting},
    settings, topics,
};

/// From this size on a batch uses the producer that lingers. Measured against a real broker on two busy cores, 500
/// bytes per message: at 16 lingering saves nothing and costs 0.9 ms; at 32 it saves a fifth of the CPU for 0.8 ms, at
/// 64 two fifths for 0.6 ms; from 128 on it is faster as well.
const BIG_BATCH: usize = 32;

/// How long a topic's number of partitions is cached.
const COUNT_LIFE: Duration = Duration::from_secs(10);

/// How long a look-up may take.
const COUNT_PATIENCE: Duration = Duration::from_secs(5);

/// Number of bytes kept of a message that is too large for its dead letter topic.
const DEAD_LETTER_LIMIT: usize = 64 * 1024;

/// The content type of domain events, as CloudEvents' binding for Kafka has it for its structured mode.
pub const EVENT_CONTENT_TYPE: &str = "application/cloudevents+json";
/// The header that says what a message contains.
const CONTENT_TYPE_HEADER: &str = "content-type";

/// Sends messages and waits for the broker's acknowledgement. It should be shared: it has threads and connections.
pub struct KafkaSink {
    settings: KafkaSettings,
    /// For small batches: sends at once.
    quick: ReplaceableProducer,
    /// For large batches: waits a millisecond, so that a batch is one request and not several. For single messages that
    /// would cost a millisecond at every hop. `None` where everything must use one producer to keep its order.
    bulk: Option<ReplaceableProducer>,
    counts: Arc<Counts>,
    turns: Mutex<HashMap<String, usize>>,
    /// The header `content-type` of every message.
    content_type: Option<&'static str>,
    /// The keys that sign messages, by topic.
    signing: HashMap<String, CommandKey>,
}

impl KafkaSink {
    /// Creates a sink for commands and replies.
    ///
    /// acks=all, so that acknowledged messages survive the loss of a broker. Idempotence is off: it cost 13 % of
    /// throughput and twice the p99, and a message that the client sends twice does no harm, because receivers accept
    /// commands and replies more than once and in any order.
    pub fn new(settings: &KafkaSettings) -> Result<Self, settings::Error> {
        let quick = ReplaceableProducer::new(settings, ProducerKind::Quick)?;
        let bulk = Some(ReplaceableProducer::new(settings, ProducerKind::Bulk)?);
        Ok(Self::with(settings, quick, bulk))
    }

    /// Creates a sink for domain events, whose readers want each order's events in order and once: one idempotent
    /// producer. Each says by its `content-type` that it is a structured CloudEvent.
    pub fn of_events(settings: &KafkaSettings) -> Result<Self, settings::Error> {
        let sink = Self::with(settings, ReplaceableProducer::new(settings, ProducerKind::InOrder)?, None);
        Ok(Self { content_type: Some(EVENT_CONTENT_TYPE), ..sink })
    }

    fn with(settings: &KafkaSettings, quick: ReplaceableProducer, bulk: Option<ReplaceableProducer>) -> Self {
        Self {
            settings: settings.clone(),
            quick,
            bulk,
            counts: Arc::default(),
            turns: Mutex::default(),
            content_type: None,
            signing: HashMap::new(),
        }
    }

    /// Signs the messages of these topics.
    #[must_use]
    pub fn signing(self, signing: HashMap<String, CommandKey>) -> Self {
        Self { signing, ..self }
    }

    /// Chooses the partition of every message before the first is sent: either all can be placed or none is sent. (So the
    /// engine makes a call of its own for each topic.)
    async fn place(&self, producer: &Arc<Reporting>, messages: &[Outbound]) -> Result<Vec<i32>, Error> {
        let mut topics = HashMap::<&str, (i32, i32)>::new();
        for message in messages {
            if !topics.contains_key(message.topic.as_str()) {
                let count = self.counts.of(producer, &message.topic).await?;
                topics.insert(&message.topic, (count, self.turn(&message.topic, count)));
            }
        }
        let partition = |message: &Outbound| {
            let (count, together) = topics[message.topic.as_str()];
            match message.placement {
                Placement::Slot(slot) => i32::from(slot) % count,
                Placement::Together => together,
            }
        };
        Ok(messages.iter().map(partition).collect())
    }

    /// Returns the topic's next partition in turn.
    ///
    /// Every topic has a turn of its own: orders that come one at a time are a call to each worker's topic, and with a
    /// common turn each of three topics would use a third of its partitions.
    fn turn(&self, topic: &str, count: i32) -> i32 {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = match turns.get_mut(topic) {
            Some(turn) => turn,
            // Anywhere: programs that start together should not begin with the same one.
            None => turns.entry(topic.to_owned()).or_insert_with(|| rand::random::<u16>().into()),
        };
        *turn = turn.wrapping_add(1);
        i32::try_from(*turn % count.unsigned_abs() as usize).unwrap_or(0)
    }
}

impl Sink for KafkaSink {
    async fn send(&self, messages: Vec<Outbound>) -> Result<(), Error> {
        if messages.is_empty() {
            return Ok(());
        }
        let slot = self.bulk.as_ref().filter(|_| messages.len() >= BIG_BATCH).unwrap_or(&self.quick);
        let producer = slot.producer();
        let partitions = self.place(&producer, &messages).await?;
        let delivery = Arc::new(Delivery::of(messages.len()));
        for (message, partition) in messages.iter().zip(partitions) {
            let mut key = [0; 36];
            let record = BaseRecord::with_opaque_to(&message.topic, delivery.clone())
                .partition(partition)
                .key(message.key.hyphenated().encode_lower(&mut key).as_bytes())
                .payload(&message.bytes[..]);
            let signature = self.signing.get(&message.topic).map(|key| key.sign(&message.bytes));
            let about = (message.traceparent.as_deref().map(|parent| ("traceparent", parent)))
                .into_iter()
                .chain(signature.as_deref().map(|signature| (SIGNATURE_HEADER, signature)))
                .chain(self.content_type.map(|content_type| (CONTENT_TYPE_HEADER, content_type)));
            let record = match about.clone().next() {
                Some(_) => record.headers(headers(about)),
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
        about.extend(message.signature.as_deref().map(|signature| (SIGNATURE_HEADER, signature)));

        let producer = self.quick.producer();
        let mut sent = dead_letter(&producer, &topic, &message.bytes, &about).await;
        if let Err(KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge)) = sent {
            // With our headers the message has outgrown the topic's limit. A part of it is better than a blocked
            // partition.
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
    enqueue(producer, record.payload(bytes).headers(headers(about.iter().copied())), &delivery).await;
    delivery.reports().await
}

/// Puts a message into the client's queue. While that is full, it waits: the queue bounds memory when the broker is
/// slow.
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

fn headers<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> OwnedHeaders {
    let headers = OwnedHeaders::new_with_capacity(2);
    pairs.fold(headers, |headers, (key, value)| headers.insert(Header { key, value: Some(value) }))
}

/// Numbers of partitions by topic: looked up at first use, then refreshed from time to time in the background.
///
/// At most one look-up per topic is in progress, however many senders wait for it: while the broker is away each takes
/// seconds and a thread.
#[derive(Default)]
struct Counts {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    counts: HashMap<String, (i32, Instant)>,
    looks: HashMap<String, Look>,
}

/// A look-up in progress.
type Look = Shared<BoxFuture<'static, Result<i32, Error>>>;

impl Counts {
    async fn of(self: &Arc<Self>, producer: &Arc<Reporting>, topic: &str) -> Result<i32, Error> {
        let known = self.known().counts.get(topic).copied();
        match known {
            Some((count, seen)) if seen.elapsed() < COUNT_LIFE => Ok(count),
            Some((count, _)) => {
                // It continues in the background.
                drop(self.look(producer, topic));
                Ok(count)
            }
            None => self.look(producer, topic).await,
        }
    }

    /// Makes the next call look up again.
    fn doubt(&self, topic: &str) {
        self.known().counts.remove(topic);
    }

    /// Joins the look-up in progress, or begins one.
    fn look(self: &Arc<Self>, producer: &Arc<Reporting>, topic: &str) -> Look {
        let mut known = self.known();
        if let Some(look) = known.looks.get(topic) {
            return look.clone();
        }
        let (counts, producer, name) = (self.clone(), producer.clone(), topic.to_owned());
        let looking = tokio::task::spawn_blocking(move || {
            let found = count(&producer, &name);
            let mut known = counts.known();
            if let Ok(count) = found {
                known.counts.insert(name.clone(), (count, Instant::now()));
            }
            known.looks.remove(&name);
            found
        });
        let look = context::finished(looking).boxed().shared();
        known.looks.insert(topic.to_owned(), look.clone());
        look
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the broker for a topic's number of partitions.
fn count(producer: &Reporting, topic: &str) -> Result<i32, Error> {
    let metadata = producer.client().fetch_metadata(Some(topic), COUNT_PATIENCE);
    let metadata = metadata.map_err(|error| Error(format!("looking at {topic}: {error}")))?;
    let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
    match i32::try_from(partitions) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(Error(format!("there is no topic {topic}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Returns the number of this process' threads with this name.
    fn threads(name: &str) -> usize {
        let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|found| found.trim_end() == name).count()
    }

    /// Each look-up without a broker holds a thread for seconds: with one per sender there would be hundreds.
    #[test]
    fn senders_that_wait_for_the_same_topic_share_one_look_up() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("one-look-up")
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let sink = KafkaSink::new(&KafkaSettings::new(format!("127.0.0.1:{port}"))).unwrap();
            let message = Outbound {
                topic: "nowhere".into(),
                placement: Placement::Together,
                key: uuid::Uuid::nil(),
                traceparent: None,
                bytes: Vec::new(),
            };
            let sends = futures::future::join_all((0..200).map(|_| sink.send(vec![message.clone()])));
            let mut most = 0;
            let watch = async {
                loop {
                    most = most.max(threads("one-look-up"));
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let ends = tokio::select! {
                ends = sends => ends,
                () = watch => unreachable!("it watches for ever"),
            };
            assert!(ends.iter().all(Result::is_err), "there is no broker");
            assert!(most <= 4, "{most} threads");
        });
    }
}
