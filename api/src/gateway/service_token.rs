//! The token by which the api and its services recognise each other: a shared secret, in `Authorization: Bearer …`. The
//! api's callers never see it, and their own tokens are never forwarded.

use std::sync::Arc;

use amends_http::{ProblemDetails, problem_types};
use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

const CHALLENGE: &str = "Bearer realm=\"amends-services\"";

/// The token, or that none is asked for.
#[derive(Debug, Clone, Default)]
pub struct ServiceToken(Option<Arc<SecretString>>);

impl ServiceToken {
    /// Creates it from the setting.
    pub fn new(setting: Option<&SecretString>) -> Self {
        Self(setting.cloned().map(Arc::new))
    }

    /// Returns whether one is asked for.
    pub fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the header with which the api presents it.
    pub fn header(&self) -> Option<HeaderValue> {
        let token = self.0.as_ref()?;
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose_secret())).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Returns whether a request presents it.
    fn is_in(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.0 else { return true };
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return false };
        let Some((scheme, presented)) = value.to_str().ok().and_then(|text| text.split_once(' ')) else {
            return false;
        };
        // The digests are compared, so that the time shows nothing about the token.
        scheme.eq_ignore_ascii_case("bearer")
            && Sha256::digest(presented.trim()) == Sha256::digest(token.expose_secret())
    }
}

/// The layer of routes between the api and its services: no other caller is served.
pub async fn required(State(token): State<ServiceToken>, request: Request, next: Next) -> Response {
    if token.is_in(request.headers()) {
        return next.run(request).await;
    }
    metrics::counter!("amends_service_requests_refused_total").increment(1);
    let detail = "This is between the api and its services. Ask the api, with a token of your own.";
    ProblemDetails::new(problem_types::SERVICE_TOKEN, detail).challenge(CHALLENGE).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_the_whole_token_given_once_is_accepted() {
        let token = ServiceToken::new(Some(&SecretString::from("s3cret-s3cret-s3cret".to_owned())));
        let own = token.header().unwrap();
        assert!(token.is_in(&headers(&[own.to_str().unwrap()])));
        assert!(token.is_in(&headers(&["bearer s3cret-s3cret-s3cret"])));
        for values in [
            [].as_slice(),
            &[""],
            &["Bearer"],
            &["Bearer "],
            &["Bearer s3cret-s3cret-s3cre"],
            &["Bearer s3cret-s3cret-s3crets"],
            &["Basic s3cret-s3cret-s3cret"],
            &["s3cret-s3cret-s3cret"],
            &["Bearer s3cret-s3cret-s3cret", "Bearer s3cret-s3cret-s3cret"],
        ] {
            assert!(!token.is_in(&headers(values)), "{values:?}");
        }
        assert!(ServiceToken::default().is_in(&headers(&[])), "without the setting none is asked for");
        assert!(!format!("{token:?} {own:?}").contains("s3cret"));
    }
}
