//! Topics that are missing, grow, or are deleted and made again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use amends_kafka::{
    KafkaSettings, KafkaSource,
    topics::{self, Mismatch, Topic},
};
use amends_protocol::transport::{Placement, Sink, Source};
use amends_testkit::TestBroker;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewPartitions},
    client::DefaultClientContext,
};

use crate::world::{PATIENCE, expect, message, scatter, settings, sink, source, take};

/// How long an answer is waited for that does not come: long enough for those that do, also on a busy machine.
const UNANSWERED: Duration = Duration::from_secs(5);

pub(crate) async fn a_topic_with_more_partitions_than_the_settings_is_reported(broker: TestBroker) {
    let (good, wide) = (broker.topic("good", 2).await, broker.topic("wide", 3).await);
    let wanted = [Topic::new(&good, 2), Topic::new(&wide, 1)];
    let found = topics::ensure(&settings(broker), &wanted, PATIENCE).await.unwrap();
    assert_eq!(found, [Mismatch { topic: wide, expected: 1, found: 3 }]);
}

/// As when a broker creates a topic itself, at the first message after the topic was deleted.
pub(crate) async fn a_topic_with_fewer_partitions_than_the_settings_gets_them_where_the_broker_can(
    broker: TestBroker,
) {
    let narrow = broker.topic("narrow", 1).await;
    let wanted = [Topic::new(&narrow, 12)];
    // The embedded broker does not answer unknown requests.
    let patience = if broker.is_real() { PATIENCE } else { UNANSWERED };
    let found = topics::ensure(&settings(broker), &wanted, patience).await.unwrap();
    if broker.is_real() {
        assert_eq!(found, []);
        scatter(&sink(broker), &narrow, 0..12).await;
        let taken = take(&mut source(broker, &narrow, &narrow), 12).await.messages;
        let partitions: BTreeSet<i32> = taken.iter().map(|message| message.partition).collect();
        assert_eq!(partitions, (0..12).collect());
    } else {
        assert_eq!(found, [Mismatch { topic: narrow, expected: 12, found: 1 }]);
    }
}

pub(crate) async fn missing_topics_are_made_where_the_broker_can(broker: TestBroker) {
    let topic = Topic::new(broker.unique("missing"), 5);
    let wanted = [topic.clone(), topic.dead_letters()];
    if broker.is_real() {
        for _ in 0..2 {
            assert_eq!(topics::ensure(&settings(broker), &wanted, PATIENCE).await.unwrap(), []);
        }
    } else {
        let refused = topics::ensure(&settings(broker), &wanted, UNANSWERED).await.unwrap_err();
        assert!(refused.to_string().contains(&topic.name), "{refused}");
    }
}

pub(crate) async fn a_topic_that_grows_is_noticed_where_the_broker_can(broker: TestBroker) {
    if !broker.is_real() {
        return; // Its topics never grow; they can be lost and created again, see `faults`.
    }
    let topic = broker.topic("replies", 2).await;
    let sink = sink(broker);
    let settings = KafkaSettings {
        properties: BTreeMap::from([("topic.metadata.refresh.interval.ms".into(), "500".into())]),
        ..settings(broker)
    };
    let mut source = KafkaSource::subscribe(&settings, &topic, &[&topic]).unwrap();
    scatter(&sink, &topic, 0..4).await;
    expect(&mut source, 0..4).await;
    assert_eq!(source.assignment().count, 2);

    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", broker.bootstrap_servers()).create().unwrap();
    admin.create_partitions(&[NewPartitions::new(&topic, 5)], &AdminOptions::new()).await.unwrap();
    let begun = Instant::now();
    while source.assignment().partitions.len() < 5 {
        assert!(begun.elapsed() < PATIENCE, "{:?}", source.assignment());
        source.receive(1, Duration::from_millis(50)).await.unwrap();
    }
    assert_eq!(source.assignment().count, 5);
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE, "the sink still sends to the old partition");
        sink.send(vec![message(&topic, Placement::Slot(4), 4)]).await.unwrap();
        let batch = source.receive(10, Duration::from_millis(50)).await.unwrap();
        if batch.messages.iter().any(|message| message.partition == 4) {
            return;
        }
    }
}

pub(crate) async fn a_topic_deleted_and_made_again_is_read_on_where_the_broker_can(broker: TestBroker) {
    if !broker.is_real() {
        return; // It can only lose everything, see `faults`.
    }
    let topic = broker.topic("replies", 4).await;
    let sink = sink(broker);
    let mut source = source(broker, &topic, &topic);
    scatter(&sink, &topic, 0..40).await;
    let batch = expect(&mut source, 0..40).await;
    source.commit(batch.receipt).unwrap();

    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", broker.bootstrap_servers()).create().unwrap();
    admin.delete_topics(&[&topic], &AdminOptions::new()).await.unwrap();
    let again = [Topic::new(&topic, 4)];
    topics::ensure(&settings(broker), &again, PATIENCE).await.unwrap();
    let (begun, mut missing) = (Instant::now(), BTreeSet::from([0, 1, 2, 3]));
    while !missing.is_empty() {
        assert!(begun.elapsed() < PATIENCE, "nothing comes from partitions {missing:?}");
        // Repeatedly, as the engine does while there is no answer; errors may occur meanwhile.
        let messages = (0..4).map(|slot| message(&topic, Placement::Slot(slot), slot)).collect();
        let _ = sink.send(messages).await;
        let Ok(batch) = source.receive(100, Duration::from_millis(100)).await else { continue };
        missing.retain(|partition| batch.messages.iter().all(|message| message.partition != *partition));
        source.commit(batch.receipt).unwrap();
    }
}
