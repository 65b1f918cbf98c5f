//! Domain events for other systems, made from timeline entries.

use amends_engine::core::{Entry, Event};

use crate::order_fulfilment as order;

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
    // The first attempt only: an attempt after it is the same refund.
    if entry.did.sent.iter().any(|sent| sent == "pay compensate")
        && !matches!(entry.occurrence.event, Event::Woke)
    {
        types.push("refund.requested");
    }
    types
}
