//! Helpers that the cases share.

use std::{collections::BTreeSet, time::Duration};

use amends_kafka::{KafkaSettings, KafkaSink, KafkaSource};
use amends_protocol::transport::{Batch, Inbound, Outbound, Placement, Sink, Source};
use amends_testkit::TestBroker;
use uuid::Uuid;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn settings(broker: TestBroker) -> KafkaSettings {
    KafkaSettings {
        session_timeout: broker.session_timeout(),
        fetch_wait: broker.fetch_wait(),
        ..KafkaSettings::new(broker.bootstrap_servers())
    }
}

pub(crate) fn sink(broker: TestBroker) -> KafkaSink {
    KafkaSink::new(&settings(broker)).unwrap()
}

pub(crate) fn source(broker: TestBroker, group: &str, topic: &str) -> KafkaSource {
    KafkaSource::subscribe(&settings(broker), group, &[topic]).unwrap()
}

pub(crate) fn message(topic: &str, placement: Placement, text: impl ToString) -> Outbound {
    let bytes = text.to_string().into_bytes();
    Outbound { topic: topic.into(), placement, key: Uuid::nil(), traceparent: None, bytes }
}

pub(crate) fn numbered(topic: &str, placement: Placement, numbers: std::ops::Range<u32>) -> Vec<Outbound> {
    numbers.map(|number| message(topic, placement, number)).collect()
}

/// Sends these numbers, each to another slot.
pub(crate) async fn scatter(sink: &KafkaSink, topic: &str, numbers: std::ops::Range<u32>) {
    let messages = numbers.map(|number| message(topic, Placement::Slot(number as u16), number));
    sink.send(messages.collect()).await.unwrap();
}

pub(crate) fn text(message: &Inbound) -> String {
    String::from_utf8(message.bytes.clone()).unwrap()
}

pub(crate) fn numbers(messages: &[Inbound]) -> Vec<u32> {
    messages.iter().map(|message| text(message).parse().unwrap()).collect()
}

/// Receives until there are this many messages; returns them with the last receipt.
pub(crate) async fn take(source: &mut KafkaSource, count: usize) -> Batch {
    let mut all = Batch::default();
    let taking = async {
        while all.messages.len() < count {
            let batch = source.receive(count - all.messages.len(), PATIENCE).await.unwrap();
            all.receipt = all.receipt.max(batch.receipt);
            all.messages.extend(batch.messages);
        }
    };
    let taken = tokio::time::timeout(PATIENCE, taking).await;
    assert!(taken.is_ok(), "only {} of {count} messages came", all.messages.len());
    all
}

/// Receives the expected number of messages and asserts that they are these.
pub(crate) async fn expect(source: &mut KafkaSource, expected: std::ops::Range<u32>) -> Batch {
    let batch = take(source, expected.len()).await;
    let found: BTreeSet<u32> = numbers(&batch.messages).into_iter().collect();
    assert_eq!(found, expected.collect::<BTreeSet<u32>>());
    batch
}
