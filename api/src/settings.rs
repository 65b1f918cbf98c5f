//! Settings: flags, environment, a TOML file, and defaults, in that order. An unknown, malformed or out-of-range
//! setting stops the start with one line that names it.

mod commented;
mod files;
mod kafka;
mod lost_commits;
mod ranges;
mod redacted;
mod services;
mod syntax;
mod traces;

use std::{
    collections::{BTreeMap, HashMap},
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use amends_postgres::Homes;
use amends_webhooks::{Reach, RetryPolicy, SealingKeys};
use config::{Config, Environment, File, FileFormat, Value, ValueKind};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::remote::TOKEN_VARIABLE;

pub use files::SecretFile;
pub(crate) use files::content as secret_in;
pub use kafka::SaslMechanism;
pub use lost_commits::LostCommits;
pub use redacted::redacted;
use services::ServiceSettings;
pub use traces::OtlpProtocol;

/// The defaults, as `amends config` prints them and as they are compiled in.
pub const DEFAULTS: &str = include_str!("../amends.default.toml");

/// Environment variables of the tests, and of commands that ask an api.
#[cfg(not(feature = "failpoints"))]
const NOT_SETTINGS: [&str; 3] = ["AMENDS_TEST_", "AMENDS_CONFIG", TOKEN_VARIABLE];
#[cfg(feature = "failpoints")]
const NOT_SETTINGS: [&str; 4] = ["AMENDS_TEST_", "AMENDS_CONFIG", "AMENDS_FAILPOINT", TOKEN_VARIABLE];

/// Settings whose variable has no prefix.
const BARE_VARIABLES: [&str; 5] =
    ["database_url", "database_url_file", "kafka_brokers", "redis_url", "redis_url_file"];

/// All settings. `amends.default.toml` explains each.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub listen: Option<SocketAddr>,
    pub metrics_listen: Option<SocketAddr>,
    pub no_auth: bool,
    pub jwks_url: Option<String>,
    pub jwt_key_file: Option<PathBuf>,
    pub jwt_issuer: Option<String>,
    pub jwt_audience: Option<String>,
    pub roles_claim: String,
    pub allowed_hosts: String,
    pub cors_origins: String,
    pub http_connections: u32,
    pub rate_limit_subject: u32,
    pub rate_limit_address: u32,
    pub forwarding_proxies: u32,
    pub concurrent_requests: u32,
    pub compression: bool,
    pub service_token: Option<SecretString>,
    pub webhook_key: Option<SecretString>,
    #[serde(default)]
    pub webhook_allow_private: Option<bool>,
    pub webhook_ca_file: Option<PathBuf>,
    #[serde(with = "humantime_serde")]
    pub webhook_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub webhook_retry_least: Duration,
    #[serde(with = "humantime_serde")]
    pub webhook_retry_most: Duration,
    #[serde(with = "humantime_serde")]
    pub webhook_patience: Duration,
    #[serde(with = "humantime_serde")]
    pub webhook_secret_overlap: Duration,
    pub smtp_url: Option<String>,
    pub smtp_user: Option<String>,
    pub smtp_password_file: Option<PathBuf>,
    pub smtp_ca_file: Option<PathBuf>,
    pub mail_from: Option<String>,
    pub sms_webhook_url: Option<String>,
    pub sms_webhook_secret_file: Option<PathBuf>,
    pub notification_locale: String,
    #[serde(with = "humantime_serde")]
    pub notification_patience: Duration,
    pub notification_previews: bool,
    pub database_url: Option<SecretString>,
    pub database_connections: u32,
    #[serde(default)]
    pub distributed: Option<Distributed>,
    pub homes: u16,
    pub admission: u32,
    pub kafka_brokers: Option<String>,
    pub kafka_tls: bool,
    pub kafka_ca_file: Option<PathBuf>,
    pub kafka_certificate_file: Option<PathBuf>,
    pub kafka_key_file: Option<PathBuf>,
    pub kafka_sasl_mechanism: SaslMechanism,
    pub kafka_sasl_user: Option<String>,
    pub kafka_sasl_password: Option<SecretString>,
    pub redis_url: Option<SecretString>,
    pub redis_ca_file: Option<PathBuf>,
    pub command_partitions: i32,
    pub reply_partitions: i32,
    pub event_partitions: i32,
    #[serde(with = "humantime_serde")]
    pub session_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub fetch_wait: Duration,
    #[serde(with = "humantime_serde")]
    pub pending_timeout: Duration,
    #[serde(default, with = "humantime_serde")]
    pub unknown_patience: Option<Duration>,
    #[serde(with = "humantime_serde")]
    pub stuck_after: Duration,
    pub require_signatures: bool,
    #[serde(with = "humantime_serde")]
    pub horizon: Duration,
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    #[serde(with = "humantime_serde")]
    pub call_lease: Duration,
    #[serde(with = "humantime_serde")]
    pub start_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub stop_delay: Duration,
    pub on_lost_commits: LostCommits,
    pub log: String,
    pub log_format: LogFormat,
    pub otlp_endpoint: Option<String>,
    pub otlp_protocol: OtlpProtocol,
    #[serde(default)]
    pub trace_sampling: Option<f64>,
    /// Further properties of librdkafka: the settings `rdkafka.*`.
    #[serde(skip)]
    pub kafka_properties: BTreeMap<String, SecretString>,
    /// The files from which secrets were read, by the secret's setting.
    #[serde(skip)]
    pub secret_files: BTreeMap<String, SecretFile>,
    /// The settings of single services, by the service's name.
    #[serde(skip)]
    services: BTreeMap<String, ServiceSettings>,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// The kind of a distributed Postgres.
#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Distributed {
    Citus,
}

