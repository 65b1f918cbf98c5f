//! How the broker's clients encrypt and log in, and further properties of librdkafka.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use rdkafka::{ClientConfig, error::KafkaError, types::RDKafkaConfRes};

/// Properties on which the program relies: another value would lose messages, or read them twice.
const KEPT_PROPERTIES: [&str; 17] = [
    "acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "isolation.level",
    "message.timeout.ms",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "request.required.acks",
    "transactional.id",
];

/// How clients reach a broker that does not take plain connections.
#[derive(Debug, Clone, Default)]
pub struct Security {
    /// Encryption; `None` for a plain connection.
    pub tls: Option<Tls>,
    /// The login; `None` for none, or for the client certificate.
    pub login: Option<Login>,
}

/// Files of TLS, in PEM. librdkafka reads them when a client is created.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// The authorities that may have signed the broker's certificate; `None` for the system's.
    pub authorities: Option<PathBuf>,
    /// The client's certificate, with its chain.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// A login by SASL.
#[derive(Clone)]
pub struct Login {
    /// How the password is proved.
    pub mechanism: Mechanism,
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// How a password is proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// By a challenge, with SHA-512.
    ScramSha512,
    /// By a challenge, with SHA-256.
    ScramSha256,
    /// The password is sent as it is.
    Plain,
}

impl Mechanism {
    /// Returns its name in SASL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::Plain => "PLAIN",
        }
    }
}

impl Security {
    /// Returns librdkafka's properties for it.
    pub fn properties(&self) -> BTreeMap<String, String> {
        let mut properties = BTreeMap::new();
        let mut set = |key: &str, value: String| drop(properties.insert(key.to_owned(), value));
        let protocol = match (&self.tls, &self.login) {
            (None, None) => return BTreeMap::new(),
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        set("security.protocol", protocol.to_owned());
        if let Some(tls) = &self.tls {
            let path = |path: &PathBuf| path.to_string_lossy().into_owned();
            // The library of some other system looks for authorities at its own path; `probe` finds this system's.
            set("ssl.ca.location", tls.authorities.as_ref().map_or_else(|| "probe".to_owned(), path));
            if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) {
                set("ssl.certificate.location", path(certificate));
                set("ssl.key.location", path(key));
            }
        }
        if let Some(login) = &self.login {
            set("sasl.mechanism", login.mechanism.as_str().to_owned());
            set("sasl.username", login.user.clone());
            set("sasl.password", login.password.clone());
        }
        properties
    }
}

/// Why a property of librdkafka cannot be set. Its value is not repeated: it may be a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadProperty {
    /// This program relies on its own value.
    #[error("is set by this program, which relies on it")]
    Kept,
    /// librdkafka, as it was built, does not know it.
    #[error("is no property of librdkafka")]
    Unknown,
    /// librdkafka does not take the value.
    #[error("has a value that librdkafka does not take")]
    Value,
}

/// Checks a property of librdkafka.
///
/// # Errors
/// [`BadProperty`].
pub fn check_property(key: &str, value: &str) -> Result<(), BadProperty> {
    if KEPT_PROPERTIES.contains(&key) {
        return Err(BadProperty::Kept);
    }
    if value.contains('\0') {
        return Err(BadProperty::Value);
    }
    if key.contains('\0') {
        return Err(BadProperty::Unknown);
    }
    let mut config = ClientConfig::new();
    config.set(key, value);
    match config.create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => Err(BadProperty::Unknown),
        Err(_) => Err(BadProperty::Value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login() -> Login {
        Login { mechanism: Mechanism::ScramSha512, user: "u".into(), password: "hunter2".into() }
    }

    #[test]
    fn the_protocol_follows_from_what_is_secured() {
        let protocol = |tls: bool, sasl: bool| {
            let tls = tls.then(Tls::default);
            let security = Security { tls, login: sasl.then(login) };
            security.properties().remove("security.protocol")
        };
        assert_eq!(protocol(false, false), None);
        assert_eq!(protocol(true, false).as_deref(), Some("ssl"));
        assert_eq!(protocol(false, true).as_deref(), Some("sasl_plaintext"));
        assert_eq!(protocol(true, true).as_deref(), Some("sasl_ssl"));
    }

    #[test]
    fn every_property_that_secures_a_link_is_known_to_this_build() {
        let tls = Tls { certificate: Some("/c".into()), key: Some("/k".into()), ..Tls::default() };
        for mechanism in [Mechanism::ScramSha512, Mechanism::ScramSha256, Mechanism::Plain] {
            let login = Some(Login { mechanism, ..login() });
            for (key, value) in (Security { tls: Some(tls.clone()), login }).properties() {
                assert_eq!(check_property(&key, &value), Ok(()), "{key}");
            }
        }
    }

    #[test]
    fn a_property_that_is_kept_unknown_or_malformed_is_refused() {
        for (key, value, why) in [
            ("acks", "0", BadProperty::Kept),
            ("enable.auto.commit", "true", BadProperty::Kept),
            ("colour", "red", BadProperty::Unknown),
            ("", "", BadProperty::Unknown),
            ("a\0b", "", BadProperty::Unknown),
            ("socket.timeout.ms", "soon", BadProperty::Value),
            ("ssl.key.password", "a\0b", BadProperty::Value),
        ] {
            assert_eq!(check_property(key, value), Err(why), "{key}");
        }
        assert_eq!(check_property("socket.timeout.ms", "5000"), Ok(()));
    }

    #[test]
    fn a_password_is_not_shown() {
        let security = Security { tls: None, login: Some(login()) };
        assert!(!format!("{security:?}").contains("hunter2"));
    }
}
