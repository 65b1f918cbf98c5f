//! The reply token: proof that a reply answers a command that this engine sent.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::Uuid;

/// The text is not a key of 32 bytes in hex.
#[derive(Debug, thiserror::Error)]
#[error("a token key is 64 hexadecimal digits")]
pub struct KeyError;

/// The engine's key. A command's token is the HMAC-SHA-256 (RFC 2104) of its id, cut to 16 bytes, in hex.
#[derive(Clone)]
pub struct TokenKey {
    mac: Hmac<Sha256>,
    /// Other keys whose tokens are accepted.
    accepted: Vec<Hmac<Sha256>>,
}

impl TokenKey {
    /// Creates a key from 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        // Half of the hashing depends only on the key and is done once.
        let mac = Hmac::new_from_slice(&bytes).expect("HMAC takes a key of any length");
        Self { mac, accepted: Vec::new() }
    }

    /// Parses a key from its 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`KeyError`] for any other text.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| KeyError)?;
        Ok(Self::new(bytes))
    }

    /// Also accepts the tokens of another key: the previous or the next one during a rotation.
    #[must_use]
    pub fn accepting(mut self, other: TokenKey) -> Self {
        self.accepted.push(other.mac);
        self
    }

    /// Seals something that is handed out and comes back, such as a cursor: returns the HMAC of `what` (a name of its
    /// own for each kind) and `content`, cut to 16 bytes, in hex. No seal is a command's token, because a command's id is
    /// shorter than what is sealed.
    pub fn seal(&self, what: &str, content: &[u8]) -> String {
        hex::encode(&sealed(&self.mac, what, content).finalize().into_bytes()[..16])
    }

    /// Returns whether this is the seal of the content; takes the same time for every answer.
    pub fn is_seal(&self, what: &str, content: &[u8], seal: &str) -> bool {
        let mut given = [0; 16];
        if hex::decode_to_slice(seal, &mut given).is_err() {
            return false;
        }
        let fits = |key: &Hmac<Sha256>| sealed(key, what, content).verify_truncated_left(&given).is_ok();
        fits(&self.mac) || self.accepted.iter().any(fits)
    }

    /// Returns the token that a command carries.
    pub fn token(&self, command_id: Uuid) -> String {
        hex::encode(&of(&self.mac, command_id).finalize().into_bytes()[..16])
    }

    /// Returns whether a token belongs to the command; takes the same time for every answer.
    pub fn verifies(&self, command_id: Uuid, token: &str) -> bool {
        let mut given = [0; 16];
        if hex::decode_to_slice(token, &mut given).is_err() {
            return false;
        }
        let verified = |key: &Hmac<Sha256>| of(key, command_id).verify_truncated_left(&given).is_ok();
        verified(&self.mac) || self.accepted.iter().any(verified)
    }
}

fn of(key: &Hmac<Sha256>, command_id: Uuid) -> Hmac<Sha256> {
    let mut mac = key.clone();
    mac.update(command_id.as_bytes());
    mac
}

fn sealed(key: &Hmac<Sha256>, what: &str, content: &[u8]) -> Hmac<Sha256> {
    let mut mac = key.clone();
    mac.update(b"amends seal ");
    mac.update(&(what.len() as u64).to_be_bytes());
    mac.update(what.as_bytes());
    mac.update(content);
    mac
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_holds_for_its_kind_its_content_and_accepted_keys_and_is_no_token() {
        let (old, new) = (TokenKey::new([7; 32]), TokenKey::new([8; 32]));
        let seal = old.seal("cursor", b"content");
        assert!(old.is_seal("cursor", b"content", &seal));
        assert!(new.clone().accepting(old.clone()).is_seal("cursor", b"content", &seal), "after a rotation");
        for (what, content) in [("cursor", "contents"), ("curso", "rcontent"), ("cursorc", "ontent")] {
            assert!(!old.is_seal(what, content.as_bytes(), &seal), "{what} {content}");
        }
        assert!(!new.is_seal("cursor", b"content", &seal));
        assert!(!old.is_seal("cursor", b"content", "") && !old.is_seal("cursor", b"content", &seal[2..]));
        let id = Uuid::now_v7();
        assert!(!old.verifies(id, &old.seal("", id.as_bytes())));
    }

    #[test]
    fn only_the_token_of_the_same_key_and_command_is_believed() {
        let (key, other) = (TokenKey::new([7; 32]), TokenKey::new([8; 32]));
        let id = Uuid::now_v7();
        let token = key.token(id);
        assert!(key.verifies(id, &token));
        assert!(other.clone().accepting(key.clone()).verifies(id, &token), "while one key follows another");
        assert_ne!(other.clone().accepting(key.clone()).token(id), token);
        for (k, i, t) in [
            (&other, id, token.as_str()),
            (&key, Uuid::now_v7(), &token),
            (&key, id, ""),
            (&key, id, "zz"),
            (&key, id, &token[..16]),
        ] {
            assert!(!k.verifies(i, t), "{t}");
        }
    }
}
