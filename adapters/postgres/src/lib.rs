//! The engine's Postgres: sagas, orders and everything that is read of them.
//!
//! | module | is |
//! | --- | --- |
//! | [`PgSagaStore`] | the engine's [`SagaStore`](amends_engine::port::SagaStore) |
//! | [`orders`] | orders, placed in one transaction with their sagas |
//! | [`admin`] | what an operator sees |
//! | [`events`] | the timeline, in order, for the publisher of domain events |
//! | [`upkeep`] | what is done every so often |
//! | [`deployment`] | what is true of the whole deployment |
//! | [`pool`] | connections, and whether the schema is this program's |
#![warn(missing_docs)]

pub mod admin;
pub mod deployment;
pub mod events;
pub mod orders;
pub mod pool;
mod store;
pub mod upkeep;

pub use amends_engine::port::Error;
pub use store::PgSagaStore;

/// The migrations of the engine's database. The role `amends_engine` exists before they run; they run as the
/// database's owner.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations/engine");
