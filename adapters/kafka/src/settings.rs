//! Settings of the broker's clients.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    config::RDKafkaLogLevel,
    error::KafkaError,
    producer::{BaseProducer, Producer},
};

use crate::{
    context::{self, Remembering},
    credentials::Credentials,
};

/// What every client of the broker needs to know.
#[derive(Clone)]
pub struct KafkaSettings {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    /// The client's name in the broker's logs and quotas.
    pub client_id: String,
    /// How long a silent consumer keeps its partitions. A broker refuses less than its `group.min.session.timeout.ms`,
    /// 6 s by default; the embedded one accepts 3 s.
    pub session_timeout: Duration,
    /// How long a message may take to be acknowledged before its sender gets an error.
    pub delivery_timeout: Duration,
    /// How long the broker may hold a fetch when there is nothing new. A real broker answers when there is; the
    /// embedded one does not, so that this is latency there.
    pub fetch_wait: Duration,
    /// Further properties of librdkafka, such as `security.protocol`. They override ours.
    pub properties: BTreeMap<String, String>,
    /// Changes of `sasl.username` and `sasl.password`. They override the properties. Clones of the settings share them.
    pub credentials: Credentials,
}

impl KafkaSettings {
    /// Returns settings for any broker with Kafka's default configuration.
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            client_id: "amends".into(),
            session_timeout: Duration::from_secs(6),
            delivery_timeout: Duration::from_secs(10),
            fetch_wait: Duration::from_millis(500),
            properties: BTreeMap::new(),
            credentials: Credentials::default(),
        }
    }

    /// Returns the settings common to all clients, plus `own`.
    pub(crate) fn client(&self, own: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config.set("client.id", &self.client_id);
        config.set("socket.nagle.disable", "true");
        // Reconnects within one second after the broker returns, not ten.
        config.set("reconnect.backoff.ms", "50");
        config.set("reconnect.backoff.max.ms", "1000");
        // A request that was lost on its way is sent again after ten seconds, not sixty.
        config.set("socket.timeout.ms", "10000");
        // How soon a topic that has grown is noticed.
        config.set("topic.metadata.refresh.interval.ms", "10000");
        for (key, value) in own {
            config.set(*key, *value);
        }
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        self.credentials.configure(&mut config);
        config
    }
}

/// Values of properties may be passwords: only their names are shown.
impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSettings")
            .field("brokers", &self.brokers)
            .field("client_id", &self.client_id)
            .field("session_timeout", &self.session_timeout)
            .field("delivery_timeout", &self.delivery_timeout)
            .field("fetch_wait", &self.fetch_wait)
            .field("properties", &self.properties.keys())
            .finish_non_exhaustive()
    }
}

/// Why a client could not be created.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No broker answered in time.
    #[error("no Kafka broker answers at {brokers}: {source}")]
    Unreachable {
        /// The brokers' addresses.
        brokers: String,
        /// librdkafka's error.
        source: KafkaError,
    },
    /// A broker was reached, and no connection was made: for example because its certificate or the password is wrong.
    #[error("no connection to Kafka at {brokers}: {reason}")]
    NoConnection {
        /// The brokers' addresses.
        brokers: String,
        /// Why the last one failed.
        reason: String,
    },
    /// Access control lists were not created.
    #[error("access control lists: {0}")]
    Acls(String),
    /// A setting is unknown or invalid.
    #[error("Kafka settings: {0}")]
    Settings(KafkaError),
    /// The broker did not create a topic.
    #[error("topic {topic} is missing and was not created: {reason}")]
    Topic {
        /// Its name.
        topic: String,
        /// The broker's reason.
        reason: String,
    },
}

