//! The saga engine: durable workflows whose steps are commands to workers, and whose failures are undone in reverse
//! order. It knows nothing of orders, Postgres, Kafka or HTTP.
//!
//! * [`core`] decides: pure, synchronous, without clock or randomness. Start at [`core::transition`].
//! * [`operate`] says what an operator may know about a saga. Pure as well.
//! * [`port`] defines what the engine needs from its surroundings.
//! * [`runtime`] has one loop per file over those ports, each with a `run_once`.
//!
//! ```
//! use amends_engine::core::{self, Decision, Definition, Event, Input, Occurrence};
//! use amends_protocol::Json;
//! # fn f(definition: &Definition, input: &Json, now: chrono::DateTime<chrono::Utc>) {
//! let new = core::NewSaga { id: uuid::Uuid::now_v7(), business_key: "order-1".into(), trace: None };
//! let birth = core::start(definition, new, input, now);
//! assert_eq!(birth.sends.len(), 1, "the first step's command");
//! let cancel = Event::CancelRequested(core::Actor::new("c-1001", "changed my mind"));
//! let occurrence = Occurrence { event: cancel, at: now, jitter: 0 };
//! assert!(matches!(core::transition(definition, &birth.saga, &occurrence), Decision::Changed(_)));
//! # }
//! ```
#![warn(missing_docs)]

pub mod core;
pub mod dialogue;
pub mod operate;
pub mod port;
pub mod runtime;
