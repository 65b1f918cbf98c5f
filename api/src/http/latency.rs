//! How long requests take, by route.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request},
    http::StatusCode,
    middleware::Next,
    response::Response,
};

/// The classes of statuses, as a label has them.
pub const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Serves a request and measures it. What has no route has no name that is ours, and is not measured.
pub async fn measured(request: Request, next: Next) -> Response {
    let Some(route) = request.extensions().get::<MatchedPath>().cloned() else {
        return next.run(request).await;
    };
    let begun = Instant::now();
    let response = next.run(request).await;
    let labels = [("route", route.as_str().to_owned()), ("status", class(response.status()).to_owned())];
    metrics::histogram!("amends_api_request_seconds", &labels).record(begun.elapsed());
    response
}

fn class(status: StatusCode) -> &'static str {
    let at = usize::from(status.as_u16() / 100).saturating_sub(1);
    STATUS_CLASSES.get(at).copied().unwrap_or("5xx")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_counted_in_its_class() {
        for (status, expected) in
            [(200, "2xx"), (204, "2xx"), (308, "3xx"), (404, "4xx"), (503, "5xx"), (999, "5xx")]
        {
            assert_eq!(class(StatusCode::from_u16(status).unwrap()), expected);
        }
    }
}
