//! Requests for webhooks: what they may contain.

use amends_http::Fault;
use amends_webhooks::{Reach, target::target};
use chrono::{DateTime, Utc};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::types;
use crate::{
    http::openapi::schema::{EventType, Instant, WebhookFormat, WebhookUrl},
    problem::Problem,
};

/// What is sent, unless the request says another.
pub const EVENT: &str = "event";
/// The order is sent.
pub const SNAPSHOT: &str = "snapshot";
/// Maximum number of types of a webhook.
const TYPES_MOST: usize = 20;

/// A webhook to be created.
#[derive(Debug, Clone, Serialize, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WebhookRequest {
    /// Where events are sent.
    #[garde(skip)]
    #[schema(value_type = WebhookUrl)]
    pub url: String,
    /// The types of events that are sent.
    #[garde(length(min = 1, max = TYPES_MOST), inner(custom(known_type)))]
    #[schema(value_type = Vec<EventType>, min_items = 1, max_items = 20)]
    pub types: Vec<String>,
    /// `event`: what happened. `snapshot`: the order, as it is when it is sent.
    #[garde(inner(custom(known_format)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<WebhookFormat>)]
    pub format: Option<String>,
}

/// Changes of a webhook. A field that is left out stays as it is.
#[derive(Debug, Clone, Serialize, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WebhookPatch {
    /// Whether anything is sent.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub enabled: Option<bool>,
    /// Where events are sent.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<WebhookUrl>)]
    pub url: Option<String>,
    /// The types of events that are sent.
    #[garde(inner(length(min = 1, max = TYPES_MOST), inner(custom(known_type))))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<EventType>>, min_items = 1, max_items = 20)]
    pub types: Option<Vec<String>>,
    /// `event` or `snapshot`.
    #[garde(inner(custom(known_format)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<WebhookFormat>)]
    pub format: Option<String>,
}

/// Which deliveries are sent again.
#[derive(Debug, Clone, Serialize, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WebhookResendRequest {
    /// Those of events from this time on.
    #[garde(custom(time))]
    #[schema(value_type = Instant)]
    pub since: String,
}

impl WebhookResendRequest {
    /// Returns the time.
    pub fn since(&self) -> DateTime<Utc> {
        read_time(&self.since).unwrap_or_default()
    }
}

/// Checks where a webhook is to go.
///
/// # Errors
/// 400.
pub fn check_url(url: &str, reach: Reach) -> Result<(), Problem> {
    match target(url, reach) {
        Ok(_) => Ok(()),
        Err(why) => Err(Problem::Invalid(vec![Fault::at("/url", why.to_string())])),
    }
}

fn known_type(named: &str, (): &()) -> garde::Result {
    if types::is_known(named) {
        return Ok(());
    }
    let known: Vec<&str> = types::KNOWN_TYPES.iter().copied().collect();
    Err(garde::Error::new(format!("must be one of {}, or a group such as order.*", known.join(", "))))
}

fn known_format(format: &str, (): &()) -> garde::Result {
    match format {
        EVENT | SNAPSHOT => Ok(()),
        _ => Err(garde::Error::new("must be event or snapshot")),
    }
}

fn time(text: &str, (): &()) -> garde::Result {
    match read_time(text) {
        Some(_) => Ok(()),
        None => Err(garde::Error::new("must be a time by RFC 3339, such as 2026-01-01T00:00:00Z")),
    }
}

fn read_time(text: &str) -> Option<DateTime<Utc>> {
    // An id begins with a time from 1970 on: no event is older.
    Some(DateTime::parse_from_rfc3339(text).ok()?.to_utc().max(DateTime::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use amends_http::body;
    use axum::{body::Bytes, http::HeaderMap};
    use serde_json::{Value, json};

    use super::*;

    fn refused(body: &Value) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/json".parse().unwrap());
        let read: Result<WebhookRequest, _> = body::read(&headers, &Bytes::from(body.to_string()));
        read.map_or_else(|problem| format!("{problem:?}"), |_| String::new())
    }

    #[test]
    fn an_unknown_type_or_format_and_none_or_too_many_types_are_refused_with_their_place() {
        let with = |types: Value| json!({ "url": "https://a.example/", "types": types, "format": "event" });
        assert_eq!(refused(&with(json!(["order.*", "refund.requested"]))), "");
        for (types, place) in [
            (json!([]), "/types"),
            (json!(vec!["order.paid"; TYPES_MOST + 1]), "/types"),
            (json!(["order.paid", "order.eaten"]), "/types/1"),
            (json!(["*"]), "/types/0"),
            (json!("order.*"), "/types"),
        ] {
            assert!(refused(&with(types.clone())).contains(&format!("{place:?}")), "{types}");
        }
        let format = json!({ "url": "https://a.example/", "types": ["order.*"], "format": "xml" });
        assert!(refused(&format).contains("\"/format\""));
        let unknown = json!({ "url": "https://a.example/", "types": ["order.*"], "secret": "mine" });
        assert!(refused(&unknown).contains("\"/secret\""));
    }
}
