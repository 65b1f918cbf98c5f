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

/// For routes that answer plain text.
pub async fn plain_text(request: Request, next: Next) -> Response {
    answers("text/plain", request, next).await
}

async fn answers(kind: &'static str, request: Request, next: Next) -> Response {
    match chosen(request.headers(), &[kind]) {
        Ok(_) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Returns the media type that the caller likes best of those in which a route can answer; the first of those that it
/// likes equally.
///
/// # Errors
/// 406: it accepts none.
pub fn chosen(headers: &HeaderMap, answered: &[&'static str]) -> Result<&'static str, ProblemDetails> {
    let mut best: Option<(&'static str, f32)> = None;
    for &kind in answered {
        let quality = quality(headers, kind);
        if quality > best.map_or(0.0, |(_, quality)| quality) {
            best = Some((kind, quality));
        }
    }
    best.map(|(kind, _)| kind).ok_or_else(|| ProblemDetails::not_acceptable(answered))
}

/// Returns how much the caller likes a media type: 0 to 1, where 0 is refused. The most specific matching range
/// decides. An unreadable header counts as absent.
fn quality(headers: &HeaderMap, wanted: &str) -> f32 {
    let family = wanted.split_once('/').map_or(wanted, |(family, _)| family);
    let mut best: Option<(u8, f32)> = None;
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
            let stated = parts.find_map(|p| p.strip_prefix("q=").or(p.strip_prefix("Q=")));
            let quality = stated.map_or(1.0, |q| q.parse().unwrap_or(0.0));
            if best.is_none_or(|(than, _)| specificity > than) {
                best = Some((specificity, quality));
            }
        }
    }
    best.map_or(if stated { 0.0 } else { 1.0 }, |(_, quality)| quality)
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
            assert_eq!(quality(&headers, "application/json") > 0.0, accepted, "{accept}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, "text/*, application/json;q=0".parse().unwrap());
        assert!(quality(&headers, "text/event-stream") > 0.0 && quality(&headers, "application/json") == 0.0);
        assert_eq!(quality(&HeaderMap::new(), "application/json"), 1.0);
    }

    #[test]
    fn of_several_media_types_the_caller_gets_the_one_that_it_likes_best() {
        const ANSWERED: [&str; 2] = ["text/plain", "text/html"];
        for (accept, expected) in [
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Some("text/html")),
            ("*/*", Some("text/plain")),
            ("", Some("text/plain")),
            ("text/*", Some("text/plain")),
            ("text/plain;q=0.5, text/html;q=0.9", Some("text/html")),
            ("text/plain;q=0, */*;q=0.1", Some("text/html")),
            ("application/json", None),
            ("text/html;q=0", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(chosen(&headers, &ANSWERED).ok(), expected, "{accept}");
        }
    }
}
