//! The ways in which a request can fail. [`ProblemDetails`] is what is sent.

use std::time::Duration;

use amends_http::{Fault, ProblemDetails, problem_types};
use amends_pool::sqlstate;
use axum::response::{IntoResponse, Response};

/// The ways in which a request can fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// A refusal that every HTTP edge can make.
    Edge(ProblemDetails),
    /// The product does not exist.
    UnknownProduct,
    /// The quantity on hand would be below the reserved quantity.
    BelowReserved {
        /// The reserved quantity.
        reserved: i64,
        /// What would fit, and where.
        fits: Fault,
    },
    /// The quantity on hand would be larger than can be counted.
    TooMuch(Fault),
    /// An idempotency key was used again with other content.
    KeyReused,
    /// The maximum number of concurrent requests is reached.
    Busy,
    /// Another transaction holds the product's row.
    Locked,
    /// The database is unavailable; the same request may work later.
    Unavailable,
}

impl Problem {
    /// A fault in the path or the query.
    pub(crate) fn parameter(name: &'static str, detail: &str) -> Self {
        Problem::Edge(ProblemDetails::invalid(vec![Fault::parameter(name, detail)]))
    }
}

impl From<ProblemDetails> for Problem {
    fn from(details: ProblemDetails) -> Self {
        Problem::Edge(details)
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        if sqlstate::is_locked(&error) {
            return Problem::Locked;
        }
        tracing::warn!(%error, "a request failed");
        Problem::Unavailable
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let details = match self {
            Problem::Edge(details) => details,
            Problem::UnknownProduct => {
                ProblemDetails::new(problem_types::UNKNOWN_PRODUCT, "Inventory has never had this product.")
            }
            Problem::BelowReserved { reserved, fits } => ProblemDetails::new(
                problem_types::BELOW_RESERVED,
                format!("{reserved} are reserved for orders."),
            )
            .at(vec![fits]),
            Problem::TooMuch(fits) => ProblemDetails::new(
                problem_types::STOCK_TOO_LARGE,
                "The quantity on hand would be larger than can be counted.",
            )
            .at(vec![fits]),
            Problem::KeyReused => ProblemDetails::new(
                problem_types::IDEMPOTENCY_KEY_REUSED,
                "A key identifies one request; use a new key for a new request.",
            ),
            Problem::Busy => {
                let detail =
                    "Too many stock requests are served at once. Nothing was changed. Try again later.";
                ProblemDetails::new(problem_types::BUSY, detail).retry_after(Duration::from_secs(1))
            }
            Problem::Locked => {
                ProblemDetails::unavailable("Another transaction holds this product. Nothing was changed.")
            }
            Problem::Unavailable => ProblemDetails::unavailable("The inventory's database is unavailable."),
        };
        details.into_response()
    }
}
