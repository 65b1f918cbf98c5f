//! The part of a domain event (structured CloudEvents 1.0) that matters here.

use serde::Deserialize;

/// The topics that customers hear of.
pub const TOPICS: [&str; 6] =
    ["order.created", "order.confirmed", "order.paid", "order.fulfilled", "order.cancelled", "order.failed"];

/// What is read of an event. What else it says may change without us.
#[derive(Debug, Deserialize)]
pub(crate) struct Event {
    pub id: String,
    pub r#type: String,
    pub sequence: String,
    pub data: Data,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Data {
    pub order_id: String,
}

impl Event {
    /// Its place among its order's events; `None` if it is no number.
    pub fn number(&self) -> Option<i64> {
        self.sequence.parse().ok()
    }
}

/// The template of the message that a type of event brings about; `None` if nobody is told.
pub fn template(event_type: &str) -> Option<&'static str> {
    Some(match event_type {
        "order.created" => "order-received",
        "order.confirmed" => "order-confirmed",
        "order.paid" => "payment-received",
        "order.fulfilled" => "order-shipped",
        "order.cancelled" => "order-cancelled",
        "order.failed" => "order-failed",
        _ => return None,
    })
}
