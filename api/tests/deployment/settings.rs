//! The lists of settings in the chart's schema, in `.env.example` and in docs/DEPLOYING.md.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::support::{self, Setting, defaults, kept};

/// Settings that the chart derives from other values.
const OF_THE_CHART: [&str; 27] = [
    "allowed_hosts",
    "api_url",
    "database_url",
    "database_url_file",
    "inventory_url",
    "jwks_url",
    "jwt_audience",
    "jwt_issuer",
    "jwt_key_file",
    "kafka_brokers",
    "kafka_ca_file",
    "kafka_sasl_mechanism",
    "kafka_sasl_password",
    "kafka_sasl_password_file",
    "kafka_sasl_user",
    "kafka_tls",
    "listen",
    "metrics_listen",
    "no_auth",
    "notification_url",
    "redis_ca_file",
    "redis_url",
    "redis_url_file",
    "roles_claim",
    "service_token",
    "webhook_key",
    "webhook_key_file",
];

const SCHEMA: &str = "charts/amends/values.schema.json";

fn is_of_the_chart(key: &str) -> bool {
    let is_property = key.starts_with("rdkafka.");
    is_property
        || key.ends_with("_database_url")
        || key.ends_with("_database_url_file")
        || OF_THE_CHART.contains(&key)
}

/// Returns the JSON type of a setting's value.
fn kind(setting: &Setting) -> &'static str {
    match setting.default.as_str() {
        "true" | "false" => "boolean",
        number if number.parse::<i64>().is_ok() => "integer",
        number if number.parse::<f64>().is_ok() => "number",
        _ => "string",
    }
}

#[test]
fn the_chart_takes_every_setting_that_it_does_not_derive_and_no_other() {
    let text = support::text(SCHEMA);
    let mut schema: Value = serde_json::from_str(&text).unwrap();
    let of_chart: BTreeSet<_> = defaults().into_iter().map(|setting| setting.key).collect();
    for key in OF_THE_CHART {
        assert!(of_chart.contains(key), "{key} is no setting any more");
    }
    let own = defaults().into_iter().filter(|setting| !is_of_the_chart(&setting.key));
    let properties: Map<String, Value> =
        own.map(|setting| (setting.key.clone(), json!({ "type": kind(&setting) }))).collect();
    let names: Vec<_> = properties.keys().cloned().collect();
    schema["$defs"]["settings"]["properties"] = Value::Object(properties);
    let mut generated = serde_json::to_string_pretty(&schema).unwrap();
    generated.push('\n');
    assert!(names.len() > 15, "{names:?}");
    kept(SCHEMA, &text, &generated);
}
