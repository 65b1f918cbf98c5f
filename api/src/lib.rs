//! The building blocks of the program `amends`: its roles, and what they share. It connects the other crates;
//! `program.rs` only chooses a role. It is a library so that the benchmark can run the same roles over other workflows.

#[cfg(test)]
mod asyncapi;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod doctor;
pub mod engine;
pub mod failpoints;
pub mod fleet;
pub mod gateway;
pub mod http;
pub mod links;
pub mod lists;
mod messages;
pub mod orders;
pub mod panics;
mod participants;
pub mod problem;
pub mod process;
pub mod program;
pub mod publisher;
mod remote;
pub mod roles;
pub mod routes;
mod samples;
pub mod secrets;
pub mod services;
pub mod settings;
pub mod state;
pub mod telemetry;
pub mod topics;
mod upkeep;
pub mod webhooks;
mod worker;

/// Also used by the Kafka client library, which is written in C. glibc's allocator took a third of an engine's time,
/// because one thread frees what another has allocated.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
