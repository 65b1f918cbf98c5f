//! The id of a request: `X-Request-Id`, taken from the caller or made. It is in the answer, in every problem, and in
//! every log line of the request.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};
use tracing::Instrument;
use uuid::Uuid;

/// The header.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id that is taken, in characters.
const ID_LONGEST: usize = 128;

tokio::task_local! {
    static CURRENT: HeaderValue;
}

/// Returns the id of the request that this task serves.
pub fn current() -> Option<HeaderValue> {
    CURRENT.try_with(HeaderValue::clone).ok()
}

/// The outermost layer.
pub(crate) async fn identified(request: Request, next: Next) -> Response {
    let id = taken(request.headers()).cloned().unwrap_or_else(made);
    // It is enabled at every level of the log.
    let span = tracing::error_span!("request", id = id.to_str().unwrap_or_default());
    let mut response = CURRENT.scope(id.clone(), next.run(request)).instrument(span).await;
    response.headers_mut().insert(X_REQUEST_ID, id);
    response
}

/// Returns the caller's id, if it is one that can stand in a log line.
fn taken(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut ids = headers.get_all(X_REQUEST_ID).iter();
    let (Some(id), None) = (ids.next(), ids.next()) else { return None };
    let is_plain = |b: &u8| b.is_ascii_alphanumeric() || b"._:/+=~@-".contains(b);
    ((1..=ID_LONGEST).contains(&id.len()) && id.as_bytes().iter().all(is_plain)).then_some(id)
}

/// Makes an id.
pub(crate) fn made() -> HeaderValue {
    let id = Uuid::now_v7().to_string();
    // A UUID is a valid value.
    HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_id_is_taken_and_any_other_is_replaced() {
        let with = |ids: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for id in ids {
                headers.append(X_REQUEST_ID, HeaderValue::from_bytes(id).unwrap());
            }
            taken(&headers).cloned()
        };
        let longest = "x".repeat(ID_LONGEST);
        for id in ["7", "4bf92f35-77b3/4da6.a3ce:929d", "a+b=c~d@e_f", longest.as_str()] {
            assert_eq!(with(&[id.as_bytes()]).unwrap(), id);
        }
        let too_long = "x".repeat(ID_LONGEST + 1);
        for ids in [
            vec![],
            vec!["".as_bytes()],
            vec![too_long.as_bytes()],
            vec![b"a b".as_slice()],
            vec![b"a\"b".as_slice()],
            vec!["\u{e9}".as_bytes()],
            vec![b"a".as_slice(), b"b".as_slice()],
        ] {
            assert_eq!(with(&ids), None, "{ids:?}");
        }
        assert_ne!(made(), made());
    }
}
