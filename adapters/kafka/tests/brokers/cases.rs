//! Cases for every broker.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use amends_kafka::{
    EVENT_CONTENT_TYPE, KafkaSettings, KafkaSink, KafkaSource, check,
    topics::{self, Mismatch, Topic},
};
use amends_protocol::{
    CommandKey,
    transport::{Inbound, Placement, Sink, Source},
};
use amends_testkit::TestBroker;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewPartitions},
    client::DefaultClientContext,
    consumer::{Consumer, StreamConsumer},
    message::Headers,
};

use crate::world::{
    PATIENCE, expect, message, numbered, numbers, scatter, settings, sink, source, take, text,
};

/// How long an answer is waited for that does not come: long enough for those that do, also on a busy machine.
const UNANSWERED: Duration = Duration::from_secs(5);

pub(crate) async fn nothing_that_was_sent_is_lost(broker: TestBroker) {
    let topic = broker.topic("commands", 4).await;
    let sink = sink(broker);
    // Through both producers, and more messages than one receive returns.
    sink.send(numbered(&topic, Placement::Together, 0..1)).await.unwrap();
    sink.send(numbered(&topic, Placement::Together, 1..40)).await.unwrap();
    sink.send(numbered(&topic, Placement::Together, 40..1_000)).await.unwrap();
    expect(&mut source(broker, &topic, &topic), 0..1_000).await;
}

pub(crate) async fn a_batch_of_commands_stays_together_and_the_next_goes_elsewhere(broker: TestBroker) {
    let topic = broker.topic("commands", 4).await;
    let sink = sink(broker);
    for batch in 0..4 {
        sink.send(numbered(&topic, Placement::Together, batch * 20..(batch + 1) * 20)).await.unwrap();
    }
    let taken = take(&mut source(broker, &topic, &topic), 80).await;
    let mut partitions = BTreeMap::<u32, BTreeSet<i32>>::new();
    for message in &taken.messages {
        let batch = text(message).parse::<u32>().unwrap() / 20;
        partitions.entry(batch).or_default().insert(message.partition);
    }
    assert!(partitions.values().all(|partitions| partitions.len() == 1), "{partitions:?}");
    let all: BTreeSet<i32> = partitions.into_values().flatten().collect();
    assert_eq!(all.len(), 4, "every batch went to another partition");
}

/// As of orders that are placed one at a time: each is one command to each of three workers.
pub(crate) async fn calls_to_several_topics_in_turn_reach_every_partition_of_each(broker: TestBroker) {
    let (reserve, pay) = (broker.topic("reserve", 1).await, broker.topic("pay", 6).await);
    let sink = sink(broker);
    for order in 0..12 {
        sink.send(numbered(&reserve, Placement::Together, order..order + 1)).await.unwrap();
        sink.send(numbered(&pay, Placement::Together, order..order + 1)).await.unwrap();
        sink.send(numbered(&reserve, Placement::Together, order..order + 1)).await.unwrap();
    }
    let taken = take(&mut source(broker, &pay, &pay), 12).await;
    let reached: BTreeSet<i32> = taken.messages.iter().map(|message| message.partition).collect();
    assert_eq!(reached, (0..6).collect());
}

pub(crate) async fn replies_go_to_the_home_of_their_saga(broker: TestBroker) {
    let topic = broker.topic("replies", 6).await;
    let slots = [0, 5, 6, 1023];
    let messages = slots.map(|slot| message(&topic, Placement::Slot(slot), slot));
    sink(broker).send(messages.to_vec()).await.unwrap();
    let mut source = source(broker, &topic, &topic);
    for message in take(&mut source, slots.len()).await.messages {
        let slot: i32 = text(&message).parse().unwrap();
        assert_eq!(message.partition, slot % 6);
    }
    let assignment = source.assignment();
    assert_eq!((assignment.partitions, assignment.count), ((0..6).collect(), 6));
}

