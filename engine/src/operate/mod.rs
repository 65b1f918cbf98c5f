//! What an operator may know about a saga, computed from its row. Pure, like the core.

mod actions;
mod explanation;
mod fingerprint;
mod plan;
mod situation;

pub use actions::{Action, actions};
pub use explanation::{Explanation, explain};
pub use fingerprint::{Fingerprint, fingerprint};
pub use plan::{Effects, NoPlan, Plan, plan};
pub use situation::{
    Kind, Next, Situation, Surroundings, WorkerProgress, awaited_command, awaited_participant, situation,
};
