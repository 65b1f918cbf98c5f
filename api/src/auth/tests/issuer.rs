//! An issuer of tokens, good and bad ones.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::{encoding::AsDer, encoding::PublicKeyX509Der, signature::KeyPair};
use base64::{Engine, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::Utc;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};

use crate::auth::{Authenticator, KeyCache, OwnKey, key_cache, refusal::NotAccepted, refusal::Refusal};

/// An issuer with its key.
pub struct Issuer {
    pub key: EncodingKey,
    pub own: OwnKey,
    pem: String,
}

/// The issuer whose key is known.
pub static ISSUER: LazyLock<Issuer> = LazyLock::new(Issuer::new);
/// Another one, whose key is not.
pub static ATTACKER: LazyLock<Issuer> = LazyLock::new(Issuer::new);

impl Issuer {
    fn new() -> Self {
        let pem = OwnKey::draw().unwrap();
        let key = EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap();
        Self { key, own: OwnKey::from_pem(pem.as_bytes()).unwrap(), pem }
    }

    /// Returns the public key as it is published.
    pub fn published(&self) -> Value {
        self.own.jwks()["keys"][0].clone()
    }

    /// Returns the header of its good tokens.
    pub fn header(&self) -> Value {
        json!({ "alg": "RS256", "typ": "JWT", "kid": self.published()["kid"] })
    }

    /// Signs any header and any claims with RS256.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    /// The same for any text.
    pub fn sign_text(&self, header: &str, claims: &str) -> String {
        self.sign_as(Algorithm::RS256, header, claims, &self.key)
    }

    /// The same with another algorithm and key.
    pub fn sign_as(&self, algorithm: Algorithm, header: &str, claims: &str, key: &EncodingKey) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = crypto::sign(message.as_bytes(), key, algorithm).unwrap();
        format!("{message}.{signature}")
    }

    /// Returns a good token.
    pub fn good(&self) -> String {
        self.sign(&self.header(), &claims())
    }

    /// Returns the public key in DER.
    pub fn public_der(&self) -> Vec<u8> {
        let pair = aws_lc_rs::signature::RsaKeyPair::from_der(self.key.as_bytes()).unwrap();
        let der: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        der.as_ref().to_vec()
    }

    /// Returns the public key in PEM.
    pub fn public_pem(&self) -> String {
        let text = STANDARD.encode(self.public_der());
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }

    /// Returns the private key in PEM.
    pub fn private_pem(&self) -> &str {
        &self.pem
    }
}

/// Returns the claims of a good token.
pub fn claims() -> Value {
    let now = Utc::now().timestamp();
    json!({ "iss": "amends-dev", "aud": "amends", "sub": "c-1", "roles": ["customer"], "exp": now + 600 })
}

/// Returns the present time, as claims count it.
pub fn now() -> i64 {
    Utc::now().timestamp()
}

/// Returns an authenticator that knows the key of [`ISSUER`].
pub fn authenticator() -> Authenticator {
    Authenticator::of_dev(&ISSUER.own, false).unwrap()
}

/// Returns why a token is refused where a good one has been accepted before; `None` if it is accepted.
pub async fn refusal(token: &str) -> Option<Refusal> {
    let authenticator = authenticator();
    authenticator.accepted(&ISSUER.good()).await.expect("a good token");
    match authenticator.accepted(token).await {
        Ok(_) => None,
        Err(NotAccepted::Refused(refusal)) => Some(refusal),
        Err(NotAccepted::KeysAway) => panic!("the keys are here"),
    }
}

/// Returns why a cache of keys refuses a token's signature.
pub async fn verified(keys: &Arc<KeyCache>, token: &str) -> Result<(), NotAccepted> {
    key_cache::KeyCache::verify(keys, &crate::auth::token::UnverifiedToken::read(token)?).await
}
