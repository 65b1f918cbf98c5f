//! The signature of Standard Webhooks: an HMAC-SHA256 of id, time and body.

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};

use crate::SigningSecret;

/// The header with the id of a message: the same at each attempt.
pub const ID: &str = "webhook-id";
/// The header with the time of an attempt, in seconds since 1970.
pub const TIMESTAMP: &str = "webhook-timestamp";
/// The header with the signatures.
pub const SIGNATURE: &str = "webhook-signature";

/// Returns the signatures of a message by each of these secrets, separated by spaces: one of them is enough.
pub fn signatures<'a>(
    secrets: impl IntoIterator<Item = &'a SigningSecret>,
    id: &str,
    timestamp: i64,
    body: &[u8],
) -> String {
    let all: Vec<String> = secrets.into_iter().map(|secret| sign(secret, id, timestamp, body)).collect();
    all.join(" ")
}

fn sign(secret: &SigningSecret, id: &str, timestamp: i64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &secret.bytes());
    let mut signing = hmac::Context::with_key(&key);
    signing.update(format!("{id}.{timestamp}.").as_bytes());
    signing.update(body);
    format!("v1,{}", STANDARD.encode(signing.sign()))
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use axum::http::HeaderMap;
    use standardwebhooks::Webhook;

    use super::*;

    fn headers(id: &str, timestamp: i64, signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ID, id.parse().unwrap());
        headers.insert(TIMESTAMP, timestamp.to_string().parse().unwrap());
        headers.insert(SIGNATURE, signature.parse().unwrap());
        headers
    }

    #[test]
    fn the_standards_own_library_verifies_each_of_two_secrets_and_nothing_that_was_changed() {
        let (old, new, other) = (SigningSecret::draw(), SigningSecret::draw(), SigningSecret::draw());
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
        let body = br#"{"type":"order.paid"}"#;
        let signed = signatures([&new, &old], "msg_1", now, body);
        let verified = |secret: &SigningSecret, id: &str, at: i64, body: &[u8]| {
            Webhook::new(secret.show()).unwrap().verify(body, &headers(id, at, &signed)).is_ok()
        };
        assert!(verified(&old, "msg_1", now, body) && verified(&new, "msg_1", now, body));
        assert!(!verified(&other, "msg_1", now, body) && !verified(&old, "msg_2", now, body));
        assert!(!verified(&old, "msg_1", now - 1, body) && !verified(&old, "msg_1", now, b"{}"));
    }
}
