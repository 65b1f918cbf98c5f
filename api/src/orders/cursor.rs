//! Cursors of lists: opaque, signed, and bound to the caller and to the list.

use amends_protocol::TokenKey;
use uuid::Uuid;

/// What the seal of a cursor is a seal of.
const CURSOR: &str = "list cursor";
/// Number of hex digits of a seal.
const SEAL: usize = 32;

/// What a page of a list begins behind.
pub trait Place: Sized {
    /// Returns it as bytes.
    fn to_bytes(&self) -> Vec<u8>;

    /// Returns the place that these are the bytes of.
    fn of_bytes(bytes: &[u8]) -> Option<Self>;
}

impl Place for Uuid {
    fn to_bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        Uuid::from_slice(bytes).ok()
    }
}

impl Place for String {
    fn to_bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        String::from_utf8(bytes.to_vec()).ok()
    }
}

impl Place for i64 {
    fn to_bytes(&self) -> Vec<u8> {
        self.to_be_bytes().to_vec()
    }

    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        Some(i64::from_be_bytes(bytes.try_into().ok()?))
    }
}

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
    pub fn cursor<P: Place>(&self, key: &TokenKey, after: &P) -> String {
        let after = after.to_bytes();
        format!("{}{}", hex::encode(&after), key.seal(CURSOR, &self.content(&after)))
    }

    /// Returns what the cursor's page is behind; `None` unless it is a cursor of this list for this caller.
    pub fn after<P: Place>(&self, key: &TokenKey, cursor: &str) -> Option<P> {
        let (after, seal) = cursor.split_at_checked(cursor.len().checked_sub(SEAL)?)?;
        let after = hex::decode(after).ok()?;
        let is_ours = key.is_seal(CURSOR, &self.content(&after), seal);
        P::of_bytes(&after).filter(|_| is_ours)
    }

    /// Returns what is sealed: all parts with their lengths.
    fn content(&self, after: &[u8]) -> Vec<u8> {
        [&(after.len() as u64).to_be_bytes(), after, &self.0].concat()
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
        let cursor = own.cursor(&key, &after);
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
            assert_eq!(other.after::<Uuid>(&key, &cursor), None, "{other:?}");
        }
    }

    #[test]
    fn what_is_no_cursor_or_was_changed_leads_nowhere() {
        let (key, own) = (TokenKey::new([7; 32]), scope("c-1", &[]));
        let cursor = own.cursor(&key, &Uuid::now_v7());
        let changed = cursor.replacen(&cursor[..1], if cursor.starts_with('0') { "1" } else { "0" }, 1);
        for text in
            ["", "next", &cursor[..SEAL], &cursor[1..], &changed, &format!("{cursor}00"), &"ü".repeat(32)]
        {
            assert_eq!(own.after::<Uuid>(&key, text), None, "{text}");
        }
        assert_eq!(own.after::<Uuid>(&TokenKey::new([8; 32]), &cursor), None);
    }
}
