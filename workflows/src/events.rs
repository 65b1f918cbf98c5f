//! Domain events for other systems: structured CloudEvents 1.0, made from timeline entries. Each workflow defines which
//! entries stand for which types.

use amends_engine::core::{Entry, Event};
use amends_protocol::Json;
use chrono::{DateTime, SecondsFormat, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{order_fulfilment::OrderInput, order_refund, order_return::ReturnInput};

/// A domain event in the structured mode of CloudEvents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DomainEvent {
    /// `1.0`.
    pub specversion: String,
    /// The event's id, the same for every delivery.
    pub id: String,
    /// `/amends/order_fulfilment`.
    pub source: String,
    /// The type, which is also the topic: `order.created`.
    pub r#type: String,
    /// The order's id.
    pub subject: String,
    /// When it happened.
    pub time: String,
    /// `application/json`.
    pub datacontenttype: String,
    /// Counts the order's events from 1, without gaps, over all of its sagas. A reader of several topics sorts by it and
    /// drops duplicates. (CloudEvents' extension of that name is a string.)
    pub sequence: String,
    /// CloudEvents' extension for distributed tracing: the W3C context of the request that its saga was born of, if that
    /// is known. The same for every delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The content.
    pub data: Data,
}

/// The content of a domain event, without personal fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Data {
    /// The order.
    pub order_id: String,
    /// Its saga.
    pub saga_id: Uuid,
    /// The order's new status, if it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// The status that an order being undone will have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heading_for: Option<String>,
    /// The saga's input; with `order.created` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<OrderInput>")]
    pub order: Option<Json>,
    /// The saga's input; with `order.return.requested` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<ReturnInput>")]
    pub r#return: Option<Json>,
    /// What was paid back, in minor units; with `order.refunded` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<i64>,
    /// ISO 4217; with `order.refunded` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
}

/// Creates the domain events of these types for an entry of a saga.
pub(crate) fn of_entry(
    workflow: &str,
    types: &[&'static str],
    saga_id: Uuid,
    order_id: &str,
    entry: &Entry,
    before: u64,
) -> Vec<DomainEvent> {
    let input = match &entry.occurrence.event {
        Event::Started(input) => Some(input),
        _ => None,
    };
    let brought = match &entry.occurrence.event {
        Event::Replied(reply) => reply.exposure.as_slice(),
        Event::Resolved(resolution) => resolution.exposure.as_slice(),
        _ => &[],
    };
    let refunded = brought.iter().find(|exposure| exposure.kind == "money_refunded");
    let event = |(number, r#type): (u64, &str)| DomainEvent {
        specversion: "1.0".to_owned(),
        id: format!("{saga_id}/{}/{type}", revision(entry)),
        source: format!("/amends/{workflow}"),
        r#type: r#type.to_owned(),
        subject: order_id.to_owned(),
        time: instant(entry.occurrence.at),
        datacontenttype: "application/json".to_owned(),
        sequence: number.to_string(),
        traceparent: None,
        data: Data {
            order_id: order_id.to_owned(),
            saga_id,
            status: order_status(workflow, entry).map(str::to_owned),
            heading_for: entry.did.heading_for.clone(),
            order: input.filter(|_| r#type == "order.created").cloned(),
            r#return: input.filter(|_| r#type == "order.return.requested").cloned(),
            amount: refunded.filter(|_| r#type == "order.refunded").map(|refunded| refunded.amount),
            currency: refunded.filter(|_| r#type == "order.refunded").map(|refunded| refunded.unit.clone()),
        },
    };
    (before + 1..).zip(types.iter().copied()).map(event).collect()
}

/// Returns the status that an order has from this entry on, if the entry changes it. A refund's label is no status of the
/// order.
pub fn order_status<'a>(workflow: &str, entry: &'a Entry) -> Option<&'a str> {
    entry.did.label.as_deref().filter(|_| workflow != order_refund::NAME)
}

/// Returns an entry's revision; after a restore with the epoch: the same revision may have been published before, with
/// another content.
fn revision(entry: &Entry) -> String {
    match entry.epoch {
        0 => entry.revision.to_string(),
        epoch => format!("{}.{epoch}", entry.revision),
    }
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use amends_engine::core::{Did, Occurrence};

    use super::*;

    #[test]
    fn an_event_of_a_new_epoch_has_an_id_of_its_own_and_at_first_ids_name_no_epoch() {
        let entry = |epoch| Entry {
            revision: 7,
            core_version: 1,
            epoch,
            occurrence: Occurrence { event: Event::Woke, at: DateTime::UNIX_EPOCH, jitter: 0 },
            did: Did::default(),
        };
        let saga = Uuid::from_u128(1);
        let id = |epoch| {
            let events = of_entry("order_fulfilment", &["order.paid"], saga, "o", &entry(epoch), 4);
            (events[0].id.clone(), events[0].sequence.clone())
        };
        assert_eq!(id(0), (format!("{saga}/7/order.paid"), "5".to_owned()));
        assert_eq!(id(2), (format!("{saga}/7.2/order.paid"), "5".to_owned()));
    }
}