/// A setting that is unknown, malformed or missing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("setting: {0}")]
    Invalid(String),
    #[error("setting {0} is needed for this role: --set {0}=… or {env}=…", env = env_name(.0))]
    Missing(String),
}

fn env_name(key: &str) -> String {
    match key {
        key if BARE_VARIABLES.contains(&key) => key.to_ascii_uppercase(),
        _ => format!("AMENDS_{}", key.to_ascii_uppercase()),
    }
}

impl Settings {
    /// Reads all layers. `services` are the names of those that have their own settings; `flags` are `key=value`;
    /// `file` is a TOML file.
    ///
    /// # Errors
    /// The first setting that is unknown or malformed.
    pub fn read(services: &[&str], file: Option<&Path>, flags: &[(String, String)]) -> Result<Self, Error> {
        Self::layered(
            services,
            file,
            flags,
            env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))),
        )
    }

    fn layered(
        services: &[&str],
        file: Option<&Path>,
        flags: &[(String, String)],
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, Error> {
        let vars: HashMap<String, String> = environment
            .filter(|(name, _)| !NOT_SETTINGS.iter().any(|not| name.starts_with(not)))
            .map(|(name, value)| match BARE_VARIABLES.iter().any(|key| key.to_ascii_uppercase() == name) {
                true => (format!("AMENDS_{name}"), value),
                false => (name, value),
            })
            .collect();
        let mut builder = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        if let Some(file) = file {
            builder = builder.add_source(File::from(file).format(FileFormat::Toml).required(true));
        }
        let environment = Environment::with_prefix("AMENDS").separator("__").prefix_separator("_");
        builder = builder.add_source(environment.try_parsing(false).source(Some(vars)));
        for (key, value) in flags {
            let key = key.replace('-', "_");
            builder = builder.set_override(&key, value.clone()).map_err(one_line)?;
        }
        let mut keys: HashMap<String, Value> =
            builder.build().and_then(Config::try_deserialize).map_err(one_line)?;
        let secret_files = files::read(services, &mut keys)?;
        let own = ServiceSettings::take(services, &mut keys)?;
        let kafka_properties = kafka::take_properties(&mut keys)?;
        let read: Self = Value::new(None, ValueKind::Table(keys)).try_deserialize().map_err(one_line)?;
        // So that a container can be given an empty variable.
        let smtp_url = read.smtp_url.clone().filter(|url| !url.is_empty());
        let settings = Self { services: own, kafka_properties, secret_files, smtp_url, ..read };
        ranges::check(&settings)?;
        Ok(settings)
    }

    /// Returns the server on which `migrate` and `dev` create databases.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn server(&self) -> Result<&str, Error> {
        let url = self.database_url.as_ref().map(ExposeSecret::expose_secret);
        url.ok_or_else(|| Error::Missing("database_url".to_owned()))
    }

    /// Returns the number of homes of the engine's database if it is on Citus.
    pub fn citus(&self) -> Option<Homes> {
        self.distributed.and_then(|Distributed::Citus| Homes::new(self.homes))
    }

    /// Returns the settings of the workflows.
    pub fn workflows(&self) -> amends_workflows::Settings {
        let default = amends_workflows::Settings::default();
        amends_workflows::Settings {
            pending_timeout: self.pending_timeout,
            unknown_patience: self.unknown_patience.unwrap_or(default.unknown_patience),
        }
    }

    /// Returns the keys that seal the secrets of webhooks, if they are set.
    ///
    /// # Errors
    /// They are no such keys.
    pub fn webhook_keys(&self) -> Result<Option<SealingKeys>, Error> {
        let read =
            |key| SealingKeys::read(key).map_err(|error| Error::Invalid(format!("webhook_key: {error}")));
        self.webhook_key.as_ref().map(read).transpose()
    }

    /// Returns where webhooks may go.
    pub fn webhook_reach(&self) -> Reach {
        if self.webhook_allow_private == Some(true) { Reach::Anywhere } else { Reach::Public }
    }

    /// Returns when failed deliveries of webhooks are tried again.
    pub fn webhook_retries(&self) -> RetryPolicy {
        RetryPolicy {
            least: self.webhook_retry_least,
            most: self.webhook_retry_most,
            patience: self.webhook_patience,
        }
    }

    /// Returns the broker's addresses.
    pub fn brokers(&self) -> Result<&str, Error> {
        self.kafka_brokers.as_deref().ok_or_else(|| Error::Missing("kafka_brokers".to_owned()))
    }
}

