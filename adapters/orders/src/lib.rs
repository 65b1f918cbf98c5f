//! The order book, in the engine's database: orders beside their sagas.
//!
//! | module | is |
//! | --- | --- |
//! | [`OrderStore`] | orders, placed in one transaction with their sagas |
//! | `order` | what an order is: [`NewOrder`], [`OrderRow`], [`OrderView`] |
//! | [`keys`] | table `idempotency_keys` |
#![warn(missing_docs)]

pub mod keys;
mod order;
mod store;

pub use order::{NewOrder, OrderRow, OrderView, Placed};
pub use store::OrderStore;
