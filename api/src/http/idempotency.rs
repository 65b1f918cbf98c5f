//! `Idempotency-Key` (the IETF's draft of that name) of every POST but two: that which places an order takes its key in
//! the transaction that places it (`orders::door`), and that which adds stock in the inventory worker's.
//!
//! A key belongs to its subject, method and path. A request with a known key is answered with the first one's answer, or
//! refused if its body is another. Only successes are kept: a refused request changed nothing and may be sent again.

use std::{sync::Arc, time::Duration};

use amends_http::{body::MAX_BYTES, json};
use amends_orders::{
    Asked, KeyedRequest,
    answers::{ANSWER_LIFETIME, Digest, KeyUse, REFUND_ANSWER_LIFETIME, Reservation, StoredAnswer},
};
use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::etag::IfMatch;
use crate::{
    auth::Caller,
    problem::{Fault, Problem},
    routes::SHOW_SECRETS,
    state::Api,
};

const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The route whose keys are taken where orders are placed.
pub const PLACES_ORDERS: &str = "/api/orders";
/// The route whose keys are taken by the inventory worker.
pub const ADDS_STOCK: &str = "/api/inventory";
/// The route whose keys are kept longer.
pub const REFUNDS: &str = "/api/orders/{id}/refunds";
/// The headers that belong to an answer, and are sent again with it.
const KEPT_HEADERS: [HeaderName; 3] = [header::CONTENT_TYPE, header::ETAG, header::LOCATION];

/// Reads the key of a request.
///
/// # Errors
/// 400.
pub fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let (Some(key), second) = (keys.next(), keys.next()) else { return Ok(None) };
    let bytes = key.as_bytes();
    let fits = (1..=255).contains(&bytes.len()) && bytes.iter().all(|b| (0x20..0x7f).contains(b));
    match key.to_str() {
        Ok(key) if fits && second.is_none() => Ok(Some(key.to_owned())),
        _ => {
            let why = "must be one header of 1-255 printable ASCII characters";
            Err(Problem::Invalid(vec![Fault::header(IDEMPOTENCY_KEY, why)]))
        }
    }
}

/// Returns by what a POST with a key is known where it takes effect: to this path of this route; `None` without a key.
///
/// # Errors
/// 400.
pub fn keyed(
    headers: &HeaderMap,
    caller: &Caller,
    (route, path): (&str, &str),
    body: &Bytes,
    asked: Asked,
) -> Result<Option<KeyedRequest>, Problem> {
    let Some(key) = key(headers)? else { return Ok(None) };
    Ok(Some(KeyedRequest {
        request: request(caller, &Method::POST, path, &key),
        fingerprint: fingerprint(body),
        lifetime: lifetime(Some(route)),
        asked,
    }))
}

/// Returns how long the keys of a route are kept.
fn lifetime(route: Option<&str>) -> Duration {
    if route == Some(REFUNDS) { REFUND_ANSWER_LIFETIME } else { ANSWER_LIFETIME }
}

/// Marks an answer as one that was given before.
pub fn mark_replayed(response: &mut Response) {
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
}

/// The layer of all routes.
pub async fn answer_once(
    State(api): State<Arc<Api>>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let elsewhere = path.as_ref().is_some_and(|path| [PLACES_ORDERS, ADDS_STOCK].contains(&path.as_str()));
    let caller = request.extensions().get::<Caller>().cloned();
    match caller {
        Some(caller) if request.method() == Method::POST && !elsewhere => {
            once(&api, &caller, path.as_ref().map(MatchedPath::as_str), request, next)
                .await
                .unwrap_or_else(IntoResponse::into_response)
        }
        _ => next.run(request).await,
    }
}

async fn once(
    api: &Api,
    caller: &Caller,
    path: Option<&str>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let Some(key) = key(request.headers())? else { return Ok(next.run(request).await) };
    // What is malformed is refused also where the answer is there already.
    IfMatch::read(request.headers())?;
    let (head, body) = request.into_parts();
    // The edge has read it whole, within its limit.
    let body = to_bytes(body, MAX_BYTES).await.map_err(|_| Problem::Internal)?;
    let identity = self::request(caller, &head.method, head.uri.path(), &key);
    let turn = api.answers.take(identity, fingerprint(&body), lifetime(path)).await?;
    let reservation = match turn {
        KeyUse::First(reservation) => reservation,
        KeyUse::Replayed(answer) => return replayed(opened(api, path, &identity, answer)?),
        KeyUse::KeyReused => return Err(Problem::KeyReused),
    };
    let response = next.run(Request::from_parts(head, Body::from(body))).await;
    if response.status().is_success() {
        keep(reservation, response, |body| sealed(api, path, &identity, body)).await
    } else {
        reservation.give_back().await;
        Ok(response)
    }
}

