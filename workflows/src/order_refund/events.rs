//! The domain events of `order_refund`.

use amends_engine::core::Entry;

use super::REFUNDED;

/// Every type of domain event that a saga of this workflow emits.
pub const TYPES: [&str; 1] = ["order.refunded"];

/// Returns the types of the domain events of an entry, in order.
pub fn types(entry: &Entry) -> Vec<&'static str> {
    match entry.did.label.as_deref() {
        Some(REFUNDED) => vec!["order.refunded"],
        _ => Vec::new(),
    }
}
