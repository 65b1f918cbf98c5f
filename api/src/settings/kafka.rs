//! How Kafka's clients encrypt and log in, and further properties of librdkafka.

use std::collections::{BTreeMap, HashMap};

use amends_kafka::{Login, Mechanism, Security, Tls};
use config::{Value, ValueKind};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{Error, Settings, refused, syntax::claim};

/// What the settings that librdkafka receives as they are begin with.
pub(super) const PROPERTIES: &str = "rdkafka.";

/// How the password is proved to the broker.
#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
pub enum SaslMechanism {
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    #[serde(rename = "PLAIN")]
    Plain,
}

impl SaslMechanism {
    /// Returns its name.
    pub fn as_str(self) -> &'static str {
        Mechanism::from(self).as_str()
    }
}

impl From<SaslMechanism> for Mechanism {
    fn from(mechanism: SaslMechanism) -> Self {
        match mechanism {
            SaslMechanism::ScramSha512 => Self::ScramSha512,
            SaslMechanism::ScramSha256 => Self::ScramSha256,
            SaslMechanism::Plain => Self::Plain,
        }
    }
}

impl Settings {
    /// Returns how Kafka's clients encrypt and log in.
    pub fn kafka_security(&self) -> Security {
        let tls = self.kafka_tls.then(|| Tls {
            authorities: self.kafka_ca_file.clone(),
            certificate: self.kafka_certificate_file.clone(),
            key: self.kafka_key_file.clone(),
        });
        let login = self.kafka_sasl_user.as_ref().zip(self.kafka_sasl_password.as_ref());
        let login = login.map(|(user, password)| Login {
            mechanism: self.kafka_sasl_mechanism.into(),
            user: user.clone(),
            password: password.expose_secret().to_owned(),
        });
        Security { tls, login }
    }

    /// Returns whether Kafka's clients log in by `kafka_sasl_password`, and not by properties of their own.
    pub fn gives_kafka_password(&self) -> bool {
        let is_own = |key: &str| self.kafka_properties.contains_key(key);
        self.kafka_sasl_password.is_some() && !["sasl.username", "sasl.password"].into_iter().any(is_own)
    }
}

/// What belongs together is set together, so that no link is less secured than its settings seem to say.
pub(super) fn check(settings: &Settings) -> Result<(), Error> {
    for (key, path) in [
        ("kafka_ca_file", &settings.kafka_ca_file),
        ("kafka_certificate_file", &settings.kafka_certificate_file),
        ("kafka_key_file", &settings.kafka_key_file),
    ] {
        if path.is_some() && !settings.kafka_tls {
            refused(key, "needs kafka_tls = true")?;
        }
    }
    let is_pair = settings.kafka_certificate_file.is_some() == settings.kafka_key_file.is_some();
    if !is_pair {
        refused("kafka_certificate_file", "and kafka_key_file must be set together")?;
    }
    match (&settings.kafka_sasl_user, &settings.kafka_sasl_password) {
        (Some(user), Some(_)) => claim("kafka_sasl_user", user)?,
        (Some(user), None) => {
            claim("kafka_sasl_user", user)?;
            refused("kafka_sasl_password", "must be set beside kafka_sasl_user")?;
        }
        (None, Some(_)) => refused("kafka_sasl_user", "must be set beside kafka_sasl_password")?,
        (None, None) => {}
    }
    let sends_password =
        settings.kafka_sasl_user.is_some() && settings.kafka_sasl_mechanism == SaslMechanism::Plain;
    if sends_password && !settings.kafka_tls {
        refused("kafka_sasl_mechanism", "PLAIN sends the password as it is: it needs kafka_tls = true")?;
    }
    let password = settings.kafka_sasl_password.as_ref().map(ExposeSecret::expose_secret);
    if password.is_some_and(|password| password.contains('\0')) {
        refused("kafka_sasl_password", "must be a text without NUL")?;
    }
    Ok(())
}

/// Takes the properties of librdkafka out of all keys. In a file they are a table, in the environment their dots are
/// `__`; both arrive as tables within tables.
pub(super) fn take_properties(
    keys: &mut HashMap<String, Value>,
) -> Result<BTreeMap<String, SecretString>, Error> {
    let mut properties = BTreeMap::new();
    if let Some(value) = keys.remove(PROPERTIES.trim_end_matches('.')) {
        flatten("", value, &mut properties)?;
    }
    for (key, value) in &properties {
        amends_kafka::check_property(key, value.expose_secret())
            .map_err(|why| Error::Invalid(format!("{PROPERTIES}{key}: {why}")))?;
    }
    Ok(properties)
}

fn flatten(path: &str, value: Value, into: &mut BTreeMap<String, SecretString>) -> Result<(), Error> {
    let bad = |why: &str| Error::Invalid(format!("{PROPERTIES}{path}: {why}"));
    match value.kind {
        ValueKind::Table(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key } else { format!("{path}.{key}") };
                flatten(&path, value, into)?;
            }
        }
        ValueKind::Array(_) => return Err(bad("must be a text")),
        _ if path.is_empty() => {
            return Err(Error::Invalid(
                "rdkafka: must be a property and its value, such as rdkafka.socket.timeout.ms=5000"
                    .to_owned(),
            ));
        }
        _ => {
            let text = value.into_string().map_err(|_| bad("must be a text"))?;
            into.insert(path.to_owned(), text.into());
        }
    }
    Ok(())
}
