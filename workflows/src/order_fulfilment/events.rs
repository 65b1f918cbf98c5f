//! The domain events of `order_fulfilment`. Labels and the entry's event contain all that is needed, so that writers of
//! entries publish nothing themselves.

use amends_engine::core::{Entry, Event};

use super::{CANCELLED, CONFIRMED, FAILED, FULFILLED, PAID, PAYMENT_FAILED, PENDING, SHIPMENT_FAILED};

/// Every type of domain event that a saga of this workflow emits.
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

/// Returns the types of the domain events of an entry, in order.
pub fn types(entry: &Entry) -> Vec<&'static str> {
    let mut types = Vec::new();
    if matches!(entry.occurrence.event, Event::CancelRequested(_)) {
        types.push("order.cancel.requested");
    }
    match entry.did.label.as_deref() {
        Some(PENDING) => types.push("order.created"),
        Some(CONFIRMED) => types.push("order.confirmed"),
        Some(PAID) => types.push("order.paid"),
        Some(FULFILLED) => types.push("order.fulfilled"),
        Some(CANCELLED) => types.push("order.cancelled"),
        Some(FAILED | PAYMENT_FAILED | SHIPMENT_FAILED) => types.push("order.failed"),
        _ => {}
    }
    // A compensation sent again by a timer is the same refund.
    if entry.did.sent.iter().any(|sent| sent == "pay compensate") && entry.occurrence.event != Event::Woke {
        types.push("refund.requested");
    }
    types
}
