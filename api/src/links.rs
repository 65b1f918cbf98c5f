//! The links to databases, broker and Redis: whether their files can be used at the start.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use amends_kafka::KafkaSettings;
use amends_pool::Pool;
use amends_redis::Redis;
use anyhow::{Context, Result, anyhow, bail};
use reqwest::Url;
use secrecy::ExposeSecret;

use crate::settings::Settings;

/// How long a starting role waits for a broker without which it can start.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(2);

/// What a PEM file must contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pem {
    Certificate,
    Key,
}

impl Pem {
    /// Returns what the line begins with that begins such an item, and the end of that line.
    fn marks(self) -> (&'static str, &'static str) {
        match self {
            Self::Certificate => ("-----BEGIN ", "CERTIFICATE-----"),
            Self::Key => ("-----BEGIN ", "PRIVATE KEY-----"),
        }
    }
}

/// Checks that every file of certificates and keys that the settings name can be read and contains what it must.
///
/// # Errors
/// The first that cannot be used, with its setting.
pub fn check_files(settings: &Settings) -> Result<()> {
    for (key, path, item) in [
        ("kafka_ca_file", &settings.kafka_ca_file, Pem::Certificate),
        ("kafka_certificate_file", &settings.kafka_certificate_file, Pem::Certificate),
        ("kafka_key_file", &settings.kafka_key_file, Pem::Key),
        ("redis_ca_file", &settings.redis_ca_file, Pem::Certificate),
    ] {
        if let Some(path) = path {
            check_file(key, path, item)?;
        }
    }
    for (key, url) in settings.database_urls() {
        let url = Url::parse(url).with_context(|| format!("setting {key}"))?;
        for (name, value) in url.query_pairs() {
            let item = match &*name {
                "sslrootcert" | "ssl-root-cert" | "sslcert" | "ssl-cert" => Pem::Certificate,
                "sslkey" | "ssl-key" => Pem::Key,
                _ => continue,
            };
            check_file(&format!("{key}, {name}"), Path::new(&*value), item)?;
        }
    }
    Ok(())
}

fn check_file(key: &str, path: &Path, item: Pem) -> Result<()> {
    let content = fs::read(path)
        .map_err(|error| anyhow!("setting {key}: {} cannot be read: {error}", path.display()))?;
    let (begin, end) = item.marks();
    let has_item = String::from_utf8_lossy(&content)
        .lines()
        .any(|line| line.starts_with(begin) && line.trim_end().ends_with(end));
    if !has_item {
        let what = match item {
            Pem::Certificate => "certificate",
            Pem::Key => "private key",
        };
        bail!("setting {key}: {} contains no {what} in PEM", path.display());
    }
    Ok(())
}

/// Creates the client of the Redis of the settings.
///
/// # Errors
/// Its authorities cannot be read, or the URL is none.
pub fn redis(settings: &Settings) -> Result<Option<Redis>> {
    let Some(url) = settings.redis_url.as_ref().map(ExposeSecret::expose_secret) else { return Ok(None) };
    let redis = match &settings.redis_ca_file {
        Some(path) => Redis::trusting(
            url,
            fs::read(path).with_context(|| format!("setting redis_ca_file: {}", path.display()))?,
        ),
        None => Redis::new(url),
    };
    Ok(Some(redis.context("setting redis_url")?))
}

/// Connects once to what a role can start without: it may be away, but a wrong certificate or password stops the start.
///
/// # Errors
/// Redis refuses this program, or this program it.
pub async fn check_redis(settings: &Settings) -> Result<()> {
    match redis(settings)? {
        Some(redis) => redis.check().await.context("setting redis_url: Redis cannot be used"),
        None => Ok(()),
    }
}

/// The same for the broker, for a role that can start without it.
///
/// # Errors
/// The broker refuses this program, or this program it.
pub async fn check_broker(settings: &Settings, kafka: &KafkaSettings) -> Result<()> {
    if !settings.kafka_tls && settings.kafka_sasl_user.is_none() {
        return Ok(());
    }
    match amends_kafka::check(kafka, REFUSAL_PATIENCE.min(settings.start_timeout)).await {
        Err(error) if error.is_refusal() => {
            Err(anyhow!(error).context("setting kafka_brokers: the broker cannot be used"))
        }
        _ => Ok(()),
    }
}

/// The connections of a process whose passwords may change.
#[derive(Debug, Clone, Default)]
pub struct Pools(Arc<Mutex<Vec<Pool>>>);

impl Pools {
    /// Adds connections.
    pub fn add(&self, pool: &Pool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(pool.clone());
    }

    /// Does this with each pool.
    pub fn each(&self, act: impl FnMut(&Pool)) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(act);
    }

    /// Makes new connections from another URL, where they were made from `old`.
    ///
    /// # Errors
    /// It is no URL.
    pub fn follow(&self, old: &str, new: &str) -> Result<(), amends_pool::Error> {
        for pool in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            pool.follow(old, new)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(flags: &[(&str, &str)]) -> Settings {
        let flags: Vec<_> = flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Settings::read(&crate::services::names(), None, &flags).unwrap()
    }

    #[test]
    fn a_file_that_is_missing_or_contains_something_else_is_named_with_its_setting() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| {
            let path = directory.path().join(name);
            fs::write(&path, content).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let certificate =
            write("c", "about it\n-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n");
        let key = write("k", "-----BEGIN EC PRIVATE KEY-----\nAA==\n-----END EC PRIVATE KEY-----\n");
        let missing = directory.path().join("missing").to_str().unwrap().to_owned();
        let tls = ("kafka_tls", "true");
        let url = |parts: &str| format!("postgres://u:p@h/d?sslmode=verify-full&{parts}");
        let good = url(&format!("sslrootcert={certificate}&sslcert={certificate}&sslkey={key}"));
        let all = [
            tls,
            ("kafka_ca_file", &certificate),
            ("kafka_certificate_file", &certificate),
            ("kafka_key_file", &key),
            ("engine_database_url", &good),
        ];
        check_files(&settings(&all)).unwrap();

        let (no_root, no_key) = (
            url(&format!("sslrootcert={missing}")),
            url(&format!("sslcert={certificate}&sslkey={certificate}")),
        );
        for (flags, parts) in [
            (vec![tls, ("kafka_ca_file", missing.as_str())], ["kafka_ca_file", missing.as_str()]),
            (vec![tls, ("kafka_ca_file", key.as_str())], ["kafka_ca_file", "no certificate"]),
            (
                vec![tls, ("kafka_certificate_file", &certificate), ("kafka_key_file", &certificate)],
                ["kafka_key_file", "no private key"],
            ),
            (
                vec![("payment_database_url", no_root.as_str())],
                ["payment_database_url, sslrootcert", missing.as_str()],
            ),
            (vec![("database_url", no_key.as_str())], ["database_url, sslkey", "no private key"]),
        ] {
            let error = check_files(&settings(&flags)).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)) && !error.contains('\n'), "{error}");
        }
    }
}
