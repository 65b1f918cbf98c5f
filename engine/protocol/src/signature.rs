//! The signature of a command: proof that it comes from someone who may give its participant orders.

use std::{collections::HashMap, fmt};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::KeyError;

/// The header that carries it.
pub const SIGNATURE_HEADER: &str = "amends-signature";

/// A key of one participant: whoever has it may give it commands.
#[derive(Clone)]
pub struct CommandKey {
    id: String,
    mac: Hmac<Sha256>,
}

impl CommandKey {
    /// A key of 32 bytes from a source of randomness, under an id that says which of a participant's keys it is.
    pub fn new(id: impl Into<String>, bytes: [u8; 32]) -> Self {
        // Half of the hashing is the key's: once is enough.
        Self { id: id.into(), mac: Hmac::new_from_slice(&bytes).expect("HMAC takes a key of any length") }
    }

    /// A key from its 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`KeyError`] if it is anything else.
    pub fn from_hex(id: impl Into<String>, text: &str) -> Result<Self, KeyError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| KeyError)?;
        Ok(Self::new(id, bytes))
    }

    /// Which of the participant's keys it is.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The header's value for a message of these bytes: `v1;kid=…;` and HMAC-SHA-256 of them, in hex.
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

    fn believes(&self, bytes: &[u8], mac_hex: &str) -> bool {
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

/// What is wrong with a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is none.
    #[error("amends-signature: missing")]
    Missing,
    /// It has another form.
    #[error("amends-signature: not `v1;kid=…;` and 64 hexadecimal digits")]
    Malformed,
    /// It was made with a key that this participant does not have.
    #[error("amends-signature: the key is not one of this participant's")]
    UnknownKey,
    /// It is not that of these bytes.
    #[error("amends-signature: wrong")]
    Wrong,
}

/// The keys that a participant accepts: several, so that one can follow another without a gap.
#[derive(Debug, Clone, Default)]
pub struct CommandKeys(HashMap<String, CommandKey>);

impl CommandKeys {
    /// Whether there is none, so that no signature can be judged.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Judges the signature of a message. The bytes are only read as a message once they are believed.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn check(&self, signature: Option<&str>, bytes: &[u8]) -> Result<(), SignatureError> {
        let signature = signature.ok_or(SignatureError::Missing)?;
        let parts = signature.strip_prefix("v1;kid=").and_then(|rest| rest.split_once(';'));
        let (id, mac) = parts.ok_or(SignatureError::Malformed)?;
        let key = self.0.get(id).ok_or(SignatureError::UnknownKey)?;
        if key.believes(bytes, mac) { Ok(()) } else { Err(SignatureError::Wrong) }
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

    /// The example of the protocol's document.
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
