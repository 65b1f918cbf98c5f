//! The domain events of `order_return`.

use amends_engine::core::Entry;

use super::{REFUND, RESTOCK};
use crate::order_fulfilment::RETURN_REQUESTED;

/// Every type of domain event that a saga of this workflow emits.
pub const TYPES: [&str; 3] = ["order.return.requested", "order.returned", "order.refunded"];

/// Returns the types of the domain events of an entry, in order.
pub fn types(entry: &Entry) -> Vec<&'static str> {
    let mut types = Vec::new();
    let did = &entry.did;
    if did.label.as_deref() == Some(RETURN_REQUESTED) {
        types.push("order.return.requested");
    }
    // What follows a success of the refund, or an operator's evidence of it. A timer sends again what it sent.
    let follows = did.sent.iter().any(|sent| sent.starts_with(RESTOCK));
    if follows && did.step.as_deref() == Some(REFUND) {
        types.push("order.refunded");
    }
    if did.step.as_deref() == Some(RESTOCK) && did.ended.is_some() {
        types.push("order.returned");
    }
    types
}
