//! The inventory worker: stock and reservations, in its own database.
//!
//! Steps: `reserve` (`{"lines":[{"productId":"mug-blue","quantity":2}]}`, several lines all or nothing; its
//! compensation releases) and `take` (`{"reservation":"<id of the reserve>"}`: the reserved stock has been shipped).
//! Its HTTP routes are in [`router`]: reads, changes by hand, and the ledger. [`events`] publishes the moves,
//! and [`cache`] lets readers go without Postgres.
#![warn(missing_docs)]

mod by_hand;
pub mod cache;
pub mod events;
mod executor;
mod expiry;
mod http;
mod movements;
mod problem;
mod requests;
pub mod stock;

use amends_pool::Pool;
use amends_protocol::transport::{Sink, Source};
use amends_worker::{PgRows, Settings, Transactional};

pub use executor::Inventory;
pub use expiry::expire_books;
pub use http::{AddRequest, Product, SUBJECT, StockRequest, router};
pub use movements::Movement;

/// The migrations of the inventory database.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("../../../migrations/inventory");

/// Returns the initial settings of the inventory worker.
pub fn settings() -> Settings {
    Settings::new("inventory")
}

/// Creates a worker, for tests and measurements. `amends worker inventory` is started from the registry of
/// services instead.
pub fn worker<S: Source, K: Sink>(
    pool: impl Into<Pool>,
    source: S,
    sink: K,
    settings: Settings,
) -> Transactional<PgRows, Inventory, S, K> {
    Transactional::new(PgRows::new(pool), Inventory::default(), source, sink, settings)
}
