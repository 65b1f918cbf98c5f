//! The broker of one test: an embedded one, or the test's own Apache Kafka.

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
    /// In this process; a test can make it lose its data.
    Embedded(amends_embedded::Broker),
    /// A Java process, with all its data removed at the end.
    Apache(Apache),
}

/// An Apache Kafka. Topics and groups have fixed names, so two tests cannot share one.
pub struct Apache {
    kafka: Kafka,
    pub admin: Admin,
    _data: TempDir,
    /// Only one test at a time: two processes of each role beside a JVM are enough for two cores.
    _turn: MutexGuard<'static, ()>,
}

impl Broker {
    pub fn embedded() -> Self {
        Self::Embedded(amends_embedded::Broker::start(BrokerOptions::default()).unwrap())
    }

    /// `None` if there is no real one; prints a line that says why.
    pub async fn apache() -> Option<Self> {
        static TURN: Mutex<()> = Mutex::const_new(());
        if !amends_testkit::has_real_kafka().await {
            return None;
        }
        let turn = TURN.lock().await;
        let data = tempfile::tempdir().unwrap();
        // As short a session as the embedded broker allows.
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

    /// Returns the real broker, for tests that need one.
    pub fn real(&self) -> Option<&Apache> {
        match self {
            Self::Embedded(_) => None,
            Self::Apache(apache) => Some(apache),
        }
    }

    /// Creates all topics, as at the start of a deployment. On a real broker the roles create them.
    pub fn create_topics(&self) {
        let Self::Embedded(broker) = self else { return };
        let mut settings = Settings::read(&services::names(), None, &[]).unwrap();
        (settings.command_partitions, settings.reply_partitions) = (4, 4);
        for topic in topics::all(&settings) {
            broker.create_topic(&topic.name, topic.partitions).unwrap();
        }
    }

    /// Makes the embedded broker lose all topics, messages and groups, and creates its topics again.
    pub fn forget(&self) {
        let Self::Embedded(broker) = self else { panic!("an Apache Kafka does not forget") };
        broker.forget().unwrap();
        self.create_topics();
    }
}

/// Runs each case on the embedded broker with one process of each role, and on a real Apache Kafka, if there is one,
/// with two of each.
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

/// Runs each case on a real Apache Kafka, if there is one.
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
