//! Cursors of lists: opaque, signed, and bound to the caller and to the list.

use amends_protocol::TokenKey;
use uuid::Uuid;

/// What the seal of a cursor is a seal of.
const CURSOR: &str = "list cursor";
/// Number of hex digits of an id, and of a seal.
const HALF: usize = 32;

/// A caller's list: whose it is, and what it is filtered by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorScope(Vec<u8>);

impl CursorScope {
    /// Creates the scope of a caller's list from its path and parameters, without those of the page.
    pub fn new(subject: &str, path: &str, parameters: &[(&str, &str)]) -> Self {
        let mut parameters = parameters.to_vec();
        parameters.sort_unstable();
        let parts =
            [subject, path].into_iter().chain(parameters.into_iter().flat_map(|(name, value)| [name, value]));
        let mut scope = Vec::new();
        for part in parts {
            scope.extend((part.len() as u64).to_be_bytes());
            scope.extend(part.as_bytes());
        }
        Self(scope)
    }

    /// Returns the cursor of the page behind `after`.
    pub fn cursor(&self, key: &TokenKey, after: Uuid) -> String {
        format!("{}{}", after.simple(), key.seal(CURSOR, &self.content(after)))
    }

    /// Returns what the cursor's page is behind; `None` unless it is a cursor of this list for this caller.
    pub fn after(&self, key: &TokenKey, cursor: &str) -> Option<Uuid> {
        let (after, seal) = cursor.split_at_checked(HALF)?;
        let after = Uuid::try_parse(after).ok()?;
        key.is_seal(CURSOR, &self.content(after), seal).then_some(after)
    }

    fn content(&self, after: Uuid) -> Vec<u8> {
        [after.as_bytes(), self.0.as_slice()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(subject: &str, parameters: &[(&str, &str)]) -> CursorScope {
        CursorScope::new(subject, "/api/orders", parameters)
    }

    #[test]
    fn a_cursor_leads_on_in_its_own_list_and_for_its_caller_alone() {
        let (key, after) = (TokenKey::new([7; 32]), Uuid::now_v7());
        let own = scope("c-1", &[("status", "PAID"), ("status", "FAILED")]);
        let cursor = own.cursor(&key, after);
        assert_eq!(own.after(&key, &cursor), Some(after));
        assert_eq!(
            scope("c-1", &[("status", "FAILED"), ("status", "PAID")]).after(&key, &cursor),
            Some(after)
        );
        for other in [
            scope("c-2", &[("status", "PAID"), ("status", "FAILED")]),
            scope("c-1", &[("status", "PAID")]),
            scope("c-1", &[("customerId", "PAID"), ("status", "FAILED")]),
            CursorScope::new("c-1", "/api/other", &[("status", "PAID"), ("status", "FAILED")]),
        ] {
            assert_eq!(other.after(&key, &cursor), None, "{other:?}");
        }
    }

    #[test]
    fn what_is_no_cursor_or_was_changed_leads_nowhere() {
        let (key, own) = (TokenKey::new([7; 32]), scope("c-1", &[]));
        let cursor = own.cursor(&key, Uuid::now_v7());
        let changed = cursor.replacen(&cursor[..1], if cursor.starts_with('0') { "1" } else { "0" }, 1);
        for text in
            ["", "next", &cursor[..HALF], &cursor[1..], &changed, &format!("{cursor}00"), &"ü".repeat(32)]
        {
            assert_eq!(own.after(&key, text), None, "{text}");
        }
        assert_eq!(own.after(&TokenKey::new([8; 32]), &cursor), None);
    }
}
