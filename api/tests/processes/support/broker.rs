//! What carries the messages of one test: an embedded broker, or an Apache Kafka of the test's own.

use std::net::SocketAddr;

use amends_api::{services, settings::Settings, topics};
use amends_embedded::BrokerOptions;
use amends_proof::{
    campaign::broker::Broker as Admin,
    deployment::{Kafka, KafkaOptions},
};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

/// A broker without topics.
pub enum Broker {
    /// In this process; it can be made to forget.
    Embedded(amends_embedded::Broker),
    /// A Java process; nothing of it is left behind.
    Apache(Apache),
}

/// An Apache Kafka. Topics and groups have the names that they always have, so no two tests can share one.
pub struct Apache {
    kafka: Kafka,
    pub admin: Admin,
    _data: TempDir,
    /// One at a time: two of each role beside a Java machine are enough for two cores.
    _turn: MutexGuard<'static, ()>,
}

impl Broker {
    pub fn embedded() -> Self {
        Self::Embedded(amends_embedded::Broker::start(BrokerOptions::default()).unwrap())
    }

    /// `None` where there is no real one; a line says why.
    pub async fn apache() -> Option<Self> {
        static TURN: Mutex<()> = Mutex::const_new(());
        if !amends_testkit::has_real_kafka().await {
            return None;
        }
        let turn = TURN.lock().await;
        let data = tempfile::tempdir().unwrap();
        // As short a session as the embedded one allows.
        let properties = vec!["group.min.session.timeout.ms=3000".to_owned()];
        let options = KafkaOptions { properties, ..KafkaOptions::default() };
        let kafka = Kafka::start(data.path().to_owned(), options).await.unwrap();
        let admin = Admin::new(kafka.address()).unwrap();
        Some(Self::Apache(Apache { kafka, admin, _data: data, _turn: turn }))
    }

    pub fn bootstrap_servers(&self) -> String {
        match self {
            Self::Embedded(broker) => broker.bootstrap_servers(),
            Self::Apache(apache) => SocketAddr::to_string(&apache.kafka.address()),
        }
    }

    /// The real one, where a test is for it only.
    pub fn real(&self) -> Option<&Apache> {
        match self {
            Self::Embedded(_) => None,
            Self::Apache(apache) => Some(apache),
        }
    }

    /// All topics, as they are made when a deployment starts. On a real broker the roles make them.
    pub fn create_topics(&self) {
        let Self::Embedded(broker) = self else { return };
        let mut settings = Settings::read(&services::names(), None, &[]).unwrap();
        (settings.command_partitions, settings.reply_partitions) = (4, 4);
        for topic in topics::all(&settings) {
            broker.create_topic(&topic.name, topic.partitions).unwrap();
        }
    }

    /// The embedded one loses all topics, messages and groups, and has its topics again.
    pub fn forget(&self) {
        let Self::Embedded(broker) = self else { panic!("an Apache Kafka does not forget") };
        broker.forget().unwrap();
        self.create_topics();
    }
}

/// Each case on the embedded broker with one of each role, and with two of each on a real Apache Kafka where there is
/// one.
macro_rules! on_every_broker {
    ($($case:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(crate::support::Broker::embedded()).await;
            })*
        }

        crate::support::on_apache!($($case),*);
    };
}

/// Each case on a real Apache Kafka where there is one.
macro_rules! on_apache {
    ($($case:ident),* $(,)?) => {
        mod apache {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                if let Some(broker) = crate::support::Broker::apache().await {
                    super::$case(broker).await;
                }
            })*
        }
    };
}

pub(crate) use {on_apache, on_every_broker};
