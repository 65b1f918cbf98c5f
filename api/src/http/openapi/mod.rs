//! The OpenAPI 3.1 document of the api, made from the routes and their types.
//!
//! # How a route is described
//!
//! The last argument of [`Routes::on`](crate::auth::access::Routes::on) is the route's [`Operation`]:
//!
//! ```ignore
//! .on(
//!     Method::POST,
//!     "/api/orders/{id}/cancel",
//!     Access::Needs(Right::CancelOrders),
//!     cancel,
//!     Operation::new("cancelOrder", "Cancel an order, with a reason")
//!         .about("202 is a promise: the order ends `CANCELLED`.")
//!         .if_match()
//!         .body::<CancelRequest>(json!({ "reason": "ordered twice" }))
//!         .answer(Answer::json::<Order>(StatusCode::ACCEPTED, "The order as it is now."))
//!         .problems(&[problem_types::CANNOT_CANCEL]),
//! )
//! ```
//!
//! - Types that are sent or answered derive [`utoipa::ToSchema`]; [`schema`] has the strings that the api knows (`Text`,
//!   `ProductId`, `Instant` …), for `#[schema(value_type = …)]`. A new parameter of paths is a line in [`path`].
//! - Everything that follows from method, path, access and body is added by [`document`]: the token, path parameters,
//!   `Idempotency-Key` of every POST, `If-Match`, and the problems that such a route can always answer. Only the
//!   problems of the route itself are listed with it. A new type of problem is a row in `amends_http::problem_types`.
//! - The example of a body is a request that works: a test sends it (`api/tests/processes/examples.rs`).
//! - Then write the committed document anew: `UPDATE_OPENAPI=1 cargo test -p amends-api --lib openapi`.

mod document;
mod operation;
mod path;
pub mod schema;

#[cfg(test)]
mod tests;

pub use document::document;
pub use operation::{Answer, Key, Operation};
