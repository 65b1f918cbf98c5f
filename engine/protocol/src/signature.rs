//! The signature of a command: proof that the sender may give commands to its participant.

use std::{collections::HashMap, fmt};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::KeyError;

/// The header that carries the signature.
pub const SIGNATURE_HEADER: &str = "amends-signature";

/// A key of one participant. Its holder may give the participant commands.
#[derive(Clone)]
pub struct CommandKey {
    id: String,
    mac: Hmac<Sha256>,
}

impl CommandKey {
    /// Creates a key from 32 random bytes. The id tells the participant's keys apart.
    pub fn new(id: impl Into<String>, bytes: [u8; 32]) -> Self {
        // Half of the hashing depends only on the key and is done once.
        Self { id: id.into(), mac: Hmac::new_from_slice(&bytes).expect("HMAC takes a key of any length") }
    }

    /// Parses a key from its 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`KeyError`] for any other text.
    pub fn from_hex(id: impl Into<String>, text: &str) -> Result<Self, KeyError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| KeyError)?;
        Ok(Self::new(id, bytes))
    }

    /// Returns the key's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the header's value for a message: `v1;kid=…;` and the HMAC-SHA-256 of the bytes, in hex.
    pub fn sign(&self, bytes: &[u8]) -> String {
        let mut mac = self.mac.clone();
        mac.update(bytes);
        let mut signature = String::with_capacity(72 + self.id.len());
        signature.push_str("v1;kid=");
        signature.push_str(&self.id);
        signature.push(';');
        signature.push_str(&hex::encode(mac.finalize().into_bytes()));
        signature
    }

    fn verifies(&self, bytes: &[u8], mac_hex: &str) -> bool {
        let mut given = [0; 32];
        let mut mac = self.mac.clone();
        mac.update(bytes);
        hex::decode_to_slice(mac_hex, &mut given).is_ok() && mac.verify_slice(&given).is_ok()
    }
}

impl fmt::Debug for CommandKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommandKey({}, hidden)", self.id)
    }
}

/// Why a signature is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The header is missing.
    #[error("amends-signature: missing")]
    Missing,
    /// The header has a different form.
    #[error("amends-signature: not `v1;kid=…;` and 64 hexadecimal digits")]
    Malformed,
    /// The participant does not have the key that signed the message.
    #[error("amends-signature: the key is not one of this participant's")]
    UnknownKey,
    /// The signature does not match the bytes.
    #[error("amends-signature: wrong")]
    Wrong,
}

/// The keys that a participant accepts. There can be several, so that keys can be rotated without a gap.
#[derive(Debug, Clone, Default)]
pub struct CommandKeys(HashMap<String, CommandKey>);

impl CommandKeys {
    /// Returns whether there is no key, so that no signature can be checked.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks the signature of a message. The bytes are parsed only after their signature is accepted.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn check(&self, signature: Option<&str>, bytes: &[u8]) -> Result<(), SignatureError> {
        let signature = signature.ok_or(SignatureError::Missing)?;
        let parts = signature.strip_prefix("v1;kid=").and_then(|rest| rest.split_once(';'));
        let (id, mac) = parts.ok_or(SignatureError::Malformed)?;
        let key = self.0.get(id).ok_or(SignatureError::UnknownKey)?;
        if key.verifies(bytes, mac) { Ok(()) } else { Err(SignatureError::Wrong) }
    }
}

impl FromIterator<CommandKey> for CommandKeys {
    fn from_iter<I: IntoIterator<Item = CommandKey>>(keys: I) -> Self {
        Self(keys.into_iter().map(|key| (key.id.clone(), key)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_signature_of_the_same_key_and_bytes_is_believed() {
        let (current, next, other) =
            (CommandKey::new("a", [7; 32]), CommandKey::new("b", [8; 32]), CommandKey::new("a", [9; 32]));
        let keys: CommandKeys = [current.clone(), next.clone()].into_iter().collect();
        let bytes = b"{\"step\":\"pay\"}";
        for key in [&current, &next] {
            assert_eq!(keys.check(Some(&key.sign(bytes)), bytes), Ok(()));
            assert_eq!(
                keys.check(Some(&key.sign(bytes)), b"{\"step\":\"ship\"}"),
                Err(SignatureError::Wrong)
            );
        }
        let foreign = CommandKey::new("c", [7; 32]);
        assert_eq!(keys.check(Some(&other.sign(bytes)), bytes), Err(SignatureError::Wrong));
        assert_eq!(keys.check(Some(&foreign.sign(bytes)), bytes), Err(SignatureError::UnknownKey));
        assert_eq!(keys.check(None, bytes), Err(SignatureError::Missing));
        let short = current.sign(bytes);
        assert_eq!(keys.check(Some(&short[..40]), bytes), Err(SignatureError::Wrong));
        for text in ["", "v2;kid=a;00", "v1;kid=a", "v1;a;00"] {
            assert_eq!(keys.check(Some(text), bytes), Err(SignatureError::Malformed), "{text}");
        }
    }

    /// The example in `docs/PROTOCOL.md`.
    #[test]
    fn the_worked_example_is_right() {
        let mut bytes = [0; 32];
        (0..32).for_each(|n| bytes[usize::from(n)] = n);
        let signature = CommandKey::new("2026a", bytes).sign(b"{}");
        assert_eq!(
            signature,
            "v1;kid=2026a;86227fe96722a2247dcfee12c07d89c1b0567bbc9aa6a8d804838f66a3da843f"
        );
    }
}