/// Stores an answer before it is sent.
async fn keep(
    reservation: Reservation,
    response: Response,
    sealed: impl FnOnce(String) -> Result<String, Problem>,
) -> Result<Response, Problem> {
    let (head, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.map_err(|_| Problem::Internal)?;
    let text = |name: &HeaderName| Some((name.to_string(), head.headers.get(name)?.to_str().ok()?.into()));
    let headers: serde_json::Map<String, Value> = KEPT_HEADERS.iter().filter_map(text).collect();
    let answer = StoredAnswer {
        status: i16::try_from(head.status.as_u16()).unwrap_or_default(),
        headers: Value::Object(headers).to_string(),
        body: sealed(String::from_utf8_lossy(&body).into_owned())?,
    };
    if let Err(error) = reservation.keep(&answer).await {
        // It is done all the same. Sent again, the request is judged by the state that it has brought about.
        tracing::warn!(%error, "the answer to a request with an idempotency key could not be kept");
    }
    Ok(Response::from_parts(head, Body::from(body)))
}

/// Seals the answers that contain a secret, as the secret itself is sealed.
fn sealed(api: &Api, path: Option<&str>, identity: &Digest, body: String) -> Result<String, Problem> {
    match path {
        Some(path) if SHOW_SECRETS.contains(&path) => {
            Ok(api.webhooks.keys()?.seal(&hex::encode(identity), &body))
        }
        _ => Ok(body),
    }
}

/// Opens them again.
fn opened(
    api: &Api,
    path: Option<&str>,
    identity: &Digest,
    answer: StoredAnswer,
) -> Result<StoredAnswer, Problem> {
    match path {
        Some(path) if SHOW_SECRETS.contains(&path) => {
            let body = api.webhooks.keys()?.open(&hex::encode(identity), &answer.body);
            Ok(StoredAnswer { body: body.map_err(|_| Problem::Internal)?, ..answer })
        }
        _ => Ok(answer),
    }
}

fn replayed(answer: StoredAnswer) -> Result<Response, Problem> {
    let stored: serde_json::Map<String, Value> =
        serde_json::from_str(&answer.headers).map_err(|_| Problem::Internal)?;
    let status = u16::try_from(answer.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = status.ok_or(Problem::Internal)?;
    for name in KEPT_HEADERS {
        let value = stored.get(name.as_str()).and_then(|value| HeaderValue::from_str(value.as_str()?).ok());
        if let Some(value) = value {
            response.headers_mut().insert(name, value);
        }
    }
    mark_replayed(&mut response);
    Ok(response)
}

/// Returns the digest of a request with a key: of its subject, method and path, and of the key.
pub fn request(caller: &Caller, method: &Method, path: &str, key: &str) -> Digest {
    digest(&[caller.subject(), method.as_str(), path, key])
}

/// Returns the digest of several texts.
fn digest(texts: &[&str]) -> Digest {
    let mut digest = Sha256::new();
    for text in texts {
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text);
    }
    digest.finalize().into()
}

/// Returns the digest of a body's content, whatever its formatting and the order of its fields.
fn fingerprint(body: &Bytes) -> Digest {
    match serde_json::from_slice::<Value>(body) {
        Ok(mut value) => {
            json::count_whole(&mut value);
            value.sort_all_objects();
            Sha256::digest(value.to_string()).into()
        }
        Err(_) => Sha256::digest(body).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_one_fingerprint_however_it_is_formatted() {
        let of = |text: &'static str| fingerprint(&Bytes::from_static(text.as_bytes()));
        assert_eq!(of(r#"{"a":1,"b":{"c":2,"d":3}}"#), of(r#" { "b": {"d":3, "c":2.0}, "a":1 } "#));
        assert_ne!(of(r#"{"a":1}"#), of(r#"{"a":2}"#));
        assert_ne!(of("{"), of("{{"));
    }

    #[test]
    fn a_key_belongs_to_its_subject_method_and_path() {
        let of = |subject, path| digest(&[subject, "POST", path, "k"]);
        assert_ne!(of("ab", "/c"), of("a", "b/c"));
        assert_ne!(of("a", "/c"), of("a", "/d"));
    }
}
