//! The messages between the engine and its workers: commands, replies, and the ids and tokens that tie them together.
//! This crate has no transport, no storage and no clock.
//!
//! The guarantees behind the messages are in `docs/PROTOCOL.md`; JSON Schemas generated from these types are under
//! `docs/protocol/`.
//!
//! ```
//! use amends_protocol::{id, Kind, Outcome};
//! let saga = uuid::Uuid::now_v7();
//! let execute = id::execute(saga, "pay", 0, 1);
//! assert_eq!(execute, id::execute(saga, "pay", 0, 1), "the same for every attempt");
//! assert_ne!(execute, id::undo(execute));
//! assert_eq!(serde_json::to_string(&Kind::Compensate).unwrap(), "\"compensate\"");
//! assert!(Outcome::Refused.is_business_answer());
//! ```
#![warn(missing_docs)]

pub mod backoff;
mod command;
mod exposure;
pub mod halving;
pub mod id;
mod json;
mod reply;
pub mod schema;
mod signature;
mod token;
pub mod trace;
pub mod transport;
pub mod wire;

pub use command::{Command, Kind, MAX_ATTEMPT, Resolved};
pub use exposure::{Exposure, add_exposure, exceeding, negated};
pub use json::Json;
pub use reply::{Outcome, Reason, Reply};
pub use signature::{CommandKey, CommandKeys, SIGNATURE_HEADER, SignatureError};
pub use token::{KeyError, TokenKey};

/// Version of the message format that this crate writes. It also reads older versions.
pub const SCHEMA_VERSION: u16 = 1;

/// Number of slots over which sagas are distributed. A message's partition is its slot modulo the topic's present
/// number of partitions.
pub const SLOTS: u16 = 1024;
