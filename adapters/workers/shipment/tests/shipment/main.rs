//! The shipment worker over a real Postgres, with its own login role, and a transport in memory.

mod carrier;
mod personal;
#[path = "../../../inventory/tests/inventory/transport.rs"]
mod transport;
mod world;
