//! The span of a request.
//!
//! A `traceparent` of the caller is taken up, whether or not this process records spans: an order is stored with it. One
//! that is malformed, or comes twice, is ignored (W3C Trace Context, 3.3). `tracestate` is not passed on.

use amends_protocol::trace::{self, OpenSpan, SpanKind, TraceContext, conventions};
use axum::{
    extract::{MatchedPath, Request},
    http::HeaderMap,
    middleware::Next,
    response::Response,
};

/// The header.
const TRACEPARENT: &str = "traceparent";
/// The service that these spans belong to.
const API: &str = "api";
/// Paths that machines read all the time, or that are files.
const UNTRACED: [&str; 5] = ["/health/", "/metrics", "/docs", "/openapi.json", "/.well-known/"];

/// Serves a request in its span.
pub async fn traced(request: Request, next: Next) -> Response {
    let caller = caller(request.headers());
    let span = trace::is_recording().then(|| begin(&request, caller)).flatten();
    let Some(context) = span.as_ref().map(OpenSpan::context).or(caller) else {
        return next.run(request).await;
    };
    let response = trace::scope(Some(context), next.run(request)).await;
    if let Some(mut span) = span {
        let status = response.status();
        span.set(conventions::HTTP_RESPONSE_STATUS_CODE, i64::from(status.as_u16()));
        if status.is_server_error() {
            span.fail(status.as_u16().to_string());
        }
        span.end();
    }
    response
}

/// Begins the span. Its name and path are the route's: a path may name a customer.
fn begin(request: &Request, caller: Option<TraceContext>) -> Option<OpenSpan> {
    let route = request.extensions().get::<MatchedPath>()?.as_str();
    if UNTRACED.iter().any(|untraced| route.starts_with(untraced)) {
        return None;
    }
    let method = request.method().as_str();
    let name = format!("{method} {route}");
    let span = match caller {
        Some(caller) => trace::begin(API, name, SpanKind::Server, caller),
        None => trace::begin_root(API, name, SpanKind::Server),
    };
    Some(
        span?
            .with(conventions::HTTP_REQUEST_METHOD, method.to_owned())
            .with(conventions::HTTP_ROUTE, route.to_owned())
            .with(conventions::URL_PATH, route.to_owned())
            .with(conventions::URL_SCHEME, "http"),
    )
}

/// Returns the caller's context.
fn caller(headers: &HeaderMap) -> Option<TraceContext> {
    let mut given = headers.get_all(TRACEPARENT).iter();
    let (Some(one), None) = (given.next(), given.next()) else { return None };
    one.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_malformed_or_repeated_traceparent_is_ignored() {
        let of = |given: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for one in given {
                headers.append(TRACEPARENT, HeaderValue::from_bytes(one).unwrap());
            }
            caller(&headers).map(|context| context.to_string())
        };
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(of(&[good.as_bytes()]).as_deref(), Some(good));
        for bad in [&[][..], &[good.as_bytes(), good.as_bytes()], &[b"00-0-0-01"], &["\u{e9}".as_bytes()]] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
    }
}
