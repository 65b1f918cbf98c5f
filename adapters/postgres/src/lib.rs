//! The engine's Postgres: sagas, and everything that is read of them. It knows nothing of orders.
//!
//! | module | is |
//! | --- | --- |
//! | [`PgSagaStore`] | the engine's [`SagaStore`](amends_engine::port::SagaStore) |
//! | [`births`], [`columns`], [`error`], [`lost_commit`] | parts of statements that give birth to sagas, for whoever stores more with them |
//! | [`admin`] | what an operator sees |
//! | [`events`] | the timeline, in order, for the publisher of domain events |
//! | [`watermarks`] | how far it is published |
//! | [`handoffs`] | slots whose owner cannot read on |
//! | `conformance` | what any `SagaStore` must do, as a suite of tests (with the feature of that name) |
//! | [`upkeep`] | what is done every so often |
//! | [`retention`] | what history is kept for, and how it goes |
//! | [`deployment`] | what is true of the whole deployment |
#![warn(missing_docs)]

pub mod admin;
pub mod births;
pub mod columns;
mod commit;
#[cfg(feature = "conformance")]
pub mod conformance;
mod deferred;
pub mod deployment;
pub mod error;
pub mod events;
pub mod handoffs;
mod held;
mod inputs;
pub mod keys;
pub mod lost_commit;
mod programs;
pub mod retention;
mod sagas;
mod store;
mod strays;
pub mod timeline;
pub mod upkeep;
pub mod watermarks;

pub use amends_engine::port::Error;
pub use births::Birth;
pub use store::PgSagaStore;

/// The migrations of the engine's database. The role `amends_engine` exists before they run; they run as the
/// database's owner.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations/engine");
