//! The broker of one test: an embedded one, or the test's own Apache Kafka.

use std::{fs, net::SocketAddr, path::PathBuf};

use amends_api::{services, settings::Settings, topics};
use amends_embedded::BrokerOptions;
use amends_proof::{
    campaign::broker::Broker as Admin,
    deployment::{Kafka, KafkaOptions},
};
use amends_testkit::tls::{Authority, Issued};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

/// A broker without topics.
pub enum Broker {
    /// In this process; a test can make it lose its data.
    Embedded(amends_embedded::Broker),
    /// A Java process, with all its data removed at the end.
    Apache(Apache),
    /// The same, which takes encrypted connections with a password, or with a client's certificate, only.
    Secured(Secured),
}

/// An Apache Kafka that takes encrypted connections with a password, or with a client's certificate, only. Each user's
/// password is its name.
pub struct Secured {
    kafka: Kafka,
    keystore: PathBuf,
    authority: PathBuf,
    _data: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Secured {
    /// Changes the password of a user. Open connections stay.
    pub async fn change_password(&self, user: &str, password: &str) {
        let client = [
            "security.protocol=SASL_SSL".to_owned(),
            "sasl.mechanism=SCRAM-SHA-512".to_owned(),
            format!("sasl.jaas.config={SCRAM_LOGIN} username=\"{KAFKA_ADMIN}\" password=\"{KAFKA_ADMIN}\";"),
            "ssl.truststore.type=PEM".to_owned(),
            format!("ssl.truststore.location={}", self.authority.display()),
        ];
        amends_testkit::change_kafka_password(&self.kafka.address().to_string(), &client, user, password)
            .await;
    }

    /// Restarts it with another certificate.
    pub async fn present(&mut self, issued: &Issued) {
        fs::copy(&issued.both, &self.keystore).unwrap();
        self.kafka.restart().await.unwrap();
    }
}

/// The superuser of a secured broker, as which the broker connects to itself.
pub const KAFKA_ADMIN: &str = "admin";

/// How Java names the login by SCRAM.
const SCRAM_LOGIN: &str = "org.apache.kafka.common.security.scram.ScramLoginModule required";

/// An Apache Kafka. Topics and groups have fixed names, so two tests cannot share one.
pub struct Apache {
    kafka: Kafka,
    pub admin: Admin,
    _data: TempDir,
    /// Only one test at a time: two processes of each role beside a JVM are enough for two cores.
    _turn: MutexGuard<'static, ()>,
}

/// One Java process at a time.
static TURN: Mutex<()> = Mutex::const_new(());

impl Broker {
    pub fn embedded() -> Self {
        Self::Embedded(amends_embedded::Broker::start(BrokerOptions::default()).unwrap())
    }

    /// One that takes encrypted connections of these users only, who may do only what ACLs allow. `None` if there is no
    /// real one; prints a line that says why.
    pub async fn secured(issued: &Issued, authority: &Authority, users: &[String]) -> Option<Self> {
        if !amends_testkit::has_real_kafka().await {
            return None;
        }
        let properties = vec![
            "sasl.enabled.mechanisms=SCRAM-SHA-512,SCRAM-SHA-256".to_owned(),
            "sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512".to_owned(),
            format!(
                "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={SCRAM_LOGIN} username=\"{KAFKA_ADMIN}\" password=\"{KAFKA_ADMIN}\";"
            ),
            format!("listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={SCRAM_LOGIN};"),
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned(),
            // Without a name: the controller's own listener, which is of this process alone.
            format!("super.users=User:{KAFKA_ADMIN};User:ANONYMOUS"),
        ];
        let users = users.iter().cloned().chain([KAFKA_ADMIN.to_owned()]).collect();
        let options = KafkaOptions {
            properties,
            protocol: Some("SASL_SSL".to_owned()),
            users,
            ..KafkaOptions::default()
        };
        Some(Self::encrypted(issued, authority, options).await)
    }

    /// One that takes encrypted connections of those only who have a certificate of this authority. `None` if there is no
    /// real one; prints a line that says why.
    pub async fn certified(issued: &Issued, authority: &Authority) -> Option<Self> {
        if !amends_testkit::has_real_kafka().await {
            return None;
        }
        let properties = vec!["ssl.client.auth=required".to_owned()];
        let protocol = Some("SSL".to_owned());
        let options = KafkaOptions { properties, protocol, ..KafkaOptions::default() };
        Some(Self::encrypted(issued, authority, options).await)
    }

    async fn encrypted(issued: &Issued, authority: &Authority, mut options: KafkaOptions) -> Self {
        let turn = TURN.lock().await;
        let data = tempfile::tempdir().unwrap();
        let keystore = data.path().join("keystore.pem");
        fs::copy(&issued.both, &keystore).unwrap();
        options.properties.extend([
            "group.min.session.timeout.ms=3000".to_owned(),
            "ssl.keystore.type=PEM".to_owned(),
            format!("ssl.keystore.location={}", keystore.display()),
            "ssl.truststore.type=PEM".to_owned(),
            format!("ssl.truststore.location={}", authority.file().display()),
        ]);
        let kafka = Kafka::start(data.path().join("kafka"), options).await.unwrap();
        Self::Secured(Secured {
            kafka,
            keystore,
            authority: authority.file().to_owned(),
            _data: data,
            _turn: turn,
        })
    }

    /// Returns the secured broker, for tests that need one.
    pub fn as_secured(&mut self) -> &mut Secured {
        match self {
            Self::Secured(secured) => secured,
            _ => panic!("this broker takes plain connections"),
        }
    }

    /// `None` if there is no real one; prints a line that says why.
    pub async fn apache() -> Option<Self> {
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
            Self::Secured(secured) => SocketAddr::to_string(&secured.kafka.address()),
        }
    }

    /// Returns the real broker, for tests that need one.
    pub fn real(&self) -> Option<&Apache> {
        match self {
            Self::Embedded(_) | Self::Secured(_) => None,
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

/// Runs each case once, because it takes a minute: on a real Apache Kafka if there is one, else on the embedded broker.
macro_rules! on_the_best_broker {
    ($($case:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                if amends_testkit::has_real_kafka().await {
                    return println!("left out here: it runs on a real Apache Kafka");
                }
                super::$case(crate::support::Broker::embedded()).await;
            })*
        }

        crate::support::on_apache!($($case),*);
    };
}

pub(crate) use {on_apache, on_every_broker, on_the_best_broker};
