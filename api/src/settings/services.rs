//! The settings of single services.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use config::Value;
use secrecy::SecretString;

use super::{API, Error, flat};

/// The settings `<service>_database_url`, `<service>_url` and `<service>_call_timeout`; of the api, the first two.
#[derive(Debug, Clone, Default)]
pub(super) struct ServiceSettings {
    pub(super) database_url: Option<SecretString>,
    pub(super) url: Option<String>,
    pub(super) call_timeout: Option<Duration>,
}

impl ServiceSettings {
    /// Takes the keys of single services out of all keys.
    pub(super) fn take(
        services: &[&str],
        keys: &mut HashMap<String, Value>,
    ) -> Result<BTreeMap<String, Self>, Error> {
        let mut own: BTreeMap<String, Self> = BTreeMap::new();
        for &service in services.iter().chain([&API]) {
            let mut value = |suffix: &str| {
                let key = format!("{service}_{suffix}");
                keys.remove(&key).map(|value| (value.into_string(), key))
            };
            let text = |(text, key): (Result<String, config::ConfigError>, String)| {
                text.map_err(|error| Error::Invalid(format!("{key}: {}", flat(&error.to_string()))))
            };
            let database_url = value("database_url").map(text).transpose()?.map(SecretString::from);
            let mut settings = Self { database_url, ..Self::default() };
            settings.url = value("url").map(text).transpose()?;
            if service != API
                && let Some((given, key)) = value("call_timeout")
            {
                let parsed = humantime_serde::re::humantime::parse_duration(&text((given, key.clone()))?);
                settings.call_timeout =
                    Some(parsed.map_err(|error| Error::Invalid(format!("{key}: {error}")))?);
            }
            own.insert(service.to_owned(), settings);
        }
        Ok(own)
    }

    /// Returns the value of a key with this ending, as `amends config` prints it.
    pub(super) fn show(&self, key: &str) -> Option<String> {
        if key.ends_with("_database_url") {
            return self.database_url.as_ref().map(|_| "\"<hidden>\"".to_owned());
        }
        let time = |d: Duration| format!("\"{}\"", humantime_serde::re::humantime::format_duration(d));
        match key.ends_with("_call_timeout") {
            true => self.call_timeout.map(time),
            false => self.url.as_ref().map(|url| format!("{url:?}")),
        }
    }
}
