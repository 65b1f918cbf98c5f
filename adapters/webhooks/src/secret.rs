//! The secrets that sign webhooks. In the database they are sealed (AES-256-GCM) with a key of the settings.

use std::ops::RangeInclusive;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// How a secret begins, by Standard Webhooks.
const SECRET_PREFIX: &str = "whsec_";
/// Number of random bytes of a secret.
const SECRET_BYTES: usize = 32;
/// Number of bytes of a secret that another has drawn, by Standard Webhooks.
const SECRET_BYTES_READ: RangeInclusive<usize> = 24..=64;
/// Number of bytes of a key that seals.
const KEY_BYTES: usize = 32;
/// Number of hexadecimal digits of a key's id.
const KEY_ID: usize = 8;
/// The form in which secrets are sealed.
const SEALED_FORM: &str = "v1";

/// A secret that signs: `whsec_` and random bytes in Base64.
#[derive(Debug, Clone)]
pub struct SigningSecret(SecretString);

/// A text is no secret that signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be whsec_ and the base64 of 24 to 64 random bytes")]
pub struct InvalidSecret;

impl SigningSecret {
    /// Draws a secret.
    pub fn draw() -> Self {
        let bytes: [u8; SECRET_BYTES] = rand::random();
        Self(format!("{SECRET_PREFIX}{}", STANDARD.encode(bytes)).into())
    }

    /// Reads a secret that another has drawn.
    ///
    /// # Errors
    /// [`InvalidSecret`]
    pub fn read(text: &SecretString) -> Result<Self, InvalidSecret> {
        let base64 = text.expose_secret().strip_prefix(SECRET_PREFIX);
        let bytes = base64.and_then(|base64| STANDARD.decode(base64).ok());
        match bytes {
            Some(bytes) if SECRET_BYTES_READ.contains(&bytes.len()) => Ok(Self(text.clone())),
            _ => Err(InvalidSecret),
        }
    }

    /// Returns it as its owner is shown it, once.
    pub fn show(&self) -> &str {
        self.0.expose_secret()
    }

    /// Returns the bytes that sign.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        STANDARD.decode(self.show().trim_start_matches(SECRET_PREFIX)).unwrap_or_default()
    }
}

/// Why keys cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 64 hexadecimal digits; several keys are separated by commas, and the first one seals")]
pub struct InvalidKeys;

/// Why a sealed text cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It was sealed with a key that is not in the settings.
    #[error("it was sealed with another key")]
    UnknownKey,
    /// It was changed, or belongs elsewhere.
    #[error("it is not what was sealed here")]
    Forged,
}

/// The keys that seal: the first one seals, all of them open.
#[derive(Debug)]
pub struct SealingKeys(Vec<SealingKey>);

#[derive(Debug)]
struct SealingKey {
    /// The beginning of its digest.
    id: String,
    key: RandomizedNonceKey,
}

impl SealingKeys {
    /// Reads the keys of the settings.
    ///
    /// # Errors
    /// [`InvalidKeys`].
    pub fn read(text: &SecretString) -> Result<Self, InvalidKeys> {
        let keys: Result<Vec<_>, _> =
            text.expose_secret().split(',').map(|key| one_key(key.trim())).collect();
        keys.map(Self)
    }

    /// Seals a text, for one place: it cannot be opened as that of another.
    pub fn seal(&self, place: &str, text: &str) -> String {
        let SealingKey { id, key } = &self.0[0];
        let mut sealed = text.as_bytes().to_vec();
        let nonce = key
            .seal_in_place_append_tag(Aad::from(place), &mut sealed)
            .expect("a text of this length can be sealed, and the system has randomness");
        let bytes = [&nonce.as_ref()[..], &sealed].concat();
        format!("{SEALED_FORM}.{id}.{}", STANDARD.encode(bytes))
    }

    /// Opens a sealed text.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, place: &str, sealed: &str) -> Result<String, OpenError> {
        let mut parts = sealed.splitn(3, '.');
        let (form, id, text) = (parts.next(), parts.next(), parts.next());
        if form != Some(SEALED_FORM) {
            return Err(OpenError::Forged);
        }
        let key = self.0.iter().find(|key| id == Some(&*key.id)).ok_or(OpenError::UnknownKey)?;
        let mut bytes = STANDARD.decode(text.unwrap_or_default()).map_err(|_| OpenError::Forged)?;
        let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_LEN).ok_or(OpenError::Forged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| OpenError::Forged)?;
        let opened = key.key.open_in_place(nonce, Aad::from(place), sealed).map_err(|_| OpenError::Forged)?;
        String::from_utf8(opened.to_vec()).map_err(|_| OpenError::Forged)
    }

    /// Opens a sealed secret.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_secret(&self, place: &str, sealed: &str) -> Result<SigningSecret, OpenError> {
        self.open(place, sealed).map(|secret| SigningSecret(secret.into()))
    }

    /// Returns whether a text is sealed with the key that seals now.
    pub fn is_current(&self, sealed: &str) -> bool {
        sealed.split('.').nth(1) == Some(&self.0[0].id)
    }
}

fn one_key(text: &str) -> Result<SealingKey, InvalidKeys> {
    let bytes: [u8; KEY_BYTES] =
        hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(InvalidKeys)?;
    let id = hex::encode(Sha256::digest(bytes))[..KEY_ID].to_owned();
    let key = RandomizedNonceKey::new(&AES_256_GCM, &bytes).map_err(|_| InvalidKeys)?;
    Ok(SealingKey { id, key })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> SealingKeys {
        SealingKeys::read(&text.to_owned().into()).unwrap()
    }

    #[test]
    fn a_sealed_secret_is_opened_in_its_place_and_in_no_other_and_shows_nothing() {
        let (keys, secret) = (keys(&"5a".repeat(32)), SigningSecret::draw());
        let sealed = keys.seal("webhook 1", secret.show());
        assert!(!sealed.contains(secret.show()) && !sealed.contains(&secret.show()[6..]));
        assert_eq!(keys.open_secret("webhook 1", &sealed).unwrap().show(), secret.show());
        assert_ne!(sealed, keys.seal("webhook 1", secret.show()), "each time with another nonce");
        assert_eq!(keys.open("webhook 2", &sealed), Err(OpenError::Forged));
        let (head, tail) = sealed.split_at(sealed.len() - 6);
        for forged in [head.to_owned(), format!("{head}AAAA{}", &tail[4..]), "v1.x".into(), String::new()] {
            assert!(keys.open("webhook 1", &forged).is_err(), "{forged}");
        }
        assert!(!format!("{secret:?} {keys:?}").contains(&secret.show()[6..]));
    }

    #[test]
    fn a_new_key_seals_and_the_older_one_still_opens() {
        let (old, new) = ("5a".repeat(32), "6b".repeat(32));
        let sealed = keys(&old).seal("w", "text");
        let both = keys(&format!("{new}, {old}"));
        assert_eq!(both.open("w", &sealed).as_deref(), Ok("text"));
        assert!(!both.is_current(&sealed) && both.is_current(&both.seal("w", "text")));
        assert_eq!(keys(&new).open("w", &sealed), Err(OpenError::UnknownKey));
        assert_eq!(keys(&new).open("w", &both.seal("w", "text")).as_deref(), Ok("text"));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "5a", "xx", &"5a".repeat(31), &"5a".repeat(33), &format!("{},", "5a".repeat(32))] {
            assert_eq!(SealingKeys::read(&text.to_owned().into()).unwrap_err(), InvalidKeys, "{text}");
        }
    }
}
