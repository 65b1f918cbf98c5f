//! Settings: flags, environment, a TOML file, defaults, in that order. What is unknown or malformed stops the
//! start with one line that names it.

use std::{collections::HashMap, env, net::SocketAddr, path::Path, time::Duration};

use config::{Config, Environment, File, FileFormat};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// The defaults, as `amends config` prints them and as they are compiled in.
pub const DEFAULTS: &str = include_str!("../amends.default.toml");

/// Environment variables that are the tests' own.
#[cfg(not(feature = "failpoints"))]
const NOT_SETTINGS: [&str; 2] = ["AMENDS_TEST_", "AMENDS_CONFIG"];
#[cfg(feature = "failpoints")]
const NOT_SETTINGS: [&str; 3] = ["AMENDS_TEST_", "AMENDS_CONFIG", "AMENDS_FAILPOINT"];

/// Every setting. See `amends.default.toml` for what each is for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub listen: Option<SocketAddr>,
    pub inventory_url: String,
    pub no_auth: bool,
    pub database_url: Option<SecretString>,
    pub api_database_url: Option<SecretString>,
    pub engine_database_url: Option<SecretString>,
    pub inventory_database_url: Option<SecretString>,
    pub payment_database_url: Option<SecretString>,
    pub shipment_database_url: Option<SecretString>,
    pub notification_database_url: Option<SecretString>,
    pub database_connections: u32,
    pub admission: u32,
    pub kafka_brokers: Option<String>,
    pub command_partitions: i32,
    pub reply_partitions: i32,
    pub event_partitions: i32,
    #[serde(with = "humantime_serde")]
    pub session_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub fetch_wait: Duration,
    #[serde(with = "humantime_serde")]
    pub pending_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub stuck_after: Duration,
    #[serde(with = "humantime_serde")]
    pub horizon: Duration,
    #[serde(with = "humantime_serde")]
    pub payment_call_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub shipment_call_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub call_lease: Duration,
    #[serde(with = "humantime_serde")]
    pub start_timeout: Duration,
    pub log: String,
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// A setting that is unknown, malformed or missing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("setting: {0}")]
    Invalid(String),
    #[error("setting {0} is needed for this role: --set {0}=… or {env}=…", env = env_name(.0))]
    Missing(&'static str),
}

fn env_name(key: &str) -> String {
    match key {
        "database_url" | "kafka_brokers" => key.to_ascii_uppercase(),
        _ => format!("AMENDS_{}", key.to_ascii_uppercase()),
    }
}

impl Settings {
    /// Reads all layers. `flags` are `key=value`; `file` is a TOML file.
    pub fn read(file: Option<&Path>, flags: &[(String, String)]) -> Result<Self, Error> {
        Self::layered(
            file,
            flags,
            env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))),
        )
    }

    fn layered(
        file: Option<&Path>,
        flags: &[(String, String)],
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, Error> {
        let vars: HashMap<String, String> = environment
            .filter(|(name, _)| !NOT_SETTINGS.iter().any(|not| name.starts_with(not)))
            .map(|(name, value)| match name.as_str() {
                "DATABASE_URL" | "KAFKA_BROKERS" => (format!("AMENDS_{name}"), value),
                _ => (name, value),
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
        let read = builder.build().map_err(one_line)?;
        read.try_deserialize().map_err(one_line)
    }

    /// A role's database.
    pub fn database(&self, key: &'static str) -> Result<&str, Error> {
        let url = match key {
            "database_url" => &self.database_url,
            "api_database_url" if self.api_database_url.is_some() => &self.api_database_url,
            "api_database_url" | "engine_database_url" => &self.engine_database_url,
            "inventory_database_url" => &self.inventory_database_url,
            "payment_database_url" => &self.payment_database_url,
            "shipment_database_url" => &self.shipment_database_url,
            _ => &self.notification_database_url,
        };
        url.as_ref().map(ExposeSecret::expose_secret).ok_or(Error::Missing(key))
    }

    /// The broker.
    pub fn brokers(&self) -> Result<&str, Error> {
        self.kafka_brokers.as_deref().ok_or(Error::Missing("kafka_brokers"))
    }

    /// The commented defaults with the values in force, secrets hidden.
    pub fn commented(&self) -> String {
        let show = |key: &str| -> Option<String> {
            let secret = |s: &Option<SecretString>| s.as_ref().map(|_| "\"<hidden>\"".to_owned());
            let text = |s: &str| Some(format!("{s:?}"));
            let time =
                |d: Duration| Some(format!("\"{}\"", humantime_serde::re::humantime::format_duration(d)));
            match key {
                "listen" => self.listen.map(|l| format!("\"{l}\"")),
                "inventory_url" => text(&self.inventory_url),
                "no_auth" => Some(self.no_auth.to_string()),
                "database_url" => secret(&self.database_url),
                "api_database_url" => secret(&self.api_database_url),
                "engine_database_url" => secret(&self.engine_database_url),
                "inventory_database_url" => secret(&self.inventory_database_url),
                "payment_database_url" => secret(&self.payment_database_url),
                "shipment_database_url" => secret(&self.shipment_database_url),
                "notification_database_url" => secret(&self.notification_database_url),
                "database_connections" => Some(self.database_connections.to_string()),
                "admission" => Some(self.admission.to_string()),
                "kafka_brokers" => self.kafka_brokers.as_deref().and_then(text),
                "command_partitions" => Some(self.command_partitions.to_string()),
                "reply_partitions" => Some(self.reply_partitions.to_string()),
                "event_partitions" => Some(self.event_partitions.to_string()),
                "session_timeout" => time(self.session_timeout),
                "fetch_wait" => time(self.fetch_wait),
                "pending_timeout" => time(self.pending_timeout),
                "stuck_after" => time(self.stuck_after),
                "horizon" => time(self.horizon),
                "payment_call_timeout" => time(self.payment_call_timeout),
                "shipment_call_timeout" => time(self.shipment_call_timeout),
                "call_lease" => time(self.call_lease),
                "start_timeout" => time(self.start_timeout),
                "log" => text(&self.log),
                "log_format" => text(if self.log_format == LogFormat::Json { "json" } else { "text" }),
                _ => None,
            }
        };
        let line = |line: &str| {
            let bare = line.strip_prefix("# ").unwrap_or(line);
            match bare.split_once(" = ") {
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

fn one_line(error: config::ConfigError) -> Error {
    Error::Invalid(error.to_string().lines().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &[(&str, &str)], vars: &[(&str, &str)]) -> Result<Settings, Error> {
        let own = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<Vec<_>>()
        };
        Settings::layered(None, &own(flags), own(vars).into_iter())
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
