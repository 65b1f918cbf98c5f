//! Domain events for other systems: structured CloudEvents 1.0, made from timeline entries. Which entry stands for which
//! types says each workflow.

use amends_engine::core::{Entry, Event};
use amends_protocol::Json;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A domain event in the structured mode of CloudEvents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DomainEvent {
    /// `1.0`.
    pub specversion: String,
    /// The same for every delivery.
    pub id: String,
    /// `/amends/order_fulfilment`.
    pub source: String,
    /// `order.created`; also the topic.
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

/// The domain events of these types that an entry of a saga stands for.
pub(crate) fn of_entry(
    workflow: &str,
    types: &[&'static str],
    saga_id: Uuid,
    order_id: &str,
    entry: &Entry,
) -> Vec<DomainEvent> {
    let input = match &entry.occurrence.event {
        Event::Started(input) => Some(input),
        _ => None,
    };
    let event = |r#type: &str| DomainEvent {
        specversion: "1.0".to_owned(),
        id: format!("{saga_id}/{}/{type}", entry.revision),
        source: format!("/amends/{workflow}"),
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
    types.iter().copied().map(event).collect()
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
