//! The ways in which a request to the api can fail. [`ProblemDetails`] is what is sent.

use std::time::Duration;

pub use amends_http::Fault;
use amends_http::ProblemDetails;
use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};

/// The ways in which a request can fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// A refusal that every HTTP edge can make.
    Edge(ProblemDetails),
    /// The request is invalid; nothing was changed.
    Invalid(Vec<Fault>),
    /// The resource does not exist.
    NotFound(String),
    /// The request is not possible in the resource's present state.
    Conflict { slug: &'static str, title: &'static str, detail: String },
    /// An idempotency key was used again with a different body.
    KeyReused,
    /// There are more requests than are admitted; contains the time until there is room.
    TooMany(Duration),
    /// A needed service is unavailable; the same request may work later.
    Unavailable(String),
    /// Too many such requests arrive at once, or one asks for too much; orders are not affected.
    Busy(String),
    /// A bug.
    Internal,
}

impl From<ProblemDetails> for Problem {
    fn from(details: ProblemDetails) -> Self {
        Problem::Edge(details)
    }
}

impl From<Problem> for ProblemDetails {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Edge(details) => details,
            Problem::Invalid(faults) => Self::invalid(faults),
            Problem::NotFound(what) => Self::not_found(what),
            Problem::Conflict { slug, title, detail } => Self::new(StatusCode::CONFLICT, slug, title, detail),
            Problem::KeyReused => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency-key-reused",
                "The idempotency key was used with another body",
                "A key identifies one request; use a new key for a new request.",
            ),
            Problem::TooMany(wait) => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too-many-requests",
                "Too many requests",
                "Nothing was changed. Try again later.",
            )
            .retry_after(wait + Duration::from_secs(1)),
            Problem::Unavailable(what) => Self::unavailable(what),
            Problem::Busy(what) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "Too many lists are read at once", what)
                    .retry_after(Duration::from_secs(1))
            }
            Problem::Internal => Self::internal(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        ProblemDetails::from(self).into_response()
    }
}
