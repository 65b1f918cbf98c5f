//! The Kafka broker that the tests of this process share.

use std::{env, sync::LazyLock, time::Duration};

use amends_embedded::{Broker, BrokerOptions};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};
use tokio::sync::OnceCell;

use crate::apache;

/// A broker for tests. Topics get unique names, so that tests do not affect each other.
#[derive(Debug, Clone, Copy)]
pub struct TestBroker {
    kind: &'static Kind,
}

#[derive(Debug)]
enum Kind {
    Embedded(Broker),
    Real { brokers: String },
}

/// Returns the broker named by `AMENDS_TEST_KAFKA_BROKERS`, or this process' own embedded one.
pub async fn broker() -> TestBroker {
    static BROKER: LazyLock<Kind> = LazyLock::new(|| match env::var("AMENDS_TEST_KAFKA_BROKERS") {
        Ok(brokers) => Kind::Real { brokers },
        Err(_) => Kind::Embedded(Broker::start(BrokerOptions::default()).expect("a broker for tests starts")),
    });
    TestBroker { kind: &BROKER }
}

/// Returns a real Apache Kafka, started once per process if [`crate::has_real_kafka`].
pub async fn real_kafka() -> Option<TestBroker> {
    static REAL: OnceCell<Option<Kind>> = OnceCell::const_new();
    let kind = REAL.get_or_init(|| async { apache::brokers().await.map(|brokers| Kind::Real { brokers }) });
    kind.await.as_ref().map(|kind| TestBroker { kind })
}

impl TestBroker {
    /// Returns its address.
    pub fn bootstrap_servers(&self) -> String {
        match self.kind {
            Kind::Embedded(broker) => broker.bootstrap_servers(),
            Kind::Real { brokers } => brokers.clone(),
        }
    }

    /// Returns whether it is an Apache Kafka, with an admin API and durable storage.
    pub fn is_real(&self) -> bool {
        matches!(self.kind, Kind::Real { .. })
    }

    /// Returns the shortest session timeout that a group may use.
    pub fn session_timeout(&self) -> Duration {
        Duration::from_secs(if self.is_real() { 6 } else { 3 })
    }

    /// Returns how long it may hold a fetch: new messages do not wake the embedded broker.
    pub fn fetch_wait(&self) -> Duration {
        Duration::from_millis(if self.is_real() { 500 } else { 10 })
    }

    /// Returns a unique name for a topic or a group.
    pub fn unique(&self, name: &str) -> String {
        format!("{:016x}.{name}", rand::random::<u64>())
    }

    /// Creates a topic with a unique name, which it returns.
    pub async fn topic(&self, name: &str, partitions: i32) -> String {
        let topic = self.unique(name);
        self.create(&topic, partitions).await;
        topic
    }

    /// Creates a topic with exactly this name.
    pub async fn create(&self, topic: &str, partitions: i32) {
        match self.kind {
            Kind::Embedded(broker) => broker.create_topic(topic, partitions).expect("a topic can be created"),
            Kind::Real { brokers } => {
                let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
                    .set("bootstrap.servers", brokers)
                    .create()
                    .expect("an admin client can be made");
                let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
                let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
                let created = admin.create_topics([&new], &options).await.expect("the broker answers");
                created.into_iter().for_each(|topic| drop(topic.expect("a topic can be created")));
            }
        }
    }
}
