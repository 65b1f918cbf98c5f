//! Settings: flags, environment, a TOML file, and defaults, in that order. An unknown, malformed or out-of-range
//! setting stops the start with one line that names it.

mod files;
mod kafka;
mod ranges;
mod redacted;
mod services;
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

/// Name in the database settings, beside the services' names.
const API: &str = "api";
/// The service whose database the api uses by default.
const ENGINE: &str = "engine";

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
        let settings = Self { services: own, kafka_properties, secret_files, ..read };
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

    /// Returns the database of a service, or of the api, which uses the engine's by default.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn database_of(&self, user: &str) -> Result<&str, Error> {
        let own = |name: &str| self.services.get(name)?.database_url.as_ref();
        let url = own(user).or_else(|| if user == API { own(ENGINE) } else { None });
        url.map(ExposeSecret::expose_secret).ok_or_else(|| Error::Missing(self.database_key_of(user)))
    }

    /// Returns the setting of the database of a service, or of the api.
    pub fn database_key_of(&self, user: &str) -> String {
        let is_own = self.services.get(user).is_some_and(|own| own.database_url.is_some());
        format!("{}_database_url", if user == API && !is_own { ENGINE } else { user })
    }

    /// Returns the URLs of all databases that are set, by their setting.
    pub fn database_urls(&self) -> impl Iterator<Item = (String, &str)> {
        let own = self.services.iter().map(|(name, own)| (format!("{name}_database_url"), &own.database_url));
        let all = own.chain([("database_url".to_owned(), &self.database_url)]);
        all.filter_map(|(key, url)| Some((key, url.as_ref()?.expose_secret())))
    }

    /// Sets the URL of a service's database.
    pub fn set_database_of(&mut self, service: &str, url: String) {
        self.services.entry(service.to_owned()).or_default().database_url = Some(url.into());
        if service == ENGINE
            && let Some(api) = self.services.get_mut(API)
        {
            api.database_url = None;
        }
    }

    /// Returns the URL of a listening service; empty if it is not set.
    pub fn url_of(&self, service: &str) -> &str {
        self.services.get(service).and_then(|own| own.url.as_deref()).unwrap_or_default()
    }

    /// Sets the URL of a listening service.
    pub fn set_url_of(&mut self, service: &str, url: String) {
        self.services.entry(service.to_owned()).or_default().url = Some(url);
    }

    /// Returns the time limit of a service's external calls, if it is set.
    pub fn call_timeout_of(&self, service: &str) -> Option<Duration> {
        self.services.get(service)?.call_timeout
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

    /// Returns the commented defaults with the values in force, secrets hidden.
    pub fn commented(&self) -> String {
        let show = |key: &str| -> Option<String> {
            let secret = |s: &Option<SecretString>| s.as_ref().map(|_| "\"<hidden>\"".to_owned());
            let text = |s: &str| Some(format!("{s:?}"));
            let path = |path: &Option<PathBuf>| path.as_ref().and_then(|path| text(&path.to_string_lossy()));
            let time =
                |d: Duration| Some(format!("\"{}\"", humantime_serde::re::humantime::format_duration(d)));
            if let Some(file) = key.strip_suffix("_file").and_then(|secret| self.secret_files.get(secret)) {
                return text(&file.path.to_string_lossy());
            }
            match key {
                "listen" => self.listen.map(|l| format!("\"{l}\"")),
                "metrics_listen" => self.metrics_listen.map(|l| format!("\"{l}\"")),
                "no_auth" => Some(self.no_auth.to_string()),
                "jwks_url" => self.jwks_url.as_deref().and_then(text),
                "jwt_key_file" => path(&self.jwt_key_file),
                "jwt_issuer" => self.jwt_issuer.as_deref().and_then(text),
                "jwt_audience" => self.jwt_audience.as_deref().and_then(text),
                "roles_claim" => text(&self.roles_claim),
                "allowed_hosts" => text(&self.allowed_hosts),
                "cors_origins" => text(&self.cors_origins),
                "http_connections" => Some(self.http_connections.to_string()),
                "rate_limit_subject" => Some(self.rate_limit_subject.to_string()),
                "rate_limit_address" => Some(self.rate_limit_address.to_string()),
                "forwarding_proxies" => Some(self.forwarding_proxies.to_string()),
                "concurrent_requests" => Some(self.concurrent_requests.to_string()),
                "compression" => Some(self.compression.to_string()),
                "service_token" => secret(&self.service_token),
                "webhook_key" => secret(&self.webhook_key),
                "webhook_allow_private" => self.webhook_allow_private.map(|allow| allow.to_string()),
                "webhook_ca_file" => path(&self.webhook_ca_file),
                "webhook_timeout" => time(self.webhook_timeout),
                "webhook_retry_least" => time(self.webhook_retry_least),
                "webhook_retry_most" => time(self.webhook_retry_most),
                "webhook_patience" => time(self.webhook_patience),
                "webhook_secret_overlap" => time(self.webhook_secret_overlap),
                "smtp_url" => self.smtp_url.as_deref().and_then(text),
                "smtp_user" => self.smtp_user.as_deref().and_then(text),
                "smtp_password_file" => path(&self.smtp_password_file),
                "smtp_ca_file" => path(&self.smtp_ca_file),
                "mail_from" => self.mail_from.as_deref().and_then(text),
                "sms_webhook_url" => self.sms_webhook_url.as_deref().and_then(text),
                "sms_webhook_secret_file" => path(&self.sms_webhook_secret_file),
                "notification_locale" => text(&self.notification_locale),
                "notification_patience" => time(self.notification_patience),
                "notification_previews" => Some(self.notification_previews.to_string()),
                "database_url" => secret(&self.database_url),
                "database_connections" => Some(self.database_connections.to_string()),
                "distributed" => self.distributed.and_then(|Distributed::Citus| text("citus")),
                "homes" => Some(self.homes.to_string()),
                "admission" => Some(self.admission.to_string()),
                "redis_url" => secret(&self.redis_url),
                "redis_ca_file" => path(&self.redis_ca_file),
                "kafka_tls" => Some(self.kafka_tls.to_string()),
                "kafka_ca_file" => path(&self.kafka_ca_file),
                "kafka_certificate_file" => path(&self.kafka_certificate_file),
                "kafka_key_file" => path(&self.kafka_key_file),
                "kafka_sasl_mechanism" => text(self.kafka_sasl_mechanism.as_str()),
                "kafka_sasl_user" => self.kafka_sasl_user.as_deref().and_then(text),
                "kafka_sasl_password" => secret(&self.kafka_sasl_password),
                "kafka_brokers" => self.kafka_brokers.as_deref().and_then(text),
                "command_partitions" => Some(self.command_partitions.to_string()),
                "reply_partitions" => Some(self.reply_partitions.to_string()),
                "event_partitions" => Some(self.event_partitions.to_string()),
                "session_timeout" => time(self.session_timeout),
                "fetch_wait" => time(self.fetch_wait),
                "pending_timeout" => time(self.pending_timeout),
                "unknown_patience" => self.unknown_patience.and_then(time),
                "stuck_after" => time(self.stuck_after),
                "require_signatures" => Some(self.require_signatures.to_string()),
                "horizon" => time(self.horizon),
                "retention" => time(self.retention),
                "call_lease" => time(self.call_lease),
                "start_timeout" => time(self.start_timeout),
                "log" => text(&self.log),
                "otlp_endpoint" => self.otlp_endpoint.as_deref().and_then(text),
                "otlp_protocol" => text(self.otlp_protocol.as_str()),
                "trace_sampling" => self.trace_sampling.map(|share| share.to_string()),
                "log_format" => text(if self.log_format == LogFormat::Json { "json" } else { "text" }),
                _ => {
                    let is_of =
                        |service: &str| key.strip_prefix(service).is_some_and(|rest| rest.starts_with('_'));
                    self.services
                        .iter()
                        .find(|(service, _)| is_of(service))
                        .and_then(|(_, own)| own.show(key))
                }
            }
        };
        let line = |line: &str| {
            let bare = line.strip_prefix("# ").unwrap_or(line);
            match bare.split_once(" = ") {
                // One line stands for all of them.
                Some((key, _)) if key.starts_with(kafka::PROPERTIES) && !self.kafka_properties.is_empty() => {
                    let line = |key: &String| format!("{}{key} = \"<hidden>\"", kafka::PROPERTIES);
                    self.kafka_properties.keys().map(line).collect::<Vec<_>>().join("\n")
                }
                Some((key, _)) if !key.contains(' ') => match show(key) {
                    Some(value) => format!("{key} = {value}"),
                    None => line.to_owned(),
                },
                _ => line.to_owned(),
            }
        };
        DEFAULTS.lines().map(line).collect::<Vec<_>>().join("\n")
    }
}

fn flat(text: &str) -> String {
    redacted(text).lines().collect::<Vec<_>>().join(" ")
}

fn one_line(error: config::ConfigError) -> Error {
    Error::Invalid(flat(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &[(&str, &str)], vars: &[(&str, &str)]) -> Result<Settings, Error> {
        let own = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<Vec<_>>()
        };
        Settings::layered(
            &["engine", "inventory", "payment", "shipment", "notification"],
            None,
            &own(flags),
            own(vars).into_iter(),
        )
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

    #[test]
    fn secrets_are_hidden_and_every_default_is_commented() {
        let settings = read(&[("engine-database-url", "postgres://u:hunter2@h/d")], &[]).unwrap();
        let printed = settings.commented();
        assert!(
            !printed.contains("hunter2") && printed.contains("engine_database_url = \"<hidden>\""),
            "{printed}"
        );
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