fn flat(text: &str) -> String {
    redacted(text).lines().collect::<Vec<_>>().join(" ")
}

fn one_line(error: config::ConfigError) -> Error {
    Error::Invalid(flat(&error.to_string()))
}

/// The value is never repeated: it may be another setting's, with a password.
fn refused(key: &str, why: &str) -> Result<(), Error> {
    Err(Error::Invalid(format!("{key}: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &[(&str, &str)], vars: &[(&str, &str)]) -> Result<Settings, Error> {
        let own = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<Vec<_>>()
        };
        Settings::layered(&crate::services::names(), None, &own(flags), own(vars).into_iter())
    }

    #[test]
    fn flags_come_before_environment_and_environment_before_defaults() {
        assert_eq!(read(&[], &[]).unwrap().pending_timeout, Duration::from_secs(900));
        let vars = [("AMENDS_PENDING_TIMEOUT", "2m"), ("KAFKA_BROKERS", "b:9092"), ("PATH", "/bin")];
        let settings = read(&[], &vars).unwrap();
        assert_eq!(settings.pending_timeout, Duration::from_secs(120));
        assert_eq!(settings.kafka_brokers.as_deref(), Some("b:9092"));
        assert_eq!(
            read(&[("pending-timeout", "5s")], &vars).unwrap().pending_timeout,
            Duration::from_secs(5)
        );
    }

    #[test]
    fn what_is_unknown_or_malformed_is_named_in_one_line() {
        for (vars, name) in [
            (("AMENDS_PENDING_TIMOUT", "2m"), "pending_timout"),
            (("AMENDS_PENDING_TIMEOUT", "soon"), "pending_timeout"),
            (("AMENDS_LISTEN", "here"), "listen"),
            (("AMENDS_COMMAND_PARTITIONS", "many"), "command_partitions"),
        ] {
            let message = read(&[], &[vars]).unwrap_err().to_string();
            assert!(message.contains(name) && !message.contains('\n'), "{message}");
        }
        let message = read(&[("colour", "red")], &[]).unwrap_err().to_string();
        assert!(message.contains("colour"), "{message}");
    }

    proptest::proptest! {
        #[test]
        fn any_value_of_any_setting_is_taken_or_named_in_one_line(
            key in proptest::sample::select(DEFAULTS.lines().filter_map(|line| {
                Some(line.trim_start_matches("# ").split_once(" = ")?.0)
            }).filter(|key| !key.contains(' ')).collect::<Vec<_>>()),
            value in ".{0,40}",
        ) {
            if let Err(error) = read(&[(key, value.as_str())], &[]) {
                let message = error.to_string();
                assert!(!message.contains('\n') && message.contains(key), "{message}");
            }
        }
    }
}
