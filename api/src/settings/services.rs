//! The settings of single services.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use config::Value;
use secrecy::{ExposeSecret, SecretString};

use super::{Error, Settings, flat};

/// Name in the database settings, beside the services' names.
pub(super) const API: &str = "api";
/// The service whose database the api uses by default.
const ENGINE: &str = "engine";

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

impl Settings {
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
}
