//! The deterministic simulator: the real core, the real loops of the runtime, the real workflows and the real worker
//! SDK, over a simulated store, broker, clock, worker databases and gateways. A seed decides everything.
//!
//! | module | contains |
//! | --- | --- |
//! | [`run`] | one seed, from the creation of a world to the check of its invariants |
//! | [`shrink`] | reduces a failing seed to a minimal one |
//! | [`invariants`] | what must hold once the world is quiet |
//! | [`faults`] | the faults, each kind with its own random stream |
//! | [`clients`] | customers and an operator |
//! | [`processes`] | the real loops, each in a task |
//! | [`world`], [`executor`] | the whole state; simulated time |
//! | [`losses`] | the engine's database goes back to an earlier moment |
//! | [`store`], [`bus`], [`rows`], [`gateway`] | the ports |
//! | [`coverage`] | the faults and events met |
#![warn(missing_docs)]

pub mod bus;
pub mod clients;
pub mod coverage;
pub mod executor;
pub mod exhaustive;
pub mod faults;
pub mod gateway;
pub mod invariants;
pub mod losses;
pub mod processes;
pub mod rows;
pub mod run;
pub mod shrink;
pub mod store;
pub mod world;
