//! The domain events of `order_fulfilment`: labels and the entry's event say it all, so that writers publish nothing
//! themselves.

use amends_engine::core::{Entry, Event};

use super::{CANCELLED, CONFIRMED, FAILED, FULFILLED, PAID, PAYMENT_FAILED, PENDING, SHIPMENT_FAILED};

/// Every type of domain event that a saga of this workflow brings forth.
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

/// The types of the domain events that an entry stands for, in order.
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
    // Sent again by the clock, it is the same refund.
    if entry.did.sent.iter().any(|sent| sent == "pay compensate") && entry.occurrence.event != Event::Woke {
        types.push("refund.requested");
    }
    types
}
