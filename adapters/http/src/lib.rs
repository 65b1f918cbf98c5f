//! The rules that every HTTP edge of a deployment follows: the api, the health listeners, and the workers' own HTTP.
//!
//! [`serve`] serves a router within [`Limits`]. [`guarded`] applies the rules to its routes: which callers are allowed
//! ([`Rules`]), how a body is read, and problem details (RFC 9457) for every refusal. [`problem_types`] is the table of
//! all their types. Checks of single routes are in [`body`], [`query`], [`text`] and [`accept`].
#![warn(missing_docs)]

pub mod accept;
pub mod body;
mod connections;
pub mod descriptors;
mod guard;
pub mod json;
mod origin;
mod problem;
pub mod problem_types;
pub mod query;
pub mod request_id;
mod server;
mod socket;
pub mod text;

pub use guard::{REQUEST_LONGEST, guarded};
pub use origin::{Error, Rules};
pub use problem::{Fault, ProblemBody, ProblemDetails};
pub use problem_types::ProblemType;
pub use server::{Limits, PeerAddress, serve};
