//! Ranges of the settings. A value out of range stops the start; an error at the first order would be too late.

use std::{
    fmt::{Debug, Display},
    net::SocketAddr,
    ops::RangeInclusive,
    time::Duration,
};

use amends_http::Rules;
use amends_notification::{
    LOCALES,
    channels::email::{SmtpUrl, sender},
};
use amends_postgres::retention::RETENTION_LEAST;
use amends_redis::Redis;
use amends_webhooks::SealingKeys;
use humantime_serde::re::humantime::format_duration;
use secrecy::{ExposeSecret, SecretString};

use super::{
    Error, Settings, kafka, refused,
    syntax::{claim, database, is_host, key_set, listener},
    traces,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Longer than any sensible value, and short enough that no date overflows.
const TEN_YEARS: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Refuses the first setting that is out of its range.
pub(super) fn check(settings: &Settings) -> Result<(), Error> {
    let millis = Duration::from_millis;
    for (key, value, range) in [
        // Kafka's own maximum, group.max.session.timeout.ms.
        ("session_timeout", settings.session_timeout, SECOND..=30 * MINUTE),
        // One second less than half the time after which the client gives a request up.
        ("fetch_wait", settings.fetch_wait, millis(1)..=4 * SECOND),
        ("pending_timeout", settings.pending_timeout, millis(1)..=TEN_YEARS),
        ("stuck_after", settings.stuck_after, millis(1)..=TEN_YEARS),
        ("horizon", settings.horizon, MINUTE..=TEN_YEARS),
        ("retention", settings.retention, RETENTION_LEAST..=TEN_YEARS),
        ("call_lease", settings.call_lease, millis(100)..=DAY),
        // A lease is renewed every few seconds; a batch of slow answers should not take minutes.
        ("webhook_timeout", settings.webhook_timeout, millis(100)..=MINUTE),
        ("webhook_retry_least", settings.webhook_retry_least, millis(10)..=DAY),
        ("webhook_retry_most", settings.webhook_retry_most, millis(10)..=DAY),
        // Deliveries are kept for 30 days.
        ("webhook_patience", settings.webhook_patience, SECOND..=14 * DAY),
        ("webhook_secret_overlap", settings.webhook_secret_overlap, SECOND..=30 * DAY),
        ("start_timeout", settings.start_timeout, millis(100)..=60 * MINUTE),
        ("stop_delay", settings.stop_delay, Duration::ZERO..=MINUTE),
        ("notification_patience", settings.notification_patience, MINUTE..=30 * DAY),
    ] {
        duration(key, value, range)?;
    }
    if let Some(patience) = settings.unknown_patience {
        duration("unknown_patience", patience, millis(1)..=TEN_YEARS)?;
    }
    for (key, value, range) in [
        ("database_connections", i64::from(settings.database_connections), 1..=1_000),
        ("homes", i64::from(settings.homes), 1..=1_024),
        ("admission", i64::from(settings.admission), 0..=1_000_000),
        ("rate_limit_subject", i64::from(settings.rate_limit_subject), 0..=1_000_000),
        ("rate_limit_address", i64::from(settings.rate_limit_address), 0..=1_000_000),
        ("forwarding_proxies", i64::from(settings.forwarding_proxies), 0..=10),
        ("concurrent_requests", i64::from(settings.concurrent_requests), 0..=1_000_000),
        ("http_connections", i64::from(settings.http_connections), 1..=1_000_000),
        // More partitions than slots would stay empty.
        ("command_partitions", i64::from(settings.command_partitions), 1..=1_024),
        ("reply_partitions", i64::from(settings.reply_partitions), 1..=1_024),
        ("event_partitions", i64::from(settings.event_partitions), 1..=1_024),
    ] {
        within(key, &value, &range, ToString::to_string)?;
    }
    if let Some(brokers) = &settings.kafka_brokers
        && !brokers.split(',').map(str::trim).all(is_host)
    {
        refused("kafka_brokers", "must be HOST:PORT, several separated by commas")?;
    }
    let (homes, partitions) = (i32::from(settings.homes), settings.reply_partitions);
    if settings.distributed.is_some() && homes % partitions != 0 && partitions % homes != 0 {
        refused(
            "homes",
            "must be a multiple of reply_partitions, or divide it, so that an engine's partitions are whole homes",
        )?;
    }
    tokens(settings)?;
    service_token(settings.service_token.as_ref())?;
    webhook_key(settings.webhook_key.as_ref())?;
    messages(settings)?;
    if let Some(url) = &settings.redis_url
        && let Err(error) = Redis::new(url.expose_secret())
    {
        refused("redis_url", &error.to_string())?;
    }
    let has_tls = |url: &SecretString| url.expose_secret().starts_with("rediss://");
    if settings.redis_ca_file.is_some() && !settings.redis_url.as_ref().is_some_and(has_tls) {
        refused("redis_ca_file", "needs a redis_url that begins with rediss://")?;
    }
    kafka::check(settings)?;
    traces::check(settings)?;
    // The filter's own parser takes it for the name of a module.
    if settings.log.contains("://") {
        refused("log", "must be a filter such as info, or amends_engine=debug,info")?;
    }
    // The listener itself checks these addresses.
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    Rules::new(anywhere, &settings.allowed_hosts, &settings.cors_origins)
        .map_err(|error| Error::Invalid(error.to_string().trim_start_matches("setting ").to_owned()))?;
    database("database_url", settings.database_url.as_ref())?;
    for (service, own) in &settings.services {
        database(&format!("{service}_database_url"), own.database_url.as_ref())?;
        if let Some(timeout) = own.call_timeout {
            duration(&format!("{service}_call_timeout"), timeout, millis(1)..=10 * MINUTE)?;
        }
        if let Some(url) = &own.url {
            listener(&format!("{service}_url"), url)?;
        }
    }
    Ok(())
}

/// Keys, issuer and audience are set together: a key without an issuer would accept tokens for other services.
fn tokens(settings: &Settings) -> Result<(), Error> {
    if let Some(url) = &settings.jwks_url {
        key_set("jwks_url", url)?;
        if settings.jwt_key_file.is_some() {
            refused("jwt_key_file", "must not be set beside jwks_url: keys come from one place")?;
        }
    }
    if settings.jwt_key_file.as_ref().is_some_and(|path| path.to_string_lossy().contains("://")) {
        refused("jwt_key_file", "must be the path of a file")?;
    }
    let has_keys = settings.jwks_url.is_some() || settings.jwt_key_file.is_some();
    for (key, value) in [("jwt_issuer", &settings.jwt_issuer), ("jwt_audience", &settings.jwt_audience)] {
        match value {
            Some(value) => claim(key, value)?,
            None if has_keys => refused(key, "must be set beside jwks_url or jwt_key_file")?,
            None => {}
        }
    }
    claim("roles_claim", &settings.roles_claim)
}

/// A token is sent as it is, so it has the characters of one (RFC 6750, 2.1).
fn service_token(token: Option<&SecretString>) -> Result<(), Error> {
    let Some(token) = token.map(ExposeSecret::expose_secret) else { return Ok(()) };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if (16..=200).contains(&token.len()) && token.bytes().all(fits) {
        return Ok(());
    }
    refused("service_token", "must be 16-200 of A-Z a-z 0-9 - . _ ~ + / =")
}

fn webhook_key(key: Option<&SecretString>) -> Result<(), Error> {
    match key.map(SealingKeys::read) {
        Some(Err(error)) => refused("webhook_key", &error.to_string()),
        _ => Ok(()),
    }
}

/// The settings of messages to customers. Secrets are in files: here are only their paths.
fn messages(settings: &Settings) -> Result<(), Error> {
    for (key, path) in [
        ("smtp_password_file", &settings.smtp_password_file),
        ("smtp_ca_file", &settings.smtp_ca_file),
        ("webhook_ca_file", &settings.webhook_ca_file),
        ("sms_webhook_secret_file", &settings.sms_webhook_secret_file),
    ] {
        if path.as_ref().is_some_and(|path| path.to_string_lossy().contains("://")) {
            refused(key, "must be the path of a file")?;
        }
    }
    if let Some(url) = &settings.smtp_url {
        if let Err(why) = SmtpUrl::parse(url) {
            refused("smtp_url", &why.to_string())?;
        }
        if settings.mail_from.is_none() {
            refused("mail_from", "must be set beside smtp_url")?;
        }
    }
    if let Some(user) = &settings.smtp_user {
        claim("smtp_user", user)?;
        if settings.smtp_password_file.is_none() {
            refused("smtp_password_file", "must be set beside smtp_user")?;
        }
    }
    if let Some(from) = &settings.mail_from
        && let Err(why) = sender(from)
    {
        refused("mail_from", &why.to_string())?;
    }
    if let Some(url) = &settings.sms_webhook_url {
        key_set("sms_webhook_url", url)?;
        if settings.sms_webhook_secret_file.is_none() {
            refused("sms_webhook_secret_file", "must be set beside sms_webhook_url")?;
        }
    }
    if !LOCALES.contains(&settings.notification_locale.as_str()) {
        refused("notification_locale", &format!("must be one of {}", LOCALES.join(", ")))?;
    }
    Ok(())
}

fn duration(key: &str, value: Duration, range: RangeInclusive<Duration>) -> Result<(), Error> {
    within(key, &value, &range, |bound| format_duration(*bound).to_string())
}

fn within<T: PartialOrd + Debug, S: Display>(
    key: &str,
    value: &T,
    range: &RangeInclusive<T>,
    show: impl Fn(&T) -> S,
) -> Result<(), Error> {
    if range.contains(value) {
        return Ok(());
    }
    refused(key, &format!("must be from {} to {}", show(range.start()), show(range.end())))
}

#[cfg(test)]
mod tests {
    use super::{super::DEFAULTS, *};

    fn read(key: &str, value: &str) -> Result<Settings, Error> {
        let flags = [(key.to_owned(), value.to_owned())];
        Settings::layered(&crate::services::names(), None, &flags, std::iter::empty())
    }

    /// Returns keys and defaults of all settings.
    fn defaults() -> impl Iterator<Item = (&'static str, &'static str)> {
        let lines = DEFAULTS.lines().map(|line| line.trim_start_matches("# "));
        lines.filter_map(|line| line.split_once(" = ")).filter(|(key, _)| !key.contains(' '))
    }

    #[test]
    fn a_channel_needs_all_of_its_settings_and_shows_none_of_its_secrets() {
        let read = |pairs: &[(&str, &str)]| {
            let flags: Vec<_> = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            Settings::layered(&crate::services::names(), None, &flags, std::iter::empty())
        };
        let from = ("mail_from", "Shop <orders@shop.example>");
        let smtp = ("smtp_url", "smtps://mail.example");
        let sms = ("sms_webhook_url", "https://sms.example/send");
        assert!(read(&[from, smtp]).is_ok());
        assert_eq!(read(&[("smtp_url", "")]).unwrap().smtp_url, None);
        assert!(read(&[from, smtp, ("smtp_user", "shop"), ("smtp_password_file", "/run/smtp")]).is_ok());
        assert!(read(&[sms, ("sms_webhook_secret_file", "/run/sms")]).is_ok());
        for (pairs, key) in [
            (&[smtp][..], "mail_from"),
            (&[from, smtp, ("smtp_user", "shop")], "smtp_password_file"),
            (&[sms], "sms_webhook_secret_file"),
            (&[from, ("smtp_url", "smtp://shop:hunter2@mail.example")], "smtp_url"),
            (&[("mail_from", "nobody")], "mail_from"),
            (&[("sms_webhook_url", "https://u:hunter2@sms.example")], "sms_webhook_url"),
            (&[("notification_locale", "fr")], "notification_locale"),
        ] {
            let error = read(pairs).unwrap_err().to_string();
            assert!(error.contains(key) && !error.contains("hunter2"), "{error}");
        }
    }

    fn assert_refused(key: &str, value: &str) {
        let error = read(key, value).expect_err(&format!("{key}={value}: give it a range")).to_string();
        assert!(error.contains(key) && !error.contains('\n'), "{error}");
    }

    #[test]
    fn every_duration_has_a_range_that_no_date_overflows_by() {
        let is_duration =
            |text: &str| humantime_serde::re::humantime::parse_duration(text.trim_matches('"')).is_ok();
        let keys: Vec<_> = defaults().filter(|(_, default)| is_duration(default)).collect();
        assert!(keys.len() > 5, "{keys:?}");
        for (key, _) in keys {
            for value in ["9999999999y", "0s", "-1s"] {
                // No delay is what most have.
                if (key, value) != ("stop_delay", "0s") {
                    assert_refused(key, value);
                }
            }
        }
    }

    #[test]
    fn every_number_has_a_range() {
        let keys: Vec<_> = defaults().filter(|(_, default)| default.parse::<i64>().is_ok()).collect();
        assert!(keys.len() > 4, "{keys:?}");
        for (key, _) in keys {
            for value in ["-1", "2000000000", "99999999999999999999"] {
                assert_refused(key, value);
            }
        }
    }

    #[test]
    fn homes_that_do_not_fit_the_reply_partitions_are_refused_where_they_matter() {
        let read = |pairs: &[(&str, &str)]| {
            let flags: Vec<_> = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            Settings::layered(&crate::services::names(), None, &flags, std::iter::empty())
        };
        assert_eq!(read(&[("homes", "50")]).unwrap().citus(), None);
        assert_eq!(read(&[("distributed", "citus")]).unwrap().citus().map(|homes| homes.count()), Some(48));
        assert!(read(&[("distributed", "citus"), ("homes", "4"), ("reply_partitions", "12")]).is_ok());
        for (homes, partitions) in [("50", "12"), ("48", "7"), ("8", "12")] {
            let flags = [("distributed", "citus"), ("homes", homes), ("reply_partitions", partitions)];
            let error = read(&flags).unwrap_err().to_string();
            assert!(error.contains("homes") && !error.contains('\n'), "{error}");
        }
        assert_refused("distributed", "oracle");
    }

    #[test]
    fn settings_of_a_secured_link_that_do_not_fit_together_are_refused() {
        let read = |pairs: &[(&str, &str)]| {
            let flags: Vec<_> = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            Settings::layered(&crate::services::names(), None, &flags, std::iter::empty())
        };
        let tls = ("kafka_tls", "true");
        let (user, password) = (("kafka_sasl_user", "amends"), ("kafka_sasl_password", "hunter2"));
        let plain = ("kafka_sasl_mechanism", "PLAIN");
        for good in [
            vec![tls],
            vec![tls, ("kafka_ca_file", "/ca.pem")],
            vec![tls, ("kafka_certificate_file", "/c.pem"), ("kafka_key_file", "/k.pem")],
            vec![user, password],
            vec![tls, user, password, plain],
            vec![("redis_url", "rediss://h:6380"), ("redis_ca_file", "/ca.pem")],
            vec![("database_url", "postgres://u@h/d?sslmode=verify-full&sslrootcert=/ca.pem")],
            vec![("rdkafka.socket.timeout.ms", "5000")],
        ] {
            assert!(read(&good).is_ok(), "{good:?}: {:?}", read(&good).err());
        }
        for (bad, key) in [
            (vec![("kafka_ca_file", "/ca.pem")], "kafka_ca_file"),
            (vec![tls, ("kafka_key_file", "/k.pem")], "kafka_certificate_file"),
            (vec![user], "kafka_sasl_password"),
            (vec![password], "kafka_sasl_user"),
            (vec![user, password, plain], "kafka_sasl_mechanism"),
            (vec![("kafka_sasl_mechanism", "GSSAPI")], "kafka_sasl_mechanism"),
            (vec![("redis_ca_file", "/ca.pem"), ("redis_url", "redis://h")], "redis_ca_file"),
            (vec![("redis_url", "rediss://h#insecure")], "redis_url"),
            (vec![("database_url", "postgres://u@h/d?sslmode=verify-ca")], "database_url"),
            (vec![("database_url", "postgres://u@h/d?sslmode=full")], "database_url"),
            (vec![("database_url", "postgres://u@h/d?sslrootcert=/ca.pem")], "database_url"),
            (vec![("database_url", "postgres://u@h/d?sslmode=require&sslcert=/c.pem")], "database_url"),
            (vec![("rdkafka.acks", "0")], "rdkafka.acks"),
            (vec![("rdkafka.colour", "red")], "rdkafka.colour"),
            (vec![("rdkafka", "red")], "rdkafka"),
        ] {
            let error = read(&bad).expect_err(key).to_string();
            assert!(error.contains(key) && !error.contains('\n') && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_url_under_any_wrong_key_is_refused_without_its_password() {
        // Neither is shown, whatever it is.
        let takes_any = |key: &str| key.ends_with("database_url") || key == "kafka_sasl_password";
        for (key, _) in defaults().filter(|(key, _)| !takes_any(key)).chain([("colour", "")]) {
            let url = "postgres://amends:hunter2@db:5432/amends";
            let error = read(key, url).expect_err(key).to_string();
            assert!(error.contains(key) && !error.contains("hunter2"), "{error}");
        }
        for key in ["database_url", "engine_database_url"] {
            assert_refused(key, "http://amends:hunter2@db");
            assert_refused(key, "amends:hunter2@db");
        }
    }
}
