//! The key with which `amends dev` and `amends token` sign, kept in dev's data directory.

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rsa::{KeyPair, KeySize},
    signature::KeyPair as _,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::Utc;
use jsonwebtoken::{
    Algorithm, EncodingKey, Header,
    jwk::{Jwk, PublicKeyUse, ThumbprintHash},
};
use serde_json::{Value, json};

use super::{claims::Expected, keys::KeySet, roles::Role};

/// Issuer and audience of tokens that `amends token` mints.
const DEV_ISSUER: &str = "amends-dev";
const DEV_AUDIENCE: &str = "amends";
/// The claim of their roles.
const DEV_ROLES_CLAIM: &str = "roles";
/// Length of a line of a PEM file.
const PEM_LINE: usize = 64;

/// A private RSA key.
pub struct OwnKey {
    key: EncodingKey,
    /// The public half as a PEM file.
    public_pem: String,
    /// The public half, as it is published.
    public: Jwk,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no RSA key can be drawn")]
    Draw,
    #[error("it is no private RSA key in PEM")]
    NoKey,
    #[error("no token can be signed")]
    Sign,
}

impl OwnKey {
    /// Draws a key of 2048 bits; returns it as a PEM file.
    ///
    /// # Errors
    /// [`Error::Draw`].
    pub fn draw() -> Result<String, Error> {
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| Error::Draw)?;
        let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| Error::Draw)?;
        Ok(to_pem("PRIVATE KEY", der.as_ref()))
    }

    /// Reads a key from a PEM file.
    ///
    /// # Errors
    /// [`Error::NoKey`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        let key = EncodingKey::from_rsa_pem(pem).map_err(|_| Error::NoKey)?;
        let mut public = Jwk::from_encoding_key(&key, Algorithm::RS256).map_err(|_| Error::NoKey)?;
        public.common.key_id = Some(public.thumbprint(ThumbprintHash::SHA256).map_err(|_| Error::NoKey)?);
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        let public_pem = public_half(pem).ok_or(Error::NoKey)?;
        Ok(Self { key, public_pem, public })
    }

    /// Returns the public half as a PEM file, for the setting `jwt_key_file` of an api.
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// Returns the JSON Web Key Set of its public half.
    pub fn jwks(&self) -> Value {
        json!({ "keys": [self.public] })
    }

    /// Returns the public half.
    ///
    /// # Errors
    /// [`Error::NoKey`].
    pub fn keys(&self) -> Result<KeySet, Error> {
        KeySet::from_jwks(self.jwks().to_string().as_bytes()).map_err(|_| Error::NoKey)
    }

    /// Returns what the claims of its tokens say.
    pub fn expected() -> Expected {
        Expected {
            issuer: DEV_ISSUER.to_owned(),
            audience: DEV_AUDIENCE.to_owned(),
            roles_claim: DEV_ROLES_CLAIM.to_owned(),
        }
    }

    /// Mints a token that is valid from now on, for this many seconds.
    ///
    /// # Errors
    /// [`Error::Sign`].
    pub fn mint(&self, subject: &str, roles: &[Role], seconds: u64) -> Result<String, Error> {
        let now = Utc::now().timestamp();
        let roles: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
        let expiry = i64::try_from(seconds).map_or(i64::MAX, |seconds| now.saturating_add(seconds));
        self.sign(&json!({
            "iss": DEV_ISSUER, "aud": DEV_AUDIENCE, "sub": subject, DEV_ROLES_CLAIM: roles, "iat": now, "exp": expiry,
        }))
    }

    /// Signs claims.
    ///
    /// # Errors
    /// [`Error::Sign`].
    pub fn sign(&self, claims: &Value) -> Result<String, Error> {
        let header = Header { kid: self.public.common.key_id.clone(), ..Header::new(Algorithm::RS256) };
        jsonwebtoken::encode(&header, claims, &self.key).map_err(|_| Error::Sign)
    }
}

/// Returns the public half of a PEM file of ours, as a PEM file.
fn public_half(pem: &[u8]) -> Option<String> {
    let text: String =
        std::str::from_utf8(pem).ok()?.lines().filter(|line| !line.starts_with("-----")).collect();
    let pair = KeyPair::from_pkcs8(&STANDARD.decode(text).ok()?).ok()?;
    let der: PublicKeyX509Der<'_> = pair.public_key().as_der().ok()?;
    Some(to_pem("PUBLIC KEY", der.as_ref()))
}

fn to_pem(kind: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {kind}-----\n");
    for line in text.as_bytes().chunks(PEM_LINE) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem + &format!("-----END {kind}-----\n")
}