pub(crate) async fn the_trace_context_arrives(broker: TestBroker) {
    let topic = broker.topic("commands", 1).await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut traced = message(&topic, Placement::Together, "traced");
    traced.traceparent = Some(parent.into());
    let messages = vec![traced, message(&topic, Placement::Together, "untraced")];
    sink(broker).send(messages).await.unwrap();
    let taken = take(&mut source(broker, &topic, &topic), 2).await.messages;
    let found: BTreeMap<_, _> =
        taken.iter().map(|message| (text(message), message.traceparent.clone())).collect();
    assert_eq!(found["traced"].as_deref(), Some(parent));
    assert_eq!(found["untraced"], None);
}

pub(crate) async fn receiving_takes_what_is_there_and_waits_for_no_more(broker: TestBroker) {
    let topic = broker.topic("commands", 1).await;
    sink(broker).send(numbered(&topic, Placement::Together, 0..3)).await.unwrap();
    let mut source = source(broker, &topic, &topic);
    let for_ever = Duration::from_secs(3600);
    let batch =
        tokio::time::timeout(PATIENCE, source.receive(100, for_ever)).await.expect("it waits for no more");
    assert!((1..=3).contains(&batch.unwrap().messages.len()));
}

pub(crate) async fn nothing_comes_of_an_empty_topic_but_an_empty_batch(broker: TestBroker) {
    let topic = broker.topic("commands", 1).await;
    let mut source = source(broker, &topic, &topic);
    let batch = source.receive(100, Duration::from_millis(50)).await.unwrap();
    assert!(batch.messages.is_empty());
    source.commit(batch.receipt).unwrap();
}

pub(crate) async fn a_receive_that_is_dropped_loses_nothing(broker: TestBroker) {
    let topic = broker.topic("commands", 3).await;
    let sink = sink(broker);
    let mut source = source(broker, &topic, &topic);
    let mut found = Vec::new();
    let begun = Instant::now();
    for round in 0..50 {
        scatter(&sink, &topic, round * 10..(round + 1) * 10).await;
        // Dropped after this many microseconds, wherever it is then.
        let patience = Duration::from_micros(u64::from(round) * 100);
        if let Ok(batch) = tokio::time::timeout(patience, source.receive(7, PATIENCE)).await {
            found.extend(numbers(&batch.unwrap().messages));
        }
    }
    while found.len() < 500 && begun.elapsed() < PATIENCE {
        found.extend(numbers(&source.receive(100, Duration::from_millis(100)).await.unwrap().messages));
    }
    found.sort_unstable();
    assert_eq!(found, (0..500).collect::<Vec<_>>(), "each once");
}

pub(crate) async fn after_a_restart_the_group_goes_on_behind_what_was_settled(broker: TestBroker) {
    let topic = broker.topic("commands", 3).await;
    let sink = sink(broker);
    scatter(&sink, &topic, 0..30).await;
    let mut first = source(broker, &topic, &topic);
    let settled = expect(&mut first, 0..30).await;
    scatter(&sink, &topic, 30..40).await;
    expect(&mut first, 30..40).await;
    first.commit(settled.receipt).unwrap();
    drop(first);
    expect(&mut source(broker, &topic, &topic), 30..40).await;
}

pub(crate) async fn what_was_not_settled_comes_again_after_a_rewind(broker: TestBroker) {
    let topic = broker.topic("commands", 3).await;
    let sink = sink(broker);
    let mut source = source(broker, &topic, &topic);
    scatter(&sink, &topic, 0..30).await;
    expect(&mut source, 0..30).await;
    source.rewind().unwrap();
    let again = expect(&mut source, 0..30).await;
    source.commit(again.receipt).unwrap();
    scatter(&sink, &topic, 30..33).await;
    expect(&mut source, 30..33).await;
}

pub(crate) async fn a_rewind_behind_a_settled_batch_brings_back_only_what_came_later(broker: TestBroker) {
    let topic = broker.topic("commands", 3).await;
    let sink = sink(broker);
    let mut source = source(broker, &topic, &topic);
    scatter(&sink, &topic, 0..30).await;
    let settled = expect(&mut source, 0..30).await;
    source.commit(settled.receipt).unwrap();
    scatter(&sink, &topic, 30..60).await;
    take(&mut source, 20).await;
    source.rewind().unwrap();
    expect(&mut source, 30..60).await;
}

