//! The compact form of a JSON Web Signature: three parts of base64url. The header is checked before any key is looked
//! for, the payload is decoded after the signature.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde_json::{Map, Value};

use super::refusal::Refusal;

/// The longest token that is read, in bytes. Tokens of identity providers with many roles have 2-4 KiB.
const TOKEN_LONGEST: usize = 8 << 10;
/// The longest key id that is looked for, in characters.
const KEY_ID_LONGEST: usize = 200;
/// Fields of a header that carry a key or its address. Only configured keys count.
const KEY_FIELDS: [&str; 4] = ["jwk", "jku", "x5u", "x5c"];
/// Values of `typ`, in lower case, that an access token may have.
const TYPES: [&str; 4] = ["jwt", "application/jwt", "at+jwt", "application/at+jwt"];

/// A token whose signature is not verified yet.
#[derive(Debug)]
pub struct UnverifiedToken<'a> {
    key_id: Option<String>,
    text: &'a str,
    /// What is signed: header and payload.
    signed: &'a str,
    payload: &'a str,
    signature: &'a str,
}

impl<'a> UnverifiedToken<'a> {
    /// Splits a token and checks its header.
    ///
    /// # Errors
    /// It is too long, is no token, or its header asks for what is not supported.
    pub fn read(text: &'a str) -> Result<Self, Refusal> {
        if text.len() > TOKEN_LONGEST {
            return Err(Refusal::TooLong);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Refusal::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Refusal::Malformed)?;
        if payload.contains('.') {
            return Err(Refusal::Malformed);
        }
        let key_id = key_id(&object(&decoded(header)?)?)?;
        Ok(Self { key_id, text, signed, payload, signature })
    }

    /// Returns the whole token.
    pub fn text(&self) -> &str {
        self.text
    }

    /// Returns the id of the key that the header names.
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// Verifies the signature with a key. Whatever the header says, the algorithm is RS256.
    pub fn is_signed_by(&self, key: &DecodingKey) -> bool {
        crypto::verify(self.signature, self.signed.as_bytes(), key, Algorithm::RS256).unwrap_or(false)
    }

    /// Returns the payload. The caller has verified the signature.
    pub fn payload(&self) -> Result<Vec<u8>, Refusal> {
        decoded(self.payload)
    }
}

/// Checks a header, and returns the id of its key.
fn key_id(header: &Map<String, Value>) -> Result<Option<String>, Refusal> {
    if header.get("alg").and_then(Value::as_str) != Some("RS256") {
        return Err(Refusal::Algorithm);
    }
    if KEY_FIELDS.iter().any(|field| header.contains_key(*field)) {
        return Err(Refusal::KeyInHeader);
    }
    if header.contains_key("crit") {
        return Err(Refusal::Critical);
    }
    match header.get("typ").map(Value::as_str) {
        None => {}
        Some(Some(kind)) if TYPES.contains(&kind.to_ascii_lowercase().as_str()) => {}
        Some(_) => return Err(Refusal::Type),
    }
    match header.get("kid") {
        None => Ok(None),
        Some(Value::String(id)) if id.chars().count() <= KEY_ID_LONGEST => Ok(Some(id.clone())),
        Some(_) => Err(Refusal::UnknownKey),
    }
}

fn decoded(part: &str) -> Result<Vec<u8>, Refusal> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Malformed)
}

/// Reads a JSON object in which no key stands twice: readers differ in which of the two values they use.
pub fn object(bytes: &[u8]) -> Result<Map<String, Value>, Refusal> {
    match amends_http::json::read(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        _ => Err(Refusal::Malformed),
    }
}
