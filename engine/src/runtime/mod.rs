//! The engine's loops: plain futures over the ports, each with a `run_once`. They spawn no task and know no async
//! runtime, so that dropping one at any await *is* a crash.
//!
//! | loop | does |
//! | --- | --- |
//! | [`replies`] | processes workers' replies, one transaction per batch |
//! | [`deferred`] | processes replies that could not be judged on arrival |
//! | [`timers`] | wakes sagas that are due |
//! | [`fleet`] | announces what this program knows, and reads what others know |
//! | [`recovery`] | sends again what a slot's former owner may not have sent |
//! | [`apply`] | decides one event from outside (a cancellation, an operator's action) |

pub mod apply;
mod batch;
mod budget;
mod clock_set_back;
mod counts;
pub mod deferred;
mod dispatch;
pub mod fleet;
mod news;
mod odd;
mod outcome;
mod passed_over;
mod put_off;
mod recent;
pub mod recovery;
pub mod replies;
mod restored;
mod strays;
pub mod timers;
mod traces;
mod written;

pub use budget::{RepeatAllowance, RepeatAllowances, RepeatBudget};
pub use fleet::Fleet;
pub use news::News;
pub use passed_over::PassedOver;
pub use recent::Recent;

use std::{
    sync::{Arc, RwLock},
    time::Duration,
};

use amends_protocol::{
    TokenKey,
    backoff::rest_after,
    transport::{self, Assignment},
};

use uuid::Uuid;

use crate::{
    core::{Catalog, Known},
    port,
};

/// What all loops of one process share.
#[derive(Debug)]
pub struct Engine<S, K, C> {
    /// The store of sagas.
    pub store: S,
    /// The sink for commands.
    pub sink: K,
    /// Monotonic time and jitter.
    pub clock: C,
    /// The workflows that this program knows.
    pub catalog: Catalog,
    /// The key of the reply tokens, by which the engine recognises replies to its own commands.
    pub key: TokenKey,
    /// The store's epoch when this process started: whenever the store was set back to an earlier state, a greater one
    /// begins. A process does not outlive a restore.
    pub epoch: u32,
    /// The slots that this process owns, as last seen by the replies loop.
    pub ownership: Ownership,
    /// The slots in which this process has recently committed.
    pub news: News,
    /// Budget for repetitions.
    pub budget: RepeatBudget,
    /// Recently written sagas.
    pub recent: Recent,
    /// Recently passed-over sagas.
    pub passed_over: PassedOver,
    /// What every live program knows.
    pub fleet: Fleet,
}

impl<S, K, C> Engine<S, K, C> {
    /// Returns what this program knows. It judges only sagas that this covers.
    pub fn known(&self) -> Known {
        Known::of(&self.catalog)
    }
}

/// Errors of a loop's run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] port::Error),
    /// The transport failed.
    #[error(transparent)]
    Transport(#[from] transport::Error),
    /// This program does not know the workflow: a newer program must be running too.
    #[error("workflow {0} is not in this program")]
    UnknownWorkflow(String),
    /// The engine cannot judge the saga now. The saga is unchanged.
    #[error("saga {0} cannot be judged here and now: {1}")]
    PassedOver(Uuid, port::Deferral),
    /// Other writers changed the same saga again and again.
    #[error("others keep writing the same saga")]
    Contended,
}

/// The slots that this process looks after. This is an optimisation: the revision fences writers.
#[derive(Debug, Clone, Default)]
pub struct Ownership(Arc<RwLock<Owned>>);

#[derive(Debug, Default)]
struct Owned {
    assignment: Assignment,
    drained: bool,
}

impl Ownership {
    /// Owns the slots of this assignment until it is updated.
    pub fn of(assignment: Assignment) -> Self {
        let ownership = Self::default();
        ownership.update(assignment, false);
        ownership
    }

    /// Sets the source's present assignment; `drained` says that the last receive found no waiting message.
    pub(crate) fn update(&self, assignment: Assignment, drained: bool) {
        let mut owned = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if owned.assignment == assignment {
            owned.drained |= drained;
        } else {
            *owned = Owned { assignment, drained };
        }
    }

    /// Returns the present assignment, and whether it has been drained since it was made.
    pub fn now(&self) -> (Assignment, bool) {
        let owned = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        (owned.assignment.clone(), owned.drained)
    }

    /// Returns the slots owned now.
    pub fn slots(&self) -> Vec<u16> {
        let (assignment, _) = self.now();
        (0..amends_protocol::SLOTS).filter(|&slot| assignment.owns(slot)).collect()
    }
}

/// The longest delay of a loop after failures.
const LOOP_LONGEST_REST: Duration = Duration::from_secs(5);

/// Returns the delay of a loop after consecutive failures; `jitter` in thousandths.
pub fn rest(failures: u32, jitter: u16) -> Duration {
    rest_after(failures, LOOP_LONGEST_REST, f64::from(jitter) / 1000.0)
}
