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
use utoipa::ToSchema;

use crate::{
    problem_types::{self, ProblemType},
    request_id,
};

/// What is wrong, and where.
#[derive(Debug, Clone, Serialize, PartialEq, Eq, ToSchema)]
pub struct Fault {
    /// A location in the body: a JSON pointer (RFC 6901).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub pointer: Option<String>,
    /// A parameter of the path or query.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub parameter: Option<&'static str>,
    /// A header.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub header: Option<&'static str>,
    /// What is expected there.
    pub detail: String,
    /// The largest number that would fit there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub remaining: Option<i64>,
}

impl Fault {
    /// A fault in the body, at a JSON pointer.
    pub fn at(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: Some(pointer.into()), ..Self::of(detail) }
    }

    /// A fault in the path or query.
    pub fn parameter(name: &'static str, detail: impl Into<String>) -> Self {
        Self { parameter: Some(name), ..Self::of(detail) }
    }

    /// A fault in a header.
    pub fn header(name: &'static str, detail: impl Into<String>) -> Self {
        Self { header: Some(name), ..Self::of(detail) }
    }

    /// Adds the largest number that would fit.
    #[must_use]
    pub fn remaining(self, most: i64) -> Self {
        Self { remaining: Some(most), ..self }
    }

    fn of(detail: impl Into<String>) -> Self {
        Self { pointer: None, parameter: None, header: None, detail: detail.into(), remaining: None }
    }
}

/// A refusal as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProblemDetails {
    kind: &'static ProblemType,
    detail: String,
    errors: Vec<Fault>,
    retry_after_seconds: Option<u64>,
    challenge: Option<Box<str>>,
}

impl ProblemDetails {
    /// Creates a problem of a type, with what is specific to this request.
    pub fn new(kind: &'static ProblemType, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), retry_after_seconds: None, challenge: None }
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
        Self::new(problem_types::INVALID_REQUEST, "See `errors`.").at(errors)
    }

    /// The body is not JSON at all.
    pub fn unreadable(why: impl Into<String>) -> Self {
        Self::new(problem_types::UNREADABLE_BODY, why)
    }

    /// The resource does not exist.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(problem_types::NOT_FOUND, detail)
    }

    /// The path does not exist.
    pub fn no_such_path() -> Self {
        Self::not_found("There is nothing at this path.")
    }

    /// The path exists, the method does not. The response carries `Allow`.
    pub fn method_not_allowed() -> Self {
        Self::new(problem_types::METHOD_NOT_ALLOWED, "See the `Allow` header.")
    }

    /// The caller accepts none of the media types of the route.
    pub fn not_acceptable(answered: &[&str]) -> Self {
        let answered: Vec<String> = answered.iter().map(|kind| format!("`{kind}`")).collect();
        Self::new(problem_types::NOT_ACCEPTABLE, format!("This route answers {}.", answered.join(" or ")))
    }

    /// The request did not arrive in time.
    pub fn too_slow() -> Self {
        Self::new(problem_types::REQUEST_TIMEOUT, "Nothing was changed. Send it again.")
    }

    /// The body is too long.
    pub fn too_large() -> Self {
        Self::new(problem_types::BODY_TOO_LARGE, "At most 64 KiB are read.")
    }

    /// The body is not declared as JSON.
    pub fn not_json() -> Self {
        Self::new(problem_types::NOT_JSON, "Send `Content-Type: application/json`.")
    }

    /// The request is for a host that is not served here.
    pub fn foreign_host() -> Self {
        let detail = "On a loopback address, only loopback names and addresses and the setting `allowed_hosts` are served.";
        Self::new(problem_types::FOREIGN_HOST, detail)
    }

    /// The request comes from a page of another origin.
    pub fn foreign_origin() -> Self {
        let detail = "Only the same origin and the setting `cors_origins` are allowed.";
        Self::new(problem_types::FOREIGN_ORIGIN, detail)
    }

    /// A needed service is unavailable; the same request may work later.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(problem_types::UNAVAILABLE, detail).retry_after(Duration::from_secs(1))
    }

    /// A bug.
    pub fn internal() -> Self {
        Self::new(problem_types::INTERNAL, "The server's logs contain the cause. A retry may help.")
    }

    /// Returns the type.
    pub fn kind(&self) -> &'static ProblemType {
        self.kind
    }

    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        self.kind.status()
    }

    fn body(&self, id: Option<&HeaderValue>) -> ProblemBody<'_> {
        ProblemBody {
            r#type: self.kind.uri(),
            title: self.kind.title(),
            status: self.status().as_u16(),
            detail: &self.detail,
            remaining: self.errors.iter().find_map(|fault| fault.remaining),
            errors: &self.errors,
            request_id: id.and_then(|id| id.to_str().ok()).map(str::to_owned),
        }
    }

    /// Returns a whole HTTP/1.1 response that ends its connection, for a client that never completed a request.
    pub(crate) fn to_last_response(&self) -> Vec<u8> {
        let id = request_id::made();
        let body = serde_json::to_vec(&self.body(Some(&id))).unwrap_or_default();
        let (status, id) = (self.status(), id.to_str().unwrap_or_default());
        let head = format!(
            "HTTP/1.1 {} {}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
             cache-control: no-store\r\nx-content-type-options: nosniff\r\ncross-origin-resource-policy: same-origin\r\n\
             x-request-id: {id}\r\nconnection: close\r\n\r\n",
            status.as_u16(),
            status.canonical_reason().unwrap_or_default(),
            body.len()
        );
        [head.into_bytes(), body].concat()
    }
}

/// A refusal: problem details by RFC 9457.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Problem)]
pub struct ProblemBody<'a> {
    /// The type: the path of a page that explains it.
    r#type: String,
    /// The type in a few words. It is the same for every problem of the type.
    title: &'static str,
    /// The status of the answer.
    status: u16,
    /// What is specific to this request.
    detail: &'a str,
    /// What would fit at the first fault that says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    remaining: Option<i64>,
    /// The places of the faults, and what would fit there.
    #[serde(skip_serializing_if = "<[Fault]>::is_empty")]
    #[schema(value_type = Vec<Fault>, required = false)]
    errors: &'a [Fault],
    /// The id of the request, as it stands in `X-Request-Id` and in the logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    request_id: Option<String>,
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
        if self.status() == StatusCode::REQUEST_TIMEOUT {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let body = Json(self.body(request_id::current().as_ref()));
        // `Json` sets `application/json`; the problem's own headers replace it.
        let mut response = (self.status(), body).into_response();
        response.headers_mut().extend(headers);
        response
    }
}
