//! The payment worker over a real Postgres, with its own login role, and a transport in memory.

mod books;
mod methods;
mod refunds;
#[path = "../../../inventory/tests/inventory/transport.rs"]
mod transport;
mod world;
