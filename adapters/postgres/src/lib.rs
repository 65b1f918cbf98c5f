//! The engine's Postgres store: sagas, and all reads of them. It knows nothing of orders.
//!
//! | module | contains |
//! | --- | --- |
//! | [`PgSagaStore`] | the engine's [`SagaStore`](amends_engine::port::SagaStore) |
//! | [`births`], [`columns`], [`error`], [`lost_commit`] | parts of statements that insert sagas, for stores that insert more with them |
//! | [`admin`], [`odd_replies`], [`last_replies`], [`overviews`] | reads for operators |
//! | [`plans`] | what operators have planned |
//! | [`events`] | the timeline, in order, for the publisher of domain events |
//! | [`watermarks`] | how far the timeline is published |
//! | [`handoffs`] | slots whose owner cannot read the next entry |
//! | `conformance` | the test suite for every `SagaStore` (with the feature of that name) |
//! | [`upkeep`] | periodic upkeep |
//! | [`exposure`] | what all sagas that have not ended hold |
//! | [`retention`] | how long history is kept, and how it is dropped |
//! | [`deployment`] | properties of the whole deployment |
//! | [`homes`] | the parts of the database that a statement never crosses |
//! | [`sentinel`], [`lost_commits`] | notices that the database has lost what it had acknowledged, and notes it |
//! | [`citus`] | the database on a distributed Postgres |
#![warn(missing_docs)]

pub mod admin;
pub mod births;
pub mod citus;
pub mod columns;
mod commit;
#[cfg(feature = "conformance")]
pub mod conformance;
mod deferred;
pub mod deployment;
pub mod error;
pub mod events;
pub mod exposure;
pub mod handoffs;
mod held;
pub mod homes;
mod inputs;
pub mod keys;
pub mod last_replies;
pub mod lost_commit;
pub mod lost_commits;
pub mod odd_replies;
pub mod overviews;
pub mod plans;
mod programs;
pub mod retention;
mod sagas;
pub mod sentinel;
mod store;
mod strays;
pub mod timeline;
pub mod upkeep;
pub mod watermarks;

pub use amends_engine::port::Error;
pub use births::Birth;
pub use homes::{Database, Homes};
pub use store::PgSagaStore;

/// The migrations of the engine's database. The role `amends_engine` must exist before they run; they run as the
/// database's owner.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations/engine");
