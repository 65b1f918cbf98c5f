//! Checks whether the caller accepts what a route answers.

use axum::{
    extract::Request,
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::ProblemDetails;

/// For routes that answer JSON: a caller that does not accept it is refused before anything is done. Use with
/// [`axum::middleware::from_fn`].
pub async fn json(request: Request, next: Next) -> Response {
    answers("application/json", request, next).await
}

/// For routes that answer a stream of events.
pub async fn event_stream(request: Request, next: Next) -> Response {
    answers("text/event-stream", request, next).await
}

async fn answers(kind: &'static str, request: Request, next: Next) -> Response {
    if accepts(request.headers(), kind) {
        next.run(request).await
    } else {
        ProblemDetails::not_acceptable(kind).into_response()
    }
}

/// The most specific matching range decides. An unreadable header counts as absent.
fn accepts(headers: &HeaderMap, wanted: &str) -> bool {
    let family = wanted.split_once('/').map_or(wanted, |(family, _)| family);
    let mut best: Option<(u8, bool)> = None;
    let mut stated = false;
    for value in headers.get_all(header::ACCEPT) {
        for range in value.to_str().unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let Some(kind) = parts.next().filter(|kind| !kind.is_empty()) else { continue };
            stated = true;
            let kind = kind.to_ascii_lowercase();
            let specificity = match kind.strip_suffix("/*") {
                None if kind == wanted => 3,
                Some(whole) if whole == family => 2,
                Some("*") => 1,
                _ => continue,
            };
            let quality = parts.find_map(|p| p.strip_prefix("q=").or(p.strip_prefix("Q=")));
            let accepted = quality.is_none_or(|q| q.parse().is_ok_and(|q: f32| q > 0.0));
            if best.is_none_or(|(than, _)| specificity > than) {
                best = Some((specificity, accepted));
            }
        }
    }
    best.map_or(!stated, |(_, accepted)| accepted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_range_decides() {
        for (accept, accepted) in [
            ("", true),
            ("*/*", true),
            ("application/json", true),
            ("text/html, application/xhtml+xml, */*;q=0.8", true),
            ("application/*;q=0.1", true),
            ("text/html", false),
            ("image/png, text/*", false),
            ("*/*, application/json;q=0", false),
            ("application/json; q=0.0", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(accepts(&headers, "application/json"), accepted, "{accept}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, "text/*, application/json;q=0".parse().unwrap());
        assert!(accepts(&headers, "text/event-stream") && !accepts(&headers, "application/json"));
        assert!(accepts(&HeaderMap::new(), "application/json"));
    }
}
