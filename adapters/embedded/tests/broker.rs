//! The embedded broker, as clients see it.

use std::time::Duration;

use amends_embedded::{Broker, BrokerOptions};
use rdkafka::{
    ClientConfig, Message,
    consumer::{BaseConsumer, Consumer, StreamConsumer},
    producer::{FutureProducer, FutureRecord},
};

const PATIENCE: Duration = Duration::from_secs(60);

fn config(broker: &Broker) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.bootstrap_servers()).set("reconnect.backoff.max.ms", "200");
    config
}

fn consumer(broker: &Broker) -> StreamConsumer {
    member(broker, "readers")
}

fn member(broker: &Broker, group: &str) -> StreamConsumer {
    let consumer: StreamConsumer = config(broker)
        .set("group.id", group)
        .set("auto.offset.reset", "earliest")
        .set("session.timeout.ms", "3000")
        .set("fetch.wait.max.ms", "10")
        .create()
        .unwrap();
    consumer.subscribe(&["words"]).unwrap();
    consumer
}

async fn produce(broker: &Broker, word: &str) {
    let producer: FutureProducer = config(broker).create().unwrap();
    let record = FutureRecord::<(), _>::to("words").payload(word);
    producer.send(record, PATIENCE).await.unwrap();
}

async fn next(consumer: &StreamConsumer) -> String {
    let word = async {
        loop {
            // Errors come from connections that were cut; the client reconnects.
            if let Ok(message) = consumer.recv().await {
                return String::from_utf8(message.payload().unwrap().to_vec()).unwrap();
            }
        }
    };
    tokio::time::timeout(PATIENCE, word).await.expect("a word arrives")
}

fn partitions(broker: &Broker, topic: &str) -> usize {
    let consumer: BaseConsumer = config(broker).create().unwrap();
    let metadata = consumer.fetch_metadata(None, PATIENCE).unwrap();
    metadata.topics().iter().find(|found| found.name() == topic).map_or(0, |topic| topic.partitions().len())
}

#[tokio::test]
async fn what_is_produced_arrives() {
    let broker = Broker::start(BrokerOptions::default()).unwrap();
    broker.create_topic("words", 3).unwrap();
    produce(&broker, "hello").await;
    assert_eq!(next(&consumer(&broker)).await, "hello");
}

#[tokio::test]
async fn a_group_has_its_partitions_without_the_usual_delay() {
    let broker = Broker::start(BrokerOptions::default()).unwrap();
    broker.create_topic("words", 3).unwrap();
    produce(&broker, "hello").await;
    // librdkafka's own delay is three seconds, for every new group. A busy machine may be as slow for some.
    let mut groups = 0;
    loop {
        let consumer = member(&broker, &format!("readers-{groups}"));
        match tokio::time::timeout(Duration::from_millis(2500), consumer.recv()).await {
            Ok(first) => return drop(first.unwrap()),
            Err(_) => groups += 1,
        }
        assert!(groups < 20, "no group had its partitions within two and a half seconds");
    }
}

#[tokio::test]
async fn it_listens_where_it_is_told_and_says_when_it_cannot() {
    let first = Broker::start(BrokerOptions::default()).unwrap();
    let port = first.bootstrap_servers().rsplit(':').next().unwrap().parse().unwrap();
    let refused = Broker::start(BrokerOptions { port: Some(port) }).unwrap_err();
    assert!(refused.to_string().contains(&port.to_string()), "{refused}");
}

#[tokio::test]
async fn a_topic_has_the_partitions_it_was_created_with_and_keeps_them() {
    let broker = Broker::start(BrokerOptions::default()).unwrap();
    broker.create_topic("words", 7).unwrap();
    broker.create_topic("words", 3).unwrap();
    assert_eq!(partitions(&broker, "words"), 7);
}

#[tokio::test]
async fn a_broker_that_forgets_is_empty_and_goes_on_at_the_same_address() {
    let broker = Broker::start(BrokerOptions::default()).unwrap();
    broker.create_topic("words", 2).unwrap();
    produce(&broker, "lost").await;
    let consumer = consumer(&broker);
    assert_eq!(next(&consumer).await, "lost");

    broker.forget().unwrap();
    assert_eq!(partitions(&broker, "words"), 0);
    broker.create_topic("words", 5).unwrap();
    assert_eq!(partitions(&broker, "words"), 5);
    produce(&broker, "new").await;
    assert_eq!(next(&self::consumer(&broker)).await, "new");
}

#[tokio::test]
async fn clients_outlive_an_outage() {
    let broker = Broker::start(BrokerOptions::default()).unwrap();
    broker.create_topic("words", 2).unwrap();
    let consumer = consumer(&broker);
    produce(&broker, "before").await;
    assert_eq!(next(&consumer).await, "before");

    broker.set_reachable(false);
    let away: BaseConsumer = config(&broker).create().unwrap();
    assert!(away.fetch_metadata(None, Duration::from_millis(300)).is_err());

    broker.set_reachable(true);
    produce(&broker, "after").await;
    assert_eq!(next(&consumer).await, "after");
}
