//! The workflows that Amends runs, one per file: payloads, definition, outcomes, tests, in that order.
#![warn(missing_docs)]

mod catalog;
pub mod events;
pub mod order_fulfilment;

pub use catalog::{Settings, Workflow, Workflows, all, catalog};
