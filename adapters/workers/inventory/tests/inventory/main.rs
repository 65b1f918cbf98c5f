//! The inventory worker over a real Postgres, with its own login role, and a transport in memory.

mod by_hand;
mod cached;
mod http;
mod restock;
mod stock;
mod transport;
mod world;
