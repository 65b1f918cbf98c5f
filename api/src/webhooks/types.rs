//! Types of events, as webhooks name them: exact, or a group with a trailing `.*`.

use std::{collections::BTreeSet, sync::LazyLock};

/// The type of an event that tests a webhook. It is sent whatever the webhook's types are.
pub const TEST_EVENT: &str = "webhook.test";
/// The end of the name of a group.
const GROUP: &str = ".*";

/// Every type of event that a webhook may name.
pub static KNOWN_TYPES: LazyLock<BTreeSet<&'static str>> =
    LazyLock::new(|| amends_workflows::all(&amends_workflows::Settings::default()).event_types());

/// Returns whether this names a type of event, or a group with one at least.
pub fn is_known(named: &str) -> bool {
    KNOWN_TYPES.iter().any(|known| names(named, known))
}

/// Returns whether this names the type, or a group of it.
pub fn names(named: &str, event_type: &str) -> bool {
    match named.strip_suffix(GROUP) {
        Some(group) => event_type.strip_prefix(group).is_some_and(|rest| rest.starts_with('.')),
        None => named == event_type,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_named_exactly_or_by_a_group_that_it_is_in() {
        for named in ["order.paid", "order.*", "order.return.*", "order.return.requested", "refund.*"] {
            assert!(is_known(named), "{named}");
        }
        for named in [
            "",
            "*",
            ".*",
            "order",
            "order.",
            "order.paid.*",
            "ord.*",
            "order*",
            "ORDER.*",
            "order.**",
            TEST_EVENT,
        ] {
            assert!(!is_known(named), "{named}");
        }
        assert!(
            names("order.*", "order.return.requested") && names("order.return.*", "order.return.requested")
        );
        assert!(!names("order.return.*", "order.returned") && !names("order.*", "refund.requested"));
    }
}
