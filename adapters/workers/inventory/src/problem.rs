//! Errors over HTTP: problem details (RFC 9457), with a stable `type` and the place of each fault.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// Every way in which a request can fail.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Problem {
    /// The request is not as it should be; nothing was changed. Each fault with its place.
    Invalid(Vec<Value>),
    /// The body cannot be read as JSON.
    Unreadable(String),
    /// The body is longer than is read.
    TooLarge,
    /// There is no such product.
    UnknownProduct,
    /// There is no such path.
    NotFound,
    /// The path is there, the method is not.
    MethodNotAllowed,
    /// Less would be on hand than is reserved.
    BelowReserved { reserved: i64 },
    /// The database is away; the same request may work later.
    Unavailable,
}

impl Problem {
    /// A fault in the body, at a JSON pointer (RFC 6901).
    pub(crate) fn at(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Problem::Invalid(vec![json!({ "pointer": pointer.into(), "detail": detail.into() })])
    }

    /// A fault in the path or the query.
    pub(crate) fn parameter(name: &str, detail: &str) -> Self {
        Problem::Invalid(vec![json!({ "parameter": name, "detail": detail })])
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        tracing::warn!(%error, "request not served");
        Problem::Unavailable
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, slug, title, detail) = match &self {
            Problem::Invalid(_) => {
                (400, "invalid-request", "The request is not as it should be", "See `errors`.".into())
            }
            Problem::Unreadable(why) => {
                (400, "unreadable-body", "The body cannot be read as JSON", why.clone())
            }
            Problem::TooLarge => {
                (413, "body-too-large", "The body is too large", "At most 64 KiB are read.".to_owned())
            }
            Problem::UnknownProduct => {
                (404, "unknown-product", "Unknown product", "Inventory has never had this product.".into())
            }
            Problem::NotFound => (404, "not-found", "Not found", "There is nothing at this path.".into()),
            Problem::MethodNotAllowed => {
                (405, "method-not-allowed", "Method not allowed", "See the `Allow` header.".into())
            }
            Problem::BelowReserved { reserved } => (
                409,
                "below-reserved",
                "Less than is reserved",
                format!("{reserved} are reserved for orders."),
            ),
            Problem::Unavailable => {
                (503, "unavailable", "Temporarily unavailable", "The inventory's database is away.".into())
            }
        };
        let mut body = json!({
            "type": format!("/problems/{slug}"), "title": title, "status": status, "detail": detail,
        });
        if let Problem::Invalid(errors) = self {
            body["errors"] = errors.into();
        }
        let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (code, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if code == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