pub(crate) async fn two_members_share_the_partitions_and_what_moves_is_not_lost(broker: TestBroker) {
    let topic = broker.topic("replies", 6).await;
    let sink = sink(broker);
    let mut first = source(broker, &topic, &topic);
    scatter(&sink, &topic, 0..30).await;
    let before = expect(&mut first, 0..30).await;
    let alone = first.assignment();
    assert_eq!(alone.partitions, (0..6).collect::<Vec<_>>());

    // Messages that the first member has not settled go to the second with their partitions.
    let mut second = source(broker, &topic, &topic);
    let mut moved = Vec::new();
    let begun = Instant::now();
    while first.assignment().partitions.len() != 3 || moved.len() < 15 {
        assert!(begun.elapsed() < PATIENCE, "{:?} {:?}", first.assignment(), second.assignment());
        assert_eq!(first.receive(100, Duration::from_millis(20)).await.unwrap().messages, []);
        moved.extend(second.receive(100, Duration::from_millis(20)).await.unwrap().messages);
    }
    let (mine, theirs) = (first.assignment(), second.assignment());
    assert_ne!(mine.generation, alone.generation);
    let all: BTreeSet<i32> = mine.partitions.iter().chain(&theirs.partitions).copied().collect();
    assert_eq!((mine.partitions.len(), theirs.partitions.len(), all.len()), (3, 3, 6));
    assert!(moved.iter().all(|message| theirs.partitions.contains(&message.partition)));

    // Its old receipt moves the offsets of the partitions that it still has, and of no others.
    first.commit(before.receipt).unwrap();
    drop((first, second));
    scatter(&sink, &topic, 30..36).await;
    let unsettled = take(&mut source(broker, &topic, &topic), 21).await.messages;
    let expected: BTreeSet<u32> = numbers(&moved).into_iter().chain(30..36).collect();
    assert_eq!(numbers(&unsettled).into_iter().collect::<BTreeSet<_>>(), expected);
}

pub(crate) async fn a_rebalance_does_not_wait_long_for_a_member_that_does_not_come(broker: TestBroker) {
    let topic = broker.topic("replies", 2).await;
    let sink = sink(broker);
    let mut wedged = source(broker, &topic, &topic);
    scatter(&sink, &topic, 0..10).await;
    expect(&mut wedged, 0..10).await;

    // It processes its batch for ever, though it lives: its heartbeats continue.
    let mut second = source(broker, &topic, &topic);
    expect(&mut second, 0..10).await;

    // Once it is back, it gets its share again.
    let begun = Instant::now();
    while wedged.assignment().partitions.len() != 1 || second.assignment().partitions.len() != 1 {
        assert!(begun.elapsed() < PATIENCE, "{:?} {:?}", wedged.assignment(), second.assignment());
        let _ = wedged.receive(100, Duration::from_millis(20)).await;
        let _ = second.receive(100, Duration::from_millis(20)).await;
    }
}

pub(crate) async fn a_dead_letter_says_where_it_came_from_and_why(broker: TestBroker) {
    let topic = broker.topic("commands", 1).await;
    broker.create(&topics::dead_letter_topic(&topic), 1).await;
    let poison = Inbound { partition: 3, offset: 77, ..inbound(&topic, b"\xff not json".to_vec()) };
    sink(broker).dead_letter(&poison, "not JSON").await.unwrap();
    let (headers, bytes) = dead_letter(broker, &topic).await;
    let expected = [("reason", "not JSON"), ("topic", topic.as_str()), ("partition", "3"), ("offset", "77")];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(headers, BTreeMap::from(expected));
    assert_eq!(bytes, poison.bytes);
}

