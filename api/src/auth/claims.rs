//! The claims of a verified token. Types are checked strictly: a claim of another type is a fault, not an absent claim.

use serde_json::{Map, Value};

use super::{
    caller::Caller,
    refusal::Refusal,
    roles::{Role, Roles},
    token::object,
};

/// How far the clocks of issuer and api may differ, in seconds.
pub const CLOCK_LEEWAY_SECONDS: f64 = 30.0;

/// What the claims of a token must say.
#[derive(Debug, Clone)]
pub struct Expected {
    /// `iss`.
    pub issuer: String,
    /// One of `aud`.
    pub audience: String,
    /// The name of the claim with the roles.
    pub roles_claim: String,
}

impl Expected {
    /// Reads the claims of a payload at a time, in seconds since 1970.
    ///
    /// # Errors
    /// The first claim that is missing, of a wrong type, or says something else.
    pub fn caller(&self, payload: &[u8], now: f64) -> Result<Caller, Refusal> {
        let claims = object(payload)?;
        if claims.get("iss").and_then(Value::as_str) != Some(self.issuer.as_str()) {
            return Err(Refusal::Issuer);
        }
        if !claims.get("aud").is_some_and(|audience| self.is_for_us(audience)) {
            return Err(Refusal::Audience);
        }
        let expiry = claims.get("exp").and_then(Value::as_f64).ok_or(Refusal::NoExpiry)?;
        if now >= expiry + CLOCK_LEEWAY_SECONDS {
            return Err(Refusal::Expired);
        }
        if let Some(not_before) = claims.get("nbf") {
            let not_before = not_before.as_f64().ok_or(Refusal::NotYet)?;
            if now < not_before - CLOCK_LEEWAY_SECONDS {
                return Err(Refusal::NotYet);
            }
        }
        let subject = claims.get("sub").and_then(Value::as_str).ok_or(Refusal::Subject)?;
        amends_http::text::check(subject).map_err(|_| Refusal::Subject)?;
        Ok(Caller::new(subject, self.roles(&claims)))
    }

    fn is_for_us(&self, audience: &Value) -> bool {
        match audience {
            Value::String(one) => *one == self.audience,
            // One member of another type spoils the list.
            Value::Array(several) => {
                several.iter().all(Value::is_string) && several.iter().any(|one| *one == *self.audience)
            }
            _ => false,
        }
    }

    /// Reads the roles: an array, or names separated by spaces. What is no role of ours is ignored.
    fn roles(&self, claims: &Map<String, Value>) -> Roles {
        match claims.get(&self.roles_claim) {
            Some(Value::String(names)) => roles(names.split(' ')),
            Some(Value::Array(names)) => roles(names.iter().filter_map(Value::as_str)),
            _ => Roles::default(),
        }
    }
}

fn roles<'a>(names: impl Iterator<Item = &'a str>) -> Roles {
    names.filter_map(|name| name.parse::<Role>().ok()).collect()
}
