//! Errors over HTTP: problem details (RFC 9457), with a stable `type` and the place of each fault.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// What is wrong, and where.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Fault {
    /// In the body: a JSON pointer (RFC 6901).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// In the path or query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<&'static str>,
    /// In a header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<&'static str>,
    /// What is wrong there.
    pub detail: String,
}

impl Fault {
    pub fn at(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: Some(pointer.into()), parameter: None, header: None, detail: detail.into() }
    }

    pub fn parameter(name: &'static str, detail: impl Into<String>) -> Self {
        Self { pointer: None, parameter: Some(name), header: None, detail: detail.into() }
    }

    pub fn header(name: &'static str, detail: impl Into<String>) -> Self {
        Self { pointer: None, parameter: None, header: Some(name), detail: detail.into() }
    }
}

/// Every way in which a request can fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The request is not as it should be; nothing was changed.
    Invalid(Vec<Fault>),
    /// The body is not JSON at all.
    Unreadable(String),
    /// The body is longer than is read.
    TooLarge,
    /// The body says that it is something else than JSON.
    NotJson,
    /// There is no such thing.
    NotFound(String),
    /// The path is there, the method is not.
    MethodNotAllowed,
    /// Not possible in the state that it is in.
    Conflict { slug: &'static str, title: &'static str, detail: String },
    /// An idempotency key came again with another body.
    KeyReused,
    /// More is asked than is admitted; so long it takes until there is room.
    TooMany(Duration),
    /// Something that is needed is away; the same request may work later.
    Unavailable(String),
    /// A bug.
    Internal,
}

impl Problem {
    fn parts(&self) -> (StatusCode, &'static str, &'static str, String) {
        let s = str::to_owned;
        match self {
            Problem::Invalid(_) => (
                StatusCode::BAD_REQUEST,
                "invalid-request",
                "The request is not as it should be",
                s("See `errors`."),
            ),
            Problem::Unreadable(why) => {
                (StatusCode::BAD_REQUEST, "unreadable-body", "The body cannot be read as JSON", why.clone())
            }
            Problem::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-large",
                "The body is too large",
                s("At most 64 KiB are read."),
            ),
            Problem::NotJson => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "not-json",
                "The body is not JSON",
                s("Send `Content-Type: application/json`."),
            ),
            Problem::NotFound(what) => (StatusCode::NOT_FOUND, "not-found", "Not found", what.clone()),
            Problem::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "Method not allowed",
                s("See the `Allow` header."),
            ),
            Problem::Conflict { slug, title, detail } => (StatusCode::CONFLICT, slug, title, detail.clone()),
            Problem::KeyReused => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency-key-reused",
                "The idempotency key was used with another body",
                s("A key stands for one request; use a new one for a new request."),
            ),
            Problem::TooMany(_) => (
                StatusCode::TOO_MANY_REQUESTS,
                "too-many-requests",
                "More is asked than is admitted",
                s("Nothing was changed. Ask again later."),
            ),
            Problem::Unavailable(what) => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Temporarily unavailable", what.clone())
            }
            Problem::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "Something went wrong here",
                s("The logs say more. Asking again may help."),
            ),
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "<[Fault]>::is_empty")]
    errors: &'a [Fault],
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, slug, title, detail) = self.parts();
        let errors = if let Problem::Invalid(faults) = &self { faults.as_slice() } else { &[] };
        let r#type = format!("/problems/{slug}");
        let body = Json(Body { r#type, title, status: status.as_u16(), detail, errors });
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        let retry_after = match self {
            Problem::TooMany(wait) => Some(wait.as_secs() + 1),
            Problem::Unavailable(_) => Some(1),
            _ => None,
        };
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        headers.insert(HeaderName::from_static("cache-control"), HeaderValue::from_static("no-store"));
        response
    }
}
