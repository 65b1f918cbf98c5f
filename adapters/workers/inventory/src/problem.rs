//! Every way in which a request can fail. What goes over the wire is [`ProblemDetails`].

use std::time::Duration;

use amends_http::{Fault, ProblemDetails};
use amends_pool::sqlstate;
use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};

/// Every way in which a request can fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// What every HTTP edge refuses by itself.
    Edge(ProblemDetails),
    /// There is no such product.
    UnknownProduct,
    /// Less would be on hand than is reserved.
    BelowReserved { reserved: i64 },
    /// As many requests are being served as may be at once.
    Busy,
    /// Another transaction holds the product's row.
    Locked,
    /// The database is away; the same request may work later.
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
        tracing::warn!(%error, "request not served");
        Problem::Unavailable
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let details = match self {
            Problem::Edge(details) => details,
            Problem::UnknownProduct => ProblemDetails::new(
                StatusCode::NOT_FOUND,
                "unknown-product",
                "Unknown product",
                "Inventory has never had this product.",
            ),
            Problem::BelowReserved { reserved } => ProblemDetails::new(
                StatusCode::CONFLICT,
                "below-reserved",
                "Less than is reserved",
                format!("{reserved} are reserved for orders."),
            ),
            Problem::Busy => ProblemDetails::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "busy",
                "More is asked than is served at once",
                "Nothing was changed. Ask again later.",
            )
            .retry_after(Duration::from_secs(1)),
            Problem::Locked => {
                ProblemDetails::unavailable("Another transaction holds this product. Nothing was changed.")
            }
            Problem::Unavailable => ProblemDetails::unavailable("The inventory's database is away."),
        };
        details.into_response()
    }
}