pub(crate) async fn what_a_sink_signs_arrives_with_its_signature_and_goes_on_as_a_dead_letter_with_it(
    broker: TestBroker,
) {
    let (topic, other) = (broker.topic("commands", 1).await, broker.topic("others", 1).await);
    broker.create(&topics::dead_letter_topic(&topic), 1).await;
    let key = CommandKey::new("k", [7; 32]);
    let sink = sink(broker).signing(HashMap::from([(topic.clone(), key.clone())]));
    sink.send(numbered(&topic, Placement::Together, 0..2)).await.unwrap();
    sink.send(numbered(&other, Placement::Together, 0..1)).await.unwrap();
    let signed = take(&mut source(broker, &topic, &topic), 2).await.messages;
    for message in &signed {
        assert_eq!(message.signature, Some(key.sign(&message.bytes)));
    }
    assert_eq!(take(&mut source(broker, &other, &other), 1).await.messages[0].signature, None);
    sink.dead_letter(&signed[0], "for a test").await.unwrap();
    let (headers, _) = dead_letter(broker, &topic).await;
    assert_eq!(headers.get("amends-signature"), signed[0].signature.as_ref());
}

pub(crate) async fn a_dead_letter_bigger_than_its_topic_allows_is_cut(broker: TestBroker) {
    if !broker.is_real() {
        return; // The embedded broker has no limit.
    }
    let topic = broker.topic("commands", 1).await;
    broker.create(&topics::dead_letter_topic(&topic), 1).await;
    let poison = inbound(&topic, vec![b'x'; 3_000_000]);
    sink(broker).dead_letter(&poison, "too deep").await.unwrap();
    let (headers, bytes) = dead_letter(broker, &topic).await;
    assert_eq!(headers["truncated-from"], "3000000");
    assert_eq!(headers["reason"], "too deep");
    assert!(poison.bytes.starts_with(&bytes) && !bytes.is_empty());
}

pub(crate) async fn domain_events_arrive_in_the_order_they_were_sent(broker: TestBroker) {
    let topic = broker.topic("events", 3).await;
    let sink = KafkaSink::of_events(&settings(broker)).unwrap();
    for batch in 0..10 {
        sink.send(numbered(&topic, Placement::Slot(7), batch * 50..(batch + 1) * 50)).await.unwrap();
    }
    let taken = take(&mut source(broker, &topic, &topic), 500).await;
    assert_eq!(numbers(&taken.messages), (0..500).collect::<Vec<_>>());
    // Slot 7 of three partitions. It says what it is, as CloudEvents' binding for Kafka wants it.
    let (headers, _) = first_message(broker, &topic, 1).await;
    assert_eq!(headers["content-type"], EVENT_CONTENT_TYPE);
}

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

#[tokio::test]
async fn a_broker_that_is_not_there_is_one_line() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = KafkaSettings::new(format!("127.0.0.1:{port}"));
    let refused = check(&settings, Duration::from_millis(300)).await.unwrap_err().to_string();
    assert!(refused.contains(&settings.brokers) && !refused.contains('\n'), "{refused}");
}

#[tokio::test]
async fn a_property_that_librdkafka_does_not_know_is_named() {
    let mut settings = KafkaSettings::new("127.0.0.1:1");
    settings.properties.insert("no.such.property".into(), "secret".into());
    let refused = KafkaSink::new(&settings).err().expect("it is refused").to_string();
    assert!(refused.contains("no.such.property"), "{refused}");
    assert!(!format!("{settings:?}").contains("secret"));
}

fn inbound(topic: &str, bytes: Vec<u8>) -> Inbound {
    Inbound { topic: topic.into(), partition: 0, offset: 0, traceparent: None, signature: None, bytes }
}

/// Returns the first message of a topic's DLT: headers and bytes.
async fn dead_letter(broker: TestBroker, topic: &str) -> (BTreeMap<String, String>, Vec<u8>) {
    first_message(broker, &topics::dead_letter_topic(topic), 0).await
}

/// Reads the headers and the content of a partition's first message.
async fn first_message(
    broker: TestBroker,
    topic: &str,
    partition: i32,
) -> (BTreeMap<String, String>, Vec<u8>) {
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker.bootstrap_servers())
        .set("group.id", topic)
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    let message = tokio::time::timeout(PATIENCE, consumer.recv()).await.expect("it is there").unwrap();
    let headers = message.headers().unwrap().iter().map(|header| {
        let value = String::from_utf8(header.value.unwrap().to_vec()).unwrap();
        (header.key.to_owned(), value)
    });
    (headers.collect(), message.payload().unwrap().to_vec())
}
