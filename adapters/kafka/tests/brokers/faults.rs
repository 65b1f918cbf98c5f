//! Faults that only the embedded broker can simulate: being away, and losing its data.

use std::time::{Duration, Instant};

use amends_embedded::{Broker, BrokerOptions};
use amends_kafka::{KafkaSettings, KafkaSink, KafkaSource};
use amends_protocol::transport::{Outbound, Placement, Sink, Source};

use crate::world::{PATIENCE, message, text};

const TOPIC: &str = "replies";

fn start(partitions: i32) -> (Broker, KafkaSettings) {
    let broker = Broker::start(BrokerOptions::default()).unwrap();
    broker.create_topic(TOPIC, partitions).unwrap();
    let settings = KafkaSettings {
        session_timeout: Duration::from_secs(3),
        fetch_wait: Duration::from_millis(10),
        delivery_timeout: Duration::from_millis(500),
        ..KafkaSettings::new(broker.bootstrap_servers())
    };
    (broker, settings)
}

fn one(slot: u16, what: &str) -> Vec<Outbound> {
    vec![message(TOPIC, Placement::Slot(slot), what)]
}

/// Sends as a caller does that asks again after an error.
async fn send(sink: &KafkaSink, slot: u16, what: &str) {
    let begun = Instant::now();
    while let Err(error) = sink.send(one(slot, what)).await {
        assert!(begun.elapsed() < PATIENCE, "{error}");
    }
}

/// Receives for a moment, and settles what it received. Returns the partition of this message, if it arrived.
async fn look_for(source: &mut KafkaSource, what: &str) -> Option<i32> {
    // Errors are returned while the broker is away.
    let batch = source.receive(10, Duration::from_millis(100)).await.ok()?;
    source.commit(batch.receipt).unwrap();
    batch.messages.iter().find(|message| text(message) == what).map(|message| message.partition)
}

/// Receives until this message arrives.
async fn receive(source: &mut KafkaSource, what: &str) -> i32 {
    let begun = Instant::now();
    loop {
        if let Some(partition) = look_for(source, what).await {
            return partition;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} has not come; {:?}", source.assignment());
    }
}

/// Sends this repeatedly, as the engine does while there is no answer, until it arrives from that partition: an old
/// offset may hide the first messages after a broker has lost its data.
async fn resend_until(sink: &KafkaSink, source: &mut KafkaSource, slot: u16, what: &str, partition: i32) {
    let begun = Instant::now();
    loop {
        send(sink, slot, what).await;
        if look_for(source, what).await == Some(partition) {
            return;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{what} has not come from {partition}; {:?}",
            source.assignment()
        );
    }
}

#[tokio::test]
async fn while_the_broker_is_away_a_send_fails_and_then_all_goes_on() {
    let (broker, settings) = start(2);
    let sink = KafkaSink::new(&settings).unwrap();
    let mut source = KafkaSource::subscribe(&settings, "group", &[TOPIC]).unwrap();
    send(&sink, 0, "before").await;
    receive(&mut source, "before").await;

    broker.set_reachable(false);
    let begun = Instant::now();
    sink.send(one(0, "away")).await.unwrap_err();
    // By itself librdkafka would try for five minutes.
    assert!(begun.elapsed() < PATIENCE, "the delivery timeout was half a second");

    broker.set_reachable(true);
    send(&sink, 1, "after").await;
    receive(&mut source, "after").await;
}

#[tokio::test]
async fn a_source_can_be_dropped_while_the_broker_is_away() {
    let (broker, settings) = start(2);
    let mut source = KafkaSource::subscribe(&settings, "group", &[TOPIC]).unwrap();
    send(&KafkaSink::new(&settings).unwrap(), 0, "before").await;
    receive(&mut source, "before").await;
    broker.set_reachable(false);
    let begun = Instant::now();
    drop(source);
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_topic_recreated_with_more_partitions_is_used_to_its_full_width() {
    let (broker, settings) = start(2);
    let sink = KafkaSink::new(&settings).unwrap();
    let mut source = KafkaSource::subscribe(&settings, "group", &[TOPIC]).unwrap();
    send(&sink, 4, "before").await;
    assert_eq!(receive(&mut source, "before").await, 0);

    broker.forget().unwrap();
    broker.create_topic(TOPIC, 5).unwrap();
    resend_until(&sink, &mut source, 4, "after", 4).await;
    assert_eq!(source.assignment().count, 5);
}

#[tokio::test]
async fn domain_events_go_on_after_the_broker_has_forgotten_their_producer() {
    let (broker, settings) = start(2);
    let sink = KafkaSink::of_events(&settings).unwrap();
    let mut source = KafkaSource::subscribe(&settings, "group", &[TOPIC]).unwrap();
    for _ in 0..5 {
        send(&sink, 0, "before").await;
    }
    receive(&mut source, "before").await;
    broker.forget().unwrap();
    broker.create_topic(TOPIC, 2).unwrap();
    resend_until(&sink, &mut source, 0, "after", 0).await;
}

#[tokio::test]
async fn an_outage_that_is_over_is_not_told_of_error_by_error() {
    let (broker, settings) = start(2);
    let sink = KafkaSink::new(&settings).unwrap();
    let mut source = KafkaSource::subscribe(&settings, "group", &[TOPIC]).unwrap();
    send(&sink, 0, "before").await;
    receive(&mut source, "before").await;

    // The receiver is busy meanwhile, with a send that fails again and again.
    broker.set_reachable(false);
    for _ in 0..10 {
        sink.send(one(0, "away")).await.unwrap_err();
    }
    broker.set_reachable(true);
    send(&sink, 0, "after").await;
    let (begun, mut errors) = (Instant::now(), 0);
    loop {
        match source.receive(10, Duration::from_millis(100)).await {
            Ok(batch) if batch.messages.iter().any(|message| text(message) == "after") => break,
            Ok(_) => {}
            // After each error, callers rest longer.
            Err(_) => errors += 1,
        }
        assert!(begun.elapsed() < PATIENCE, "it has not come");
    }
    // One was queued; the last attempt to connect may fail after it.
    assert!(errors <= 2, "{errors} errors about what was over");
}
