//! Commands, replies and domain events over Kafka: the [`Source`] and [`Sink`] of `amends-protocol`.
//!
//! - [`KafkaSink`] keeps batches together, sends replies to their slots, and ends a send once every message is
//!   acknowledged;
//! - [`KafkaSource`] is a member of a consumer group that commits only what its caller has settled;
//! - [`topics`] creates missing topics and reports those that differ from the settings;
//! - [`acls`] allows each role its own topics and groups;
//! - [`inspect`] reads how topics are set and how far consumer groups are behind.
//!
//! This crate retries only what is certainly harmless: errors go to the caller, who asks again.
//!
//! [`Source`]: amends_protocol::transport::Source [`Sink`]: amends_protocol::transport::Sink

#![warn(missing_docs)]

pub mod acls;
mod context;
mod credentials;
pub mod inspect;
mod lag;
mod member;
mod producer;
mod progress;
mod security;
mod settings;
mod sink;
mod source;
mod sys;
pub mod topics;
mod watch;

pub use credentials::{ContainsNul, Credentials};
pub use member::ASSIGNOR;
pub use security::{BadProperty, Login, Mechanism, Security, Tls, check_property};
pub use settings::{Contact, Error, KafkaSettings, check};
pub use sink::{EVENT_CONTENT_TYPE, KafkaSink};
pub use source::KafkaSource;
