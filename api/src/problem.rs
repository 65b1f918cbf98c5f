//! Every way in which a request to the api can fail. What goes over the wire is [`ProblemDetails`].

use std::time::Duration;

pub use amends_http::Fault;
use amends_http::ProblemDetails;
use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};

/// Every way in which a request can fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// What every HTTP edge refuses by itself.
    Edge(ProblemDetails),
    /// The request is not as it should be; nothing was changed.
    Invalid(Vec<Fault>),
    /// There is no such thing.
    NotFound(String),
    /// Not possible in the state that it is in.
    Conflict { slug: &'static str, title: &'static str, detail: String },
    /// An idempotency key came again with another body.
    KeyReused,
    /// More is asked than is admitted; so long it takes until there is room.
    TooMany(Duration),
    /// Something that is needed is away; the same request may work later.
    Unavailable(String),
    /// Too much of this is asked at once, or of one request; orders go on.
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
                "A key stands for one request; use a new one for a new request.",
            ),
            Problem::TooMany(wait) => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too-many-requests",
                "More is asked than is admitted",
                "Nothing was changed. Ask again later.",
            )
            .retry_after(wait + Duration::from_secs(1)),
            Problem::Unavailable(what) => Self::unavailable(what),
            Problem::Busy(what) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "More is asked than is read at once", what)
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
