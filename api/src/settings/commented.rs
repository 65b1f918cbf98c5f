//! The settings as `amends config` prints them: the commented defaults, with the values in force.

use std::{path::PathBuf, time::Duration};

use secrecy::SecretString;

use super::{DEFAULTS, Distributed, LogFormat, Settings, kafka};

impl Settings {
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
                "stop_delay" => time(self.stop_delay),
                "on_lost_commits" => text(self.on_lost_commits.as_str()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_every_default_is_commented() {
        let flags = [("engine-database-url".to_owned(), "postgres://u:hunter2@h/d".to_owned())];
        let settings =
            Settings::layered(&crate::services::names(), None, &flags, std::iter::empty()).unwrap();
        let printed = settings.commented();
        assert!(
            !printed.contains("hunter2") && printed.contains("engine_database_url = \"<hidden>\""),
            "{printed}"
        );
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
