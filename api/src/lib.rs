//! What the program `amends` is made of: its roles, and what they share. Here the crates beside this one are put
//! together; `program.rs` only chooses a role. A library, so that the benchmark can run the same roles over other
//! workflows.

pub mod cli;
pub mod clock;
pub mod engine;
pub mod failpoints;
pub mod fleet;
pub mod lists;
pub mod orders;
pub mod panics;
pub mod problem;
pub mod process;
pub mod program;
pub mod publisher;
pub mod roles;
pub mod routes;
mod samples;
pub mod services;
pub mod settings;
pub mod state;
pub mod telemetry;
pub mod topics;
mod upkeep;
mod worker;

/// Of the client library for Kafka too, which is C. glibc's took a third of an engine's time: what one thread puts
/// together another takes apart.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
