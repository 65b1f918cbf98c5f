//! The ways in which a request to the api can fail. [`ProblemDetails`] is what is sent. Each problem is of one of
//! [`problem_types`], the table of all types with the help that `/problems/<slug>` shows.

use std::time::Duration;

use amends_http::ProblemDetails;
pub use amends_http::{Fault, ProblemType, problem_types};
use axum::response::{IntoResponse, Response};

/// The ways in which a request can fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// A refusal that every HTTP edge can make.
    Edge(ProblemDetails),
    /// The request is invalid; nothing was changed.
    Invalid(Vec<Fault>),
    /// The resource does not exist.
    NotFound(String),
    /// A refusal of this type, with what is specific to the request.
    Refused(&'static ProblemType, String),
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
            Problem::Refused(kind, detail) => Self::new(kind, detail),
            Problem::KeyReused => Self::new(
                problem_types::IDEMPOTENCY_KEY_REUSED,
                "A key identifies one request; use a new key for a new request.",
            ),
            Problem::TooMany(wait) => {
                Self::new(problem_types::TOO_MANY_REQUESTS, "Nothing was changed. Try again later.")
                    .retry_after(wait + Duration::from_secs(1))
            }
            Problem::Unavailable(what) => Self::unavailable(what),
            Problem::Busy(what) => Self::new(problem_types::BUSY, what).retry_after(Duration::from_secs(1)),
            Problem::Internal => Self::internal(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        ProblemDetails::from(self).into_response()
    }
}
