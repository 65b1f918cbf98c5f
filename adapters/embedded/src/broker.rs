//! A Kafka broker in this process: librdkafka's mock cluster behind a stable address. For tests; `dev` runs it as a
//! separate process (`broker_process.rs`), because a client's request may abort it.
//!
//! It speaks the real protocol over TCP, with groups, headers and idempotent producers. It stores nothing durably:
//! everything is lost when it ends, and a partition keeps at most 5 MiB or 100,000 batches. What Postgres holds is
//! enough for Amends to drive every saga on. Its admin API does not answer: topics are created by
//! [`Broker::create_topic`].

use std::{io, net::SocketAddr, sync::Mutex};

use rdkafka::{
    ClientConfig,
    error::KafkaError,
    producer::{BaseProducer, Producer},
};

use crate::{proxy::Proxy, sys};

/// Options of an embedded broker.
#[derive(Debug, Clone, Default)]
pub struct BrokerOptions {
    /// The port, or `None` for a free one.
    pub port: Option<u16>,
}

/// Why a broker or topic could not be created.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on 127.0.0.1:{port}: {source}")]
    Listen {
        /// The requested port; 0 for any.
        port: u16,
        /// The system's error.
        source: io::Error,
    },
    /// librdkafka's mock cluster failed.
    #[error("embedded broker: {0}")]
    Mock(#[from] KafkaError),
    /// The broker's process did not start to serve.
    #[error("the embedded broker did not start: {0}")]
    Start(String),
}

/// A running broker. It ends when dropped.
pub struct Broker {
    // The order of the fields matters: connections are closed before the broker behind them ends.
    proxy: Proxy,
    mock: Mutex<Mock>,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("bootstrap_servers", &self.bootstrap_servers()).finish_non_exhaustive()
    }
}

impl Broker {
    /// Starts a broker without topics.
    pub fn start(options: BrokerOptions) -> Result<Self, Error> {
        let port = options.port.unwrap_or(0);
        let proxy = Proxy::listen(port).map_err(|source| Error::Listen { port, source })?;
        let mock = Mock::start(proxy.port())?;
        proxy.forward_to(Some(mock.address));
        let broker = Self { proxy, mock: Mutex::new(mock) };
        tracing::info!(brokers = broker.bootstrap_servers(), "the embedded Kafka broker is ready");
        Ok(broker)
    }

    /// Returns its address, for this process and others on this machine.
    pub fn bootstrap_servers(&self) -> String {
        format!("127.0.0.1:{}", self.proxy.port())
    }

    /// Creates a topic. An existing topic stays as it is.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<(), Error> {
        self.mock.lock().expect("nobody panics with the lock").create_topic(name, partitions)
    }

    /// Loses everything: topics, messages, groups and offsets, as if it had been killed and restarted. The address
    /// stays the same.
    pub fn forget(&self) -> Result<(), Error> {
        let mut mock = self.mock.lock().expect("nobody panics with the lock");
        self.proxy.forward_to(None);
        *mock = Mock::start(self.proxy.port())?;
        self.proxy.forward_to(Some(mock.address));
        Ok(())
    }

    /// Closes every connection and refuses new ones, or accepts them again. The broker keeps its data.
    pub fn set_reachable(&self, reachable: bool) {
        let mock = self.mock.lock().expect("nobody panics with the lock");
        self.proxy.forward_to(reachable.then_some(mock.address));
    }
}

/// One mock cluster, inside a client that is used for nothing else.
pub(crate) struct Mock {
    client: BaseProducer,
    /// The address at which it listens.
    pub(crate) address: SocketAddr,
}

impl Mock {
    /// Starts a cluster that advertises this port of 127.0.0.1.
    pub(crate) fn start(advertised: u16) -> Result<Self, Error> {
        let client: BaseProducer = ClientConfig::new()
            .set("test.mock.num.brokers", "1")
            .set("client.id", "embedded-broker")
            .set("log_level", "3")
            .create()?;
        let listening = client.client().mock_cluster().map(|cluster| cluster.bootstrap_servers());
        let address =
            listening.and_then(|address| address.parse().ok()).expect("it listens on an address and port");
        sys::rebalance_at_once(&client);
        sys::advertise(&client, advertised);
        Ok(Self { client, address })
    }

    /// Creates a topic. An existing topic stays as it is.
    pub(crate) fn create_topic(&self, name: &str, partitions: i32) -> Result<(), Error> {
        use rdkafka::types::RDKafkaErrorCode::TopicAlreadyExists;
        let cluster = self.client.client().mock_cluster().expect("the client was made with one");
        match cluster.create_topic(name, partitions, 1) {
            Err(KafkaError::MockCluster(TopicAlreadyExists)) => Ok(()),
            created => Ok(created?),
        }
    }
}
