//! The timeline of an order, as its customer or an operator sees it.

use amends_engine::core::{Entry, Event};
use amends_orders::OrderView;
use amends_postgres::timeline::SagaEntry;
use amends_protocol::Outcome;
use amends_workflows::{order_fulfilment as order, order_refund, order_return};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::view::{Audience, instant};
use crate::http::openapi::schema::Instant;

/// The type of an entry whose event is not the customer's own.
const CHANGED: &str = "changed";

impl Audience {
    /// Renders the timeline of an order.
    pub fn timeline(self, order: &OrderView, entries: &[SagaEntry]) -> Vec<Item> {
        entries.iter().filter_map(|entry| self.item(order, entry)).collect()
    }

    /// Renders an entry of an order's timeline. A customer sees how the status changed: no operator, no reason that one
    /// gave, no step.
    pub fn item(self, order: &OrderView, SagaEntry { saga_id, entry }: &SagaEntry) -> Option<Item> {
        match self {
            Self::Operator => Some(Item { saga_id: Some(*saga_id), ..Item::from(entry) }),
            Self::Customer if carries_status(order, *saga_id) => Item::for_customer(entry),
            Self::Customer => Item::of_refund(entry),
        }
    }
}

/// What has happened to an order.
#[derive(Debug, Serialize, ToSchema)]
pub struct Timeline {
    pub items: Vec<Item>,
}

/// Returns whether a saga's label is the order's status.
pub fn carries_status(order: &OrderView, saga: Uuid) -> bool {
    let found = order.sagas.iter().flatten().find(|of| of.saga_id == saga);
    found.is_none_or(|found| matches!(found.workflow.as_str(), order::NAME | order_return::NAME))
}

/// One entry of a timeline.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TimelineItem)]
pub struct Item {
    /// For operators: the saga whose entry it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    saga_id: Option<Uuid>,
    #[schema(value_type = Instant)]
    at: String,
    /// The revision of the saga that the entry has brought about.
    revision: u32,
    /// What happened.
    r#type: &'static str,
    /// For operators: the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    step: Option<String>,
    /// For operators: the attempt at the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    attempt: Option<u32>,
    /// What it changed, such as `status`, and for operators what was sent and answered.
    #[schema(value_type = Object)]
    detail: Map<String, Value>,
}

impl Item {
    /// Renders an entry for a customer, if there is something in it for them.
    fn for_customer(entry: &Entry) -> Option<Self> {
        let (event, did) = (&entry.occurrence.event, &entry.did);
        let is_theirs = matches!(event, Event::Started(_) | Event::CancelRequested(_));
        if !is_theirs && did.label.is_none() && did.heading_for.is_none() {
            return None;
        }
        let shown = [("status", &did.label), ("headingFor", &did.heading_for)];
        let shown =
            shown.into_iter().filter_map(|(key, value)| Some((key.to_owned(), json!(value.as_ref()?))));
        Some(Self {
            saga_id: None,
            at: instant(entry.occurrence.at),
            revision: entry.revision,
            r#type: if is_theirs { event.name() } else { CHANGED },
            step: None,
            attempt: None,
            detail: shown.collect(),
        })
    }

    /// Renders an entry of a refund for a customer. The label of its saga is no status of the order.
    fn of_refund(entry: &Entry) -> Option<Self> {
        let r#type = match entry.did.label.as_deref()? {
            order_refund::REFUNDED => "refunded",
            _ => "refund_started",
        };
        let at = instant(entry.occurrence.at);
        let (revision, detail) = (entry.revision, Map::new());
        Some(Self { saga_id: None, at, revision, r#type, step: None, attempt: None, detail })
    }
}

impl From<&Entry> for Item {
    fn from(entry: &Entry) -> Self {
        let (event, did) = (&entry.occurrence.event, &entry.did);
        let mut detail = Map::new();
        let mut put = |key: &str, value: Value| {
            if !value.is_null() {
                detail.insert(key.to_owned(), value);
            }
        };
        match event {
            Event::Replied(reply) => {
                put("command", json!(reply.kind));
                put("reason", json!(reply.reason));
                put("result", json!(reply.result));
                if !reply.exposure.is_empty() {
                    put("exposure", json!(reply.exposure));
                }
            }
            Event::CancelRequested(by) => put("by", json!(by)),
            Event::RetryRequested(retry) => {
                put("by", json!(retry.by));
                put("commandId", json!(retry.seen.command_id));
            }
            Event::ResendRequested(resend) => put("by", json!(resend.by)),
            Event::Resolved(resolution) => {
                put("by", json!(resolution.by));
                put("commandId", json!(resolution.seen.command_id));
                put("outcome", json!(if resolution.done { "done" } else { "notDone" }));
                put("reference", json!(resolution.reference));
            }
            Event::Poisoned(reason) => put("reason", json!(reason)),
            Event::Signalled(signal) => {
                put("by", json!(signal.by));
                put("signal", json!(signal.name));
                put("payload", json!(signal.payload));
            }
            Event::Started(_) | Event::Woke => {}
        }
        put("status", json!(did.label));
        put("headingFor", json!(did.heading_for));
        if !did.sent.is_empty() {
            put("sent", json!(did.sent));
        }
        put("parksAt", json!(did.parks_at.map(instant)));
        put("parked", json!(did.parked));
        put("ended", json!(did.ended));
        put("incident", json!(did.incident));
        put("noted", json!(did.noted.map(Outcome::as_str)));
        Self {
            saga_id: None,
            at: instant(entry.occurrence.at),
            revision: entry.revision,
            r#type: event.name(),
            step: did.step.clone(),
            attempt: did.attempt,
            detail,
        }
    }
}
