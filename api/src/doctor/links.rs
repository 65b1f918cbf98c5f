//! Links to other machines: whether what they carry can be read on the way, or its receiver be another.

use std::net::IpAddr;

use reqwest::Url;
use secrecy::ExposeSecret;

use super::finding::Finding;
use crate::settings::Settings;

const PLAIN: &str = "is not encrypted, and goes to another machine";

/// Judges the link to a database. `is_encrypted` is what the server says of it.
pub(super) fn of_database(subject: &str, key: &str, url: &str, is_encrypted: bool) -> Option<Finding> {
    let url = Url::parse(url).ok()?;
    let parameter = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value);
    let host = parameter("host").map_or_else(|| url.host_str().unwrap_or_default().to_owned(), Into::into);
    if is_local(&host) {
        return None;
    }
    if !is_encrypted {
        let advice = format!("Add ?sslmode=verify-full&sslrootcert=FILE to {key}.");
        return Some(Finding::warning(subject, format!("the link {PLAIN}"), advice));
    }
    let is_verified = parameter("sslmode").is_some_and(|mode| mode == "verify-full");
    let advice =
        format!("Set sslmode=verify-full in {key}, with sslrootcert where the authority is your own.");
    let said = "the link is encrypted, but any server's certificate is taken";
    (!is_verified).then(|| Finding::warning(subject, said, advice))
}

/// Judges the links to the broker and to Redis, by the settings.
pub(super) fn of_settings(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let of_brokers = settings.kafka_brokers.iter().flat_map(|brokers| brokers.split(','));
    let mut hosts = of_brokers.map(|broker| broker.trim().rsplit_once(':').map_or(broker, |(host, _)| host));
    let property = |key: &str| settings.kafka_properties.get(key).map(ExposeSecret::expose_secret);
    let is_encrypted = match property("security.protocol") {
        Some(protocol) => protocol.to_ascii_lowercase().ends_with("ssl"),
        None => settings.kafka_tls,
    };
    if hosts.any(|host| !is_local(host)) {
        if !is_encrypted {
            let advice = "Set kafka_tls = true, with kafka_ca_file where the authority is your own.";
            findings.push(Finding::warning("link to Kafka", format!("it {PLAIN}"), advice));
        } else if property("enable.ssl.certificate.verification").is_some_and(|value| value == "false") {
            let advice = "Remove the setting rdkafka.enable.ssl.certificate.verification.";
            let said = "it is encrypted, but any broker's certificate is taken";
            findings.push(Finding::warning("link to Kafka", said, advice));
        }
    }
    let redis = settings.redis_url.as_ref().and_then(|url| Url::parse(url.expose_secret()).ok());
    if redis.is_some_and(|url| url.scheme() == "redis" && !url.host_str().is_some_and(is_local)) {
        let advice = "Begin redis_url with rediss://.";
        findings.push(Finding::warning("link to Redis", format!("it {PLAIN}"), advice));
    }
    findings
}

/// Returns whether a host is this machine: a loopback address, or the directory of a socket.
fn is_local(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_socket = host.is_empty() || host.starts_with('/') || host.starts_with("%2F");
    host == "localhost" || is_socket || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(flags: &[(&str, &str)]) -> Vec<String> {
        let flags: Vec<_> = flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let settings = Settings::read(&crate::services::names(), None, &flags).unwrap();
        of_settings(&settings).into_iter().map(|finding| finding.subject).collect()
    }

    #[test]
    fn a_plain_link_to_another_machine_is_found_and_one_within_this_machine_is_not() {
        let [kafka, redis] = ["kafka_brokers", "redis_url"];
        let [of_kafka, of_redis] = ["link to Kafka", "link to Redis"];
        let tls = ("kafka_tls", "true");
        let unchecked = ("rdkafka.enable.ssl.certificate.verification", "false");
        for (flags, expected) in [
            (vec![], vec![]),
            (vec![(kafka, "localhost:9092,127.0.0.1:9092,[::1]:9092"), (redis, "redis://127.0.0.1")], vec![]),
            (
                vec![(kafka, "localhost:9092,k:9092"), (redis, "redis://u:p@r:6379/1")],
                vec![of_kafka, of_redis],
            ),
            (vec![(kafka, "k:9092"), tls, (redis, "rediss://r")], vec![]),
            (vec![(kafka, "k:9092"), ("rdkafka.security.protocol", "ssl")], vec![]),
            (vec![(kafka, "k:9092"), tls, unchecked], vec![of_kafka]),
        ] {
            assert_eq!(found(&flags), expected, "{flags:?}");
        }
    }

    #[test]
    fn of_a_database_the_server_says_whether_the_link_is_encrypted() {
        for (url, is_encrypted, part) in [
            ("postgres://u@localhost/d", false, None),
            ("postgres://u@127.0.0.1/d", false, None),
            ("postgres://u@h/d?host=/var/run/postgresql", false, None),
            ("postgres://u@db/d", false, Some("not encrypted")),
            ("postgres://u@db/d", true, Some("any server")),
            ("postgres://u@db/d?sslmode=require", true, Some("any server")),
            ("postgres://u@db/d?sslmode=verify-full", true, None),
        ] {
            let found = of_database("database engine", "engine_database_url", url, is_encrypted);
            match (found, part) {
                (Some(finding), Some(part)) => assert!(finding.found.contains(part), "{url}: {finding:?}"),
                (found, part) => assert_eq!((found, part), (None, None), "{url}"),
            }
        }
    }
}
