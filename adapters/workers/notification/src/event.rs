//! The part of a domain event (structured CloudEvents 1.0) that this worker needs.

use serde::Deserialize;

/// The topics about which customers are notified.
pub const TOPICS: [&str; 6] =
    ["order.created", "order.confirmed", "order.paid", "order.fulfilled", "order.cancelled", "order.failed"];

/// The fields read from an event. Its other fields may change without effect here.
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
    /// Returns its position among its order's events; `None` if it is not a number.
    pub fn number(&self) -> Option<i64> {
        self.sequence.parse().ok()
    }
}

/// Returns the template of the message for a type of event; `None` if no message is sent.
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
