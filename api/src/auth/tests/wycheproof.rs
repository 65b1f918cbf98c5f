//! The vectors for JSON Web Signatures of Project Wycheproof, each with its verdict.

use serde_json::{Value, json};
use wycheproof_ng_kdf_jose::json_web::{TestName, TestSet};

use crate::auth::{keys::KeySet, token::UnverifiedToken};

/// Returns whether a text is a token with a signature of this published key.
fn is_accepted(key: &Value, text: &str) -> bool {
    let Ok(keys) = KeySet::from_jwks(json!({ "keys": [key] }).to_string().as_bytes()) else { return false };
    let Ok(token) = UnverifiedToken::read(text) else { return false };
    keys.verify(&token).is_ok() && token.payload().is_ok()
}

/// A valid vector is accepted if its key is for RS256; every other is refused, among them valid ones of other
/// algorithms.
#[test]
fn every_vector_gets_its_verdict() {
    let set = TestSet::load(TestName::JsonWebSignature).unwrap();
    let (mut accepted, mut refused) = (0, 0);
    for group in set.test_groups {
        let key = group.public_key.or(group.private_key).unwrap();
        for test in group.tests {
            let Some(Value::String(jws)) = test.jws else { continue };
            let is_valid = format!("{:?}", test.result) == "Valid";
            let expected = is_valid && key["alg"] == "RS256";
            assert_eq!(is_accepted(&key, &jws), expected, "{} {}", test.tc_id, test.comment);
            if expected { accepted += 1 } else { refused += 1 }
        }
    }
    assert!(accepted == 8 && refused > 380, "{accepted} {refused}");
}
