//! A real Apache Kafka to which clients log in by a password, which changes while they run.

use std::time::{Duration, Instant};

use amends_kafka::{
    Contact, Error, KafkaSettings, KafkaSink, KafkaSource, Login, Mechanism, Security, topics,
};
use amends_protocol::transport::{Outbound, Placement, Sink, Source};
use amends_testkit::{SecuredKafka, eventually};

use crate::world::{PATIENCE, message, text};

const TOPIC: &str = "replies";
const USER: &str = "amends_payment";

/// Returns the settings of a user whose password is its name.
fn settings(kafka: &SecuredKafka) -> KafkaSettings {
    let login = Login { mechanism: Mechanism::ScramSha512, user: USER.into(), password: USER.into() };
    KafkaSettings {
        delivery_timeout: Duration::from_secs(5),
        properties: Security { tls: None, login: Some(login) }.properties(),
        ..KafkaSettings::new(kafka.bootstrap_servers())
    }
}

fn one(what: &str) -> Vec<Outbound> {
    vec![message(TOPIC, Placement::Slot(0), what)]
}

/// Sends as a caller does that asks again after an error.
async fn send(sink: &KafkaSink, what: &str) {
    eventually(&format!("{what} is sent"), PATIENCE, || async { sink.send(one(what)).await.ok() }).await;
}

/// Receives, and settles what it receives, until this message arrives.
async fn receive(source: &mut KafkaSource, what: &str) {
    let begun = Instant::now();
    loop {
        // Errors are returned while the broker is away.
        if let Ok(batch) = source.receive(10, Duration::from_millis(100)).await {
            source.commit(batch.receipt).unwrap();
            if batch.messages.iter().any(|message| text(message) == what) {
                return;
            }
        }
        assert!(begun.elapsed() < PATIENCE, "{what} has not come");
    }
}

async fn answers(contact: &Contact) {
    let ask = || async { contact.check(Duration::from_secs(2)).await.ok() };
    eventually("the broker answers", PATIENCE, ask).await;
}

/// Waits until a client is refused that has this contact.
async fn is_refused(contact: &Contact) {
    let ask = || async { contact.check(Duration::from_secs(2)).await.err().filter(Error::is_refusal) };
    eventually("the password is refused", PATIENCE, ask).await;
}

#[tokio::test]
async fn running_clients_go_on_after_a_changed_password_and_not_before_they_have_it() {
    let Some(mut kafka) = SecuredKafka::start(USER).await else { return };
    let settings = settings(&kafka);
    let topic = [topics::Topic::new(TOPIC, 2)];
    let made = || async { topics::ensure(&settings, &topic, PATIENCE).await.ok() };
    eventually("the topic is made", PATIENCE, made).await;
    let [sink, idle] = [(); 2].map(|()| KafkaSink::new(&settings).unwrap());
    let events = KafkaSink::of_events(&settings).unwrap();
    let mut source = KafkaSource::subscribe(&settings, "group", &[TOPIC]).unwrap();
    let contact = Contact::new(&settings).unwrap();
    answers(&contact).await;
    send(&sink, "first").await;
    send(&events, "first event").await;
    receive(&mut source, "first event").await;

    kafka.change_password("another").await;
    kafka.restart().await;
    is_refused(&contact).await;
    sink.send(one("refused")).await.unwrap_err();
    amends_kafka::check(&settings, PATIENCE).await.expect_err("a new client has the old password, too");

    settings.credentials.change(USER, "another").unwrap();
    answers(&contact).await;
    for (sink, what) in [(&sink, "goes on"), (&idle, "was idle"), (&events, "event")] {
        send(sink, what).await;
        receive(&mut source, what).await;
    }
    amends_kafka::check(&settings, PATIENCE).await.expect("a new client has the new password");

    // A change alone breaks nothing: what is connected stays so, and the source keeps its partitions.
    let before = source.assignment();
    kafka.change_password("a third").await;
    settings.credentials.change(USER, "a third").unwrap();
    send(&sink, "stays").await;
    receive(&mut source, "stays").await;
    assert_eq!(source.assignment(), before);

    kafka.restart().await;
    send(&sink, "again").await;
    receive(&mut source, "again").await;
}
