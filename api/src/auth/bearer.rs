//! Authenticates every request below `/api` and `/admin`, known path or not, before anything else is looked at.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use amends_http::ProblemDetails;
use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use chrono::Utc;
use serde_json::Value;

use super::{
    access,
    caller::Caller,
    claims::Expected,
    key_cache::KeyCache,
    own_key::{Error, OwnKey},
    refusal::{NotAccepted, Refusal},
    roles::Right,
    token::UnverifiedToken,
};
use crate::problem::{Problem, problem_types};

/// What a caller without a token is asked for.
const CHALLENGE: &str = "Bearer realm=\"amends\"";
/// Interval between two log lines about refusals for the same reason.
const REFUSALS_LOGGED_EVERY: Duration = Duration::from_secs(10);

/// Finds out who sent a request.
pub struct Authenticator {
    /// `None`: no token can be checked.
    tokens: Option<Tokens>,
    /// Whether a request without a token is served, as [`Caller::dev`].
    is_open: bool,
    /// The key set that this process publishes.
    published: Option<Value>,
    refusals: Mutex<Refusals>,
}

struct Tokens {
    keys: Arc<KeyCache>,
    expected: Expected,
}

/// Refusals by reason: when each was logged last, and how many there were since.
#[derive(Default)]
struct Refusals(BTreeMap<Refusal, (Instant, u64)>);

impl Refusals {
    /// Notes a refusal; returns the number to log, unless this reason was logged a moment ago.
    fn note(&mut self, refusal: Refusal, now: Instant) -> Option<u64> {
        let (logged_at, since) = self.0.get(&refusal).copied().unzip();
        let times = since.unwrap_or(0) + 1;
        if let Some(logged_at) = logged_at.filter(|at| now.duration_since(*at) < REFUSALS_LOGGED_EVERY) {
            self.0.insert(refusal, (logged_at, times));
            return None;
        }
        self.0.insert(refusal, (now, 0));
        Some(times)
    }
}

impl Authenticator {
    /// Serves only requests with a token that these keys verify and whose claims say what is expected.
    pub fn of_keys(keys: Arc<KeyCache>, expected: Expected) -> Self {
        Self::new(Some(Tokens { keys, expected }), false, None)
    }

    /// Serves requests without a token, as [`Caller::dev`]. A token that is sent is refused, because there is no key to
    /// verify it.
    pub fn without_keys() -> Self {
        Self::new(None, true, None)
    }

    /// Verifies tokens with `dev`'s own key. If `is_open`, it also serves requests without a token.
    ///
    /// # Errors
    /// The key cannot be used.
    pub fn of_dev(key: &OwnKey, is_open: bool) -> Result<Self, Error> {
        let keys = Arc::new(KeyCache::of_keys(key.keys()?));
        let tokens = Tokens { keys, expected: OwnKey::expected() };
        Ok(Self::new(Some(tokens), is_open, Some(key.jwks())))
    }

    fn new(tokens: Option<Tokens>, is_open: bool, published: Option<Value>) -> Self {
        Self { tokens, is_open, published, refusals: Mutex::default() }
    }

    /// Returns whether it serves everyone because it has no keys.
    pub fn verifies_nothing(&self) -> bool {
        self.tokens.is_none()
    }

    /// Returns the key set that this process publishes.
    pub fn published(&self) -> Option<&Value> {
        self.published.as_ref()
    }

    /// Returns whose request this is.
    ///
    /// # Errors
    /// 401; 503 while the keys have never been read.
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let token = match bearer(headers) {
            Ok(Some(token)) => token,
            Ok(None) if self.is_open => return Ok(Caller::dev()),
            Ok(None) => {
                count("missing");
                return Err(missing_token());
            }
            Err(refusal) => return Err(self.refused(refusal)),
        };
        match self.accepted(token).await {
            Ok(caller) => {
                count("accepted");
                Ok(caller)
            }
            Err(NotAccepted::Refused(refusal)) => Err(self.refused(refusal)),
            Err(NotAccepted::KeysAway) => {
                count("keys_away");
                Err(Problem::Unavailable(
                    "The keys that verify tokens cannot be read at present. Try again.".to_owned(),
                ))
            }
        }
    }

    pub(super) async fn accepted(&self, token: &str) -> Result<Caller, NotAccepted> {
        let tokens = self.tokens.as_ref().ok_or(Refusal::NoKeysHere)?;
        let token = UnverifiedToken::read(token)?;
        tokens.keys.verify(&token).await?;
        let now = Utc::now().timestamp_millis() as f64 / 1000.0;
        Ok(tokens.expected.caller(&token.payload()?, now)?)
    }

    /// Counts a refusal, and logs it unless its reason was logged a moment ago.
    fn refused(&self, refusal: Refusal) -> Problem {
        count(refusal.label());
        let noted =
            self.refusals.lock().unwrap_or_else(PoisonError::into_inner).note(refusal, Instant::now());
        if let Some(times) = noted {
            tracing::warn!(reason = refusal.label(), times, "tokens are refused");
        }
        invalid_token(refusal)
    }
}

fn count(outcome: &'static str) {
    metrics::counter!("amends_auth_requests_total", "outcome" => outcome).increment(1);
}

/// Returns the token of a request.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next(), values.next()) else { return Err(Refusal::NotBearer) };
    let Some(value) = value else { return Ok(None) };
    let text = value.to_str().map_err(|_| Refusal::NotBearer)?;
    let (scheme, token) = text.split_once(' ').ok_or(Refusal::NotBearer)?;
    let token = token.trim_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(Refusal::NotBearer);
    }
    Ok(Some(token))
}

/// The layer of all routes, and of all paths without one.
pub async fn authenticate(
    State(auth): State<Arc<Authenticator>>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let is_admin = is_below(path, "/admin");
    if !is_admin && !is_below(path, "/api") {
        return next.run(request).await;
    }
    let caller = match auth.caller(request.headers()).await {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    if caller.roles().is_empty() || (is_admin && !caller.may(Right::AdminArea)) {
        return access::forbidden().into_response();
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

fn is_below(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn missing_token() -> Problem {
    let detail = "Send `Authorization: Bearer` and a token.";
    ProblemDetails::new(problem_types::MISSING_TOKEN, detail).challenge(CHALLENGE).into()
}

/// RFC 6750, section 3.1.
fn invalid_token(refusal: Refusal) -> Problem {
    // A backtick is allowed in the quoted string, a quotation mark would not be.
    let challenge = format!("{CHALLENGE}, error=\"invalid_token\", error_description=\"{refusal}\"");
    let problem = ProblemDetails::new(problem_types::INVALID_TOKEN, refusal.to_string());
    problem.challenge(challenge).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_logged_once_in_ten_seconds_with_its_number() {
        let (mut refusals, begin) = (Refusals::default(), Instant::now());
        let mut at = |millis, refusal| refusals.note(refusal, begin + Duration::from_millis(millis));
        assert_eq!(at(0, Refusal::Expired), Some(1));
        assert_eq!(at(1, Refusal::Expired), None);
        assert_eq!(at(2, Refusal::Signature), Some(1));
        assert_eq!(at(9_999, Refusal::Expired), None);
        assert_eq!(at(10_000, Refusal::Expired), Some(3));
        assert_eq!(at(10_001, Refusal::Expired), None);
    }
}
