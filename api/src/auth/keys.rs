//! Sets of public keys: of a JSON Web Key Set (RFC 7517), or of a PEM file.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, Jwk},
};
use serde::Deserialize;
use serde_json::Value;

use super::{refusal::Refusal, token::UnverifiedToken, verified::VerifiedTokens};

/// Maximum number of keys of a set. A token without a key id is tried with each.
const KEYS_MOST: usize = 32;
/// Sizes of a modulus, in bytes: 2048 to 8192 bits.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// A public key that verifies RS256.
#[derive(Debug, Clone)]
struct PublicKey {
    id: Option<String>,
    key: DecodingKey,
}

/// The keys of an issuer, and the tokens that they have verified.
#[derive(Debug)]
pub struct KeySet {
    /// At least one.
    keys: Vec<PublicKey>,
    verified: VerifiedTokens,
}

/// A key as it is published. Fields of other kinds of keys are ignored.
#[derive(Deserialize)]
struct PublishedKey {
    kty: String,
    n: String,
    e: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
}

impl KeySet {
    /// Reads a JSON Web Key Set. Keys that cannot verify RS256 are left out.
    ///
    /// # Errors
    /// It is no key set, has too many keys, or none that verifies RS256.
    pub fn from_jwks(bytes: &[u8]) -> Result<Self, String> {
        let set: Value = serde_json::from_slice(bytes).map_err(|_| "it is not JSON".to_owned())?;
        let keys = set.get("keys").and_then(Value::as_array);
        let keys = keys.ok_or("it is no JSON Web Key Set: it has no array `keys`")?;
        if keys.len() > KEYS_MOST {
            return Err(format!("it has more than {KEYS_MOST} keys"));
        }
        let published = keys.iter().filter_map(|key| PublishedKey::deserialize(key).ok());
        Self::of(published.filter_map(PublishedKey::for_rs256).collect())
    }

    /// Reads the public key of a PEM file, which has no id: it verifies tokens with any key id.
    ///
    /// # Errors
    /// It is no public RSA key of 2048 to 8192 bits.
    pub fn from_pem(bytes: &[u8]) -> Result<Self, String> {
        if String::from_utf8_lossy(bytes).contains("PRIVATE KEY") {
            return Err("it holds a private key; only the public one belongs here".to_owned());
        }
        let no_key = |_| "it holds no public RSA key in PEM".to_owned();
        let key = DecodingKey::from_rsa_pem(bytes).map_err(no_key)?;
        let jwk = Jwk::from_decoding_key(&key, Some(Algorithm::RS256)).map_err(no_key)?;
        let AlgorithmParameters::RSA(key) = jwk.algorithm else { return Err("it is no RSA key".to_owned()) };
        Self::of(public_key(None, &key.n, &key.e).into_iter().collect())
    }

    fn of(keys: Vec<PublicKey>) -> Result<Self, String> {
        if keys.is_empty() {
            return Err("it has no RSA key of 2048-8192 bits for RS256 signatures".to_owned());
        }
        Ok(Self { keys, verified: VerifiedTokens::default() })
    }

    /// Returns the number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Verifies the signature of a token.
    ///
    /// # Errors
    /// [`Refusal::Signature`] if the named key is here; [`Refusal::UnknownKey`] if another set may have the right key.
    pub fn verify(&self, token: &UnverifiedToken<'_>) -> Result<(), Refusal> {
        self.verified.verify(token.text(), || self.check(token))
    }

    fn check(&self, token: &UnverifiedToken<'_>) -> Result<(), Refusal> {
        let mut is_known = false;
        for key in &self.keys {
            let is_named = token.key_id().is_some() && token.key_id() == key.id.as_deref();
            is_known |= is_named;
            let may_be = is_named || token.key_id().is_none() || key.id.is_none();
            if may_be && token.is_signed_by(&key.key) {
                return Ok(());
            }
        }
        Err(if is_known { Refusal::Signature } else { Refusal::UnknownKey })
    }
}

impl PublishedKey {
    fn for_rs256(self) -> Option<PublicKey> {
        let is_for_us = self.kty == "RSA"
            && self.alg.is_none_or(|alg| alg == "RS256")
            && self.r#use.is_none_or(|kind| kind == "sig")
            && self.key_ops.is_none_or(|operations| operations.iter().any(|one| one == "verify"));
        is_for_us.then(|| public_key(self.kid, &self.n, &self.e)).flatten()
    }
}

fn public_key(id: Option<String>, modulus: &str, exponent: &str) -> Option<PublicKey> {
    let number = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
    let (modulus, exponent) = (number(modulus)?, number(exponent)?);
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let modulus = &modulus[zeros..];
    MODULUS_BYTES
        .contains(&modulus.len())
        .then(|| PublicKey { id, key: DecodingKey::from_rsa_raw_components(modulus, &exponent) })
}