/// What librdkafka says when a broker is there and no connection will ever be made.
const REFUSALS: [&str; 4] = [
    "SSL handshake failed",
    "SASL authentication error",
    "Authentication failed",
    "UnsupportedSaslMechanism",
];
/// What OpenSSL says of a broker's certificate, whatever is wrong with it.
const CERTIFICATE_REFUSED: &str = "certificate verify failed";
/// What a broker says to a client that has no certificate, or not a good one.
const OWN_CERTIFICATE_REFUSED: [&str; 5] = [
    "alert certificate required",
    "alert bad certificate",
    "alert certificate unknown",
    "alert certificate expired",
    "alert unknown ca",
];
/// Longest single question in a check: after each, the reason of a failed connection is looked at.
const CHECK_TURN: Duration = Duration::from_millis(500);
/// How long the client's log is read after each question.
const LOG_TURN: Duration = Duration::from_millis(10);

impl Error {
    /// Returns whether a broker has refused this client, or this client it. That does not pass by itself.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::NoConnection { reason, .. } => {
                REFUSALS.iter().chain(&OWN_CERTIFICATE_REFUSED).any(|refusal| reason.contains(refusal))
            }
            _ => false,
        }
    }
}

/// A client that only checks whether a broker answers. It is kept, because it has connections and threads.
#[derive(Clone)]
pub struct Contact {
    /// A producer, because of all clients it lets its log be read without joining or sending anything.
    client: Arc<BaseProducer<Remembering>>,
    brokers: String,
}

impl Contact {
    /// Creates the client.
    ///
    /// # Errors
    /// [`Error::Settings`].
    pub fn new(settings: &KafkaSettings) -> Result<Self, Error> {
        let mut config = settings.client(&[]);
        // Otherwise as much is logged as this program's filter lets through.
        config.set_log_level(RDKafkaLogLevel::Error);
        let client = config.create_with_context(Remembering::default()).map_err(Error::Settings)?;
        let client = Arc::new(client);
        settings.credentials.reach(&client);
        Ok(Self { client, brokers: settings.brokers.clone() })
    }

    /// Checks whether a broker answers in time.
    ///
    /// # Errors
    /// [`Error::Unreachable`] or [`Error::NoConnection`]. A refusal is returned at once.
    pub async fn check(&self, patience: Duration) -> Result<(), Error> {
        let contact = self.clone();
        context::finished(tokio::task::spawn_blocking(move || contact.ask(patience))).await
    }

    fn ask(&self, patience: Duration) -> Result<(), Error> {
        let (begun, client) = (Instant::now(), self.client.client());
        let mut failure = None;
        loop {
            let left = patience.saturating_sub(begun.elapsed());
            let answer = client.fetch_metadata(None, left.min(CHECK_TURN));
            self.client.poll(LOG_TURN);
            failure = client.context().take_failure().or(failure);
            let Err(source) = answer else { return Ok(()) };
            let brokers = self.brokers.clone();
            let error = match failure.clone() {
                Some(reason) => Error::NoConnection { brokers, reason: explained(reason) },
                None => Error::Unreachable { brokers, source },
            };
            if error.is_refusal() || begun.elapsed() >= patience {
                return Err(error);
            }
        }
    }
}

/// Adds what may be wrong with a certificate: librdkafka says of each that its authority is not known, and brokers say little
/// of a client's.
fn explained(reason: String) -> String {
    if reason.contains(CERTIFICATE_REFUSED) {
        return format!(
            "the broker's certificate is of another authority, is for another host, or has expired: {reason}"
        );
    }
    if OWN_CERTIFICATE_REFUSED.iter().any(|refusal| reason.contains(refusal)) {
        return format!(
            "the broker asks its clients for a certificate, and this one has none, or none that it takes: {reason}"
        );
    }
    reason
}

/// Checks whether a broker answers, at the start of a role, which gives up after some time. A running role never gives
/// up.
///
/// # Errors
/// As [`Contact`]'s.
pub async fn check(settings: &KafkaSettings, patience: Duration) -> Result<(), Error> {
    Contact::new(settings)?.check(patience).await
}
