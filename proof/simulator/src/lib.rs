//! The deterministic simulator: the real core, the real loops of the runtime, the real workflows and the real
//! worker SDK, over a simulated store, broker, clock, worker databases and gateways. A seed decides everything.
//!
//! | module | is |
//! | --- | --- |
//! | [`run`] | one seed, from a world's making to the check of its invariants |
//! | [`shrink`] | from a failing seed to the least that fails |
//! | [`invariants`] | what must hold once the world is quiet |
//! | [`faults`] | what goes wrong, each kind with its own stream of random numbers |
//! | [`clients`] | customers and an operator |
//! | [`processes`] | the real loops, each in a task |
//! | [`world`], [`executor`] | the state of everything; simulated time |
//! | [`store`], [`bus`], [`rows`], [`gateway`] | the ports |
//! | [`coverage`] | what was met |
#![warn(missing_docs)]

pub mod bus;
pub mod clients;
pub mod coverage;
pub mod executor;
pub mod exhaustive;
pub mod faults;
pub mod gateway;
pub mod invariants;
pub mod processes;
pub mod rows;
pub mod run;
pub mod shrink;
pub mod store;
pub mod world;
