//! The workflows that Amends runs, one per file: payloads, definition, outcomes, tests, in that order.
#![warn(missing_docs)]

mod catalog;
pub mod events;
pub mod order_fulfilment;
pub mod order_ledger;
pub mod order_refund;
pub mod order_return;

pub use catalog::{Settings, Workflow, Workflows, all, catalog};
