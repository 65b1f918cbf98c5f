//! Orders and timelines as shown to clients.

use amends_engine::core::{Entry, Event};
use amends_orders::{OrderRow, OrderView};
use amends_protocol::{Json, Outcome};
use amends_workflows::order_fulfilment as order;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::request::NewLine;
use crate::{
    auth::{Caller, Right},
    http::openapi::schema::{Currency, Instant, OrderStatus, Text},
};

/// The type of an entry whose event is not the customer's own.
const CHANGED: &str = "changed";

/// Formats a time by RFC 3339 in UTC, to the millisecond.
pub fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The reader of an order or timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The customer of the order.
    Customer,
    /// An operator, who may also see internals.
    Operator,
}

impl Audience {
    /// Returns what a caller may see: who may read sagas sees the internals of an order too.
    pub fn of(caller: &Caller) -> Self {
        if caller.may(Right::ReadSagas) { Self::Operator } else { Self::Customer }
    }

    /// Renders a timeline.
    pub fn timeline(self, entries: &[Entry]) -> Vec<Item> {
        entries.iter().filter_map(|entry| self.item(entry)).collect()
    }

    /// Renders an entry of a timeline. A customer sees how the status changed: no operator, no reason that one gave, no
    /// step.
    pub fn item(self, entry: &Entry) -> Option<Item> {
        match self {
            Self::Operator => Some(Item::from(entry)),
            Self::Customer => Item::for_customer(entry),
        }
    }
}

/// An order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    id: Uuid,
    /// For operators: the saga to look at when the order makes no progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    saga_id: Option<Uuid>,
    #[schema(value_type = OrderStatus)]
    status: String,
    /// The status that the order will have once it is undone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    heading_for: Option<String>,
    /// Why it failed, in a word for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
    #[schema(value_type = Text)]
    customer_id: String,
    #[schema(value_type = Currency)]
    currency: String,
    /// In minor units of the currency.
    total: i64,
    #[schema(value_type = Vec<NewLine>)]
    lines: Json,
    #[schema(value_type = Instant)]
    created_at: String,
    #[schema(value_type = Instant)]
    updated_at: String,
    /// When it is cancelled by itself, while it is pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    cancels_at: Option<String>,
}

/// A page of orders.
#[derive(Debug, Serialize, ToSchema)]
pub struct OrderList {
    pub items: Vec<Order>,
    /// The `cursor` of the next page; null on the last one.
    #[schema(required)]
    pub next: Option<String>,
}

/// What an order waits for.
#[derive(Debug, Serialize, ToSchema)]
pub struct Explanation {
    /// One sentence for a person.
    pub sentence: String,
    /// Until when it waits; null if there is no such time.
    #[schema(required, format = DateTime)]
    pub until: Option<String>,
}

/// What has happened to an order.
#[derive(Debug, Serialize, ToSchema)]
pub struct Timeline {
    pub items: Vec<Item>,
}

impl Order {
    /// Renders the order as it was accepted: the first answer, and every replay of it.
    pub fn accepted(row: &OrderRow) -> Self {
        Self::with(row, order::PENDING.to_owned(), row.created_at)
    }

    /// Renders the order in its present state.
    pub fn now(view: &OrderView, audience: Audience) -> Self {
        Self {
            saga_id: (audience == Audience::Operator).then_some(view.order.saga_id),
            heading_for: view.heading_for.clone(),
            reason: view.reason.as_ref().map(|r| r.code.clone()),
            ..Self::with(&view.order, view.label.clone(), view.updated_at)
        }
    }

    fn with(row: &OrderRow, status: String, updated_at: DateTime<Utc>) -> Self {
        Self {
            id: row.id,
            saga_id: None,
            // Only a pending order is cancelled automatically.
            cancels_at: row.cancels_at.filter(|_| status == order::PENDING).map(instant),
            status,
            heading_for: None,
            reason: None,
            customer_id: row.customer_id.clone(),
            currency: row.currency.clone(),
            total: row.total,
            lines: row.lines.clone(),
            created_at: instant(row.created_at),
            updated_at: instant(updated_at),
        }
    }
}

/// One entry of a timeline.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TimelineItem)]
pub struct Item {
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
            at: instant(entry.occurrence.at),
            revision: entry.revision,
            r#type: if is_theirs { event.name() } else { CHANGED },
            step: None,
            attempt: None,
            detail: shown.collect(),
        })
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
            at: instant(entry.occurrence.at),
            revision: entry.revision,
            r#type: event.name(),
            step: did.step.clone(),
            attempt: did.attempt,
            detail,
        }
    }
}
