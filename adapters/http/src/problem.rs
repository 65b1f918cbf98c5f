//! Errors over HTTP: problem details (RFC 9457), with a stable `type` and the location of each fault.
//!
//! A problem never repeats what the caller sent. The only exception is the name of an unknown field in a pointer, if it
//! is short and plain: it is the location.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// What is wrong, and where.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Fault {
    /// A location in the body: a JSON pointer (RFC 6901).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// A parameter of the path or query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<&'static str>,
    /// A header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<&'static str>,
    /// What is expected there.
    pub detail: String,
    /// How much would fit there, where it is a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<i64>,
}

impl Fault {
    /// A fault in the body, at a JSON pointer.
    pub fn at(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: Some(pointer.into()), ..Self::with(detail) }
    }

    /// A fault in the path or query.
    pub fn parameter(name: &'static str, detail: impl Into<String>) -> Self {
        Self { parameter: Some(name), ..Self::with(detail) }
    }

    /// A fault in a header.
    pub fn header(name: &'static str, detail: impl Into<String>) -> Self {
        Self { header: Some(name), ..Self::with(detail) }
    }

    /// Adds how much would fit.
    #[must_use]
    pub fn remaining(self, remaining: i64) -> Self {
        Self { remaining: Some(remaining), ..self }
    }

    fn with(detail: impl Into<String>) -> Self {
        Self { pointer: None, parameter: None, header: None, detail: detail.into(), remaining: None }
    }
}

/// A refusal as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProblemDetails {
    status: StatusCode,
    slug: &'static str,
    title: &'static str,
    detail: String,
    errors: Vec<Fault>,
    retry_after_seconds: Option<u64>,
    challenge: Option<Box<str>>,
}

impl ProblemDetails {
    /// Creates a problem that is specific to a route.
    pub fn new(
        status: StatusCode,
        slug: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            status,
            slug,
            title,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_seconds: None,
            challenge: None,
        }
    }

    /// Adds what the caller must present instead: the value of `WWW-Authenticate`.
    #[must_use]
    pub fn challenge(self, challenge: impl Into<Box<str>>) -> Self {
        Self { challenge: Some(challenge.into()), ..self }
    }

    /// Adds the places of the faults.
    #[must_use]
    pub fn at(self, errors: Vec<Fault>) -> Self {
        Self { errors, ..self }
    }

    /// Adds the time after which the caller may ask again.
    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after_seconds: Some(wait.as_secs()), ..self }
    }

    /// The request is invalid; nothing was changed.
    pub fn invalid(errors: Vec<Fault>) -> Self {
        let (slug, title) = ("invalid-request", "The request is invalid");
        Self { errors, ..Self::new(StatusCode::BAD_REQUEST, slug, title, "See `errors`.") }
    }

    /// The body is not JSON at all.
    pub fn unreadable(why: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "unreadable-body", "The body cannot be read as JSON", why)
    }

    /// The resource does not exist.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    /// The path does not exist.
    pub fn no_such_path() -> Self {
        Self::not_found("There is nothing at this path.")
    }

    /// The path exists, the method does not. The response carries `Allow`.
    pub fn method_not_allowed() -> Self {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self::new(status, "method-not-allowed", "Method not allowed", "See the `Allow` header.")
    }

    /// The caller accepts none of the media types of the route.
    pub fn not_acceptable(answered: &str) -> Self {
        let (slug, title) = ("not-acceptable", "No acceptable media type");
        Self::new(StatusCode::NOT_ACCEPTABLE, slug, title, format!("This route answers `{answered}`."))
    }

    /// The request did not arrive in time.
    pub fn too_slow() -> Self {
        let (slug, title) = ("request-timeout", "The request did not arrive in time");
        Self::new(StatusCode::REQUEST_TIMEOUT, slug, title, "Nothing was changed. Send it again.")
    }

    /// The body is too long.
    pub fn too_large() -> Self {
        let (slug, title) = ("body-too-large", "The body is too large");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, slug, title, "At most 64 KiB are read.")
    }

    /// The body is not declared as JSON.
    pub fn not_json() -> Self {
        let (slug, title) = ("not-json", "The body is not JSON");
        let detail = "Send `Content-Type: application/json`.";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, slug, title, detail)
    }

    /// The request is for a host that is not served here.
    pub fn foreign_host() -> Self {
        let (slug, title) = ("foreign-host", "This host is not served here");
        let detail = "On a loopback address, only loopback names and addresses and the setting `allowed_hosts` are served.";
        Self::new(StatusCode::MISDIRECTED_REQUEST, slug, title, detail)
    }

    /// The request comes from a page of another origin.
    pub fn foreign_origin() -> Self {
        let (slug, title) = ("foreign-origin", "Pages of this origin are not allowed");
        let detail = "Only the same origin and the setting `cors_origins` are allowed.";
        Self::new(StatusCode::FORBIDDEN, slug, title, detail)
    }

    /// A needed service is unavailable; the same request may work later.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        let (slug, title) = ("unavailable", "Temporarily unavailable");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, slug, title, detail).retry_after(Duration::from_secs(1))
    }

    /// A bug.
    pub fn internal() -> Self {
        let (slug, title) = ("internal", "Internal error");
        let detail = "The server's logs contain the cause. A retry may help.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, slug, title, detail)
    }

    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    fn body(&self) -> Body<'_> {
        Body {
            r#type: format!("/problems/{}", self.slug),
            title: self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
            remaining: self.errors.iter().find_map(|fault| fault.remaining),
            errors: &self.errors,
        }
    }

    /// Returns a whole HTTP/1.1 response that ends its connection, for a client that never completed a request.
    pub(crate) fn to_last_response(&self) -> Vec<u8> {
        let body = serde_json::to_vec(&self.body()).unwrap_or_default();
        let status = self.status;
        let head = format!(
            "HTTP/1.1 {} {}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
             cache-control: no-store\r\nconnection: close\r\n\r\n",
            status.as_u16(),
            status.canonical_reason().unwrap_or_default(),
            body.len()
        );
        [head.into_bytes(), body].concat()
    }
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining: Option<i64>,
    #[serde(skip_serializing_if = "<[Fault]>::is_empty")]
    errors: &'a [Fault],
}

impl IntoResponse for ProblemDetails {
    fn into_response(self) -> Response {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = self.challenge.as_ref().and_then(|text| HeaderValue::from_str(text).ok()) {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if self.status == StatusCode::REQUEST_TIMEOUT {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let body = Json(self.body());
        // `Json` sets `application/json`; the problem's own headers replace it.
        let mut response = (self.status, body).into_response();
        response.headers_mut().extend(headers);
        response
    }
}
