//! Domain events for other systems: structured CloudEvents 1.0, made from timeline entries.

use amends_engine::core::{Entry, Event};
use amends_protocol::Json;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::order_fulfilment as order;

/// Every type of domain event that a saga's timeline brings forth. Each has a topic of its name.
pub const TYPES: [&str; 8] = [
    "order.created",
    "order.confirmed",
    "order.paid",
    "order.fulfilled",
    "order.cancel.requested",
    "order.cancelled",
    "order.failed",
    "refund.requested",
];

/// A domain event in the structured mode of CloudEvents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DomainEvent {
    /// `1.0`.
    pub specversion: String,
    /// The same for every delivery.
    pub id: String,
    /// `/amends/order_fulfilment`.
    pub source: String,
    /// One of [`TYPES`]; also the topic.
    pub r#type: String,
    /// The order's id.
    pub subject: String,
    /// When it happened.
    pub time: String,
    /// `application/json`.
    pub datacontenttype: String,
    /// The saga's revision: a reader of several topics orders and drops duplicates by it. (CloudEvents'
    /// extension of that name is a string.)
    pub sequence: String,
    /// What happened.
    pub data: Data,
}

/// What a domain event says. No personal fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Data {
    /// The order.
    pub order_id: String,
    /// Its saga.
    pub saga_id: Uuid,
    /// The order's status since, where it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// While being undone: the status it will have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heading_for: Option<String>,
    /// What was ordered; with `order.created` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Json>,
}

/// The types of the domain events that an entry stands for, in order. Labels and the entry's event say it all,
/// so that writers publish nothing themselves.
pub fn types(entry: &Entry) -> Vec<&'static str> {
    let mut types = Vec::new();
    if matches!(entry.occurrence.event, Event::CancelRequested(_)) {
        types.push("order.cancel.requested");
    }
    match entry.did.label.as_deref() {
        Some(order::PENDING) => types.push("order.created"),
        Some(order::CONFIRMED) => types.push("order.confirmed"),
        Some(order::PAID) => types.push("order.paid"),
        Some(order::FULFILLED) => types.push("order.fulfilled"),
        Some(order::CANCELLED) => types.push("order.cancelled"),
        Some(order::FAILED | order::PAYMENT_FAILED | order::SHIPMENT_FAILED) => types.push("order.failed"),
        _ => {}
    }
    // Sent again by the clock, it is the same refund.
    if entry.did.sent.iter().any(|sent| sent == "pay compensate") && entry.occurrence.event != Event::Woke {
        types.push("refund.requested");
    }
    types
}

/// The domain events of an entry.
pub fn domain_events(saga_id: Uuid, order_id: &str, entry: &Entry) -> Vec<DomainEvent> {
    let input = match &entry.occurrence.event {
        Event::Started(input) => Some(input),
        _ => None,
    };
    let event = |r#type: &str| DomainEvent {
        specversion: "1.0".to_owned(),
        id: format!("{saga_id}/{}/{type}", entry.revision),
        source: format!("/amends/{}", order::NAME),
        r#type: r#type.to_owned(),
        subject: order_id.to_owned(),
        time: instant(entry.occurrence.at),
        datacontenttype: "application/json".to_owned(),
        sequence: entry.revision.to_string(),
        data: Data {
            order_id: order_id.to_owned(),
            saga_id,
            status: entry.did.label.clone(),
            heading_for: entry.did.heading_for.clone(),
            order: input.filter(|_| r#type == "order.created").cloned(),
        },
    };
    types(entry).into_iter().map(event).collect()
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
