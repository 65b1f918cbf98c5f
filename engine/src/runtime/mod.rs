//! The engine's loops: plain futures over the ports, each with a `run_once`. They spawn no task and know no
//! runtime, so that dropping one at any await *is* a crash.
//!
//! | loop | does |
//! | --- | --- |
//! | [`replies`] | takes what workers answered, a batch a transaction |
//! | [`deferred`] | takes answers that could not be judged when they came |
//! | [`timers`] | takes what is due |
//! | [`fleet`] | announces what this program knows, and hears what others do |
//! | [`recovery`] | sends again what a former owner of a slot may not have sent |
//! | [`apply`] | decides one event that came through a door (a cancellation, an operator's action) |

pub mod apply;
mod batch;
mod budget;
pub mod deferred;
mod dispatch;
pub mod fleet;
mod news;
mod oversleepers;
mod passed_over;
mod put_off;
mod recent;
pub mod recovery;
pub mod replies;
pub mod timers;

pub use budget::{RepeatAllowance, RepeatAllowances, RepeatBudget};
pub use fleet::Fleet;
pub use news::News;
pub use passed_over::PassedOver;
pub use recent::Recent;

use std::{
    sync::{
        Arc, RwLock,
        atomic::{AtomicU32, Ordering},
    },
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
    /// Where sagas live.
    pub store: S,
    /// Where commands go.
    pub sink: K,
    /// Time and jitter.
    pub clock: C,
    /// The workflows it knows.
    pub catalog: Catalog,
    /// How it knows its own commands again.
    pub key: TokenKey,
    /// How often the store was restored to an earlier state.
    pub epoch: Epoch,
    /// What this process owns, as the replies loop last saw it.
    pub ownership: Ownership,
    /// Where it has written lately.
    pub news: News,
    /// What repetitions may cost.
    pub budget: RepeatBudget,
    /// What it has written lately.
    pub recent: Recent,
    /// What it has passed over lately.
    pub passed_over: PassedOver,
    /// What every live program knows.
    pub fleet: Fleet,
}

impl<S, K, C> Engine<S, K, C> {
    /// What this program knows: only such sagas are its to judge.
    pub fn known(&self) -> Known {
        Known::of(&self.catalog)
    }
}

/// How often the store was restored to an earlier state, as far as this process has heard. It is read when a process
/// starts, and again when somebody else seems to know better.
#[derive(Debug)]
pub struct Epoch(AtomicU32);

impl Epoch {
    /// As it was read.
    pub fn new(epoch: u32) -> Self {
        Self(AtomicU32::new(epoch))
    }

    /// The newest that this process has heard of.
    pub fn known(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes over what was read. Returns whether it is news.
    fn learn(&self, epoch: u32) -> bool {
        self.0.fetch_max(epoch, Ordering::Relaxed) < epoch
    }
}

/// What a loop could not get past this time.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] port::Error),
    /// The transport.
    #[error(transparent)]
    Transport(#[from] transport::Error),
    /// A workflow that this program does not know: a newer one must be running too.
    #[error("workflow {0} is not in this program")]
    UnknownWorkflow(String),
    /// A saga that cannot be judged here and now. It is unchanged.
    #[error("saga {0} cannot be judged here and now: {1}")]
    PassedOver(Uuid, port::Deferral),
    /// Others wrote the same saga again and again.
    #[error("others keep writing the same saga")]
    Contended,
}

/// The slots that are this process's to look after. An optimisation: the revision is what fences.
#[derive(Debug, Clone, Default)]
pub struct Ownership(Arc<RwLock<Owned>>);

#[derive(Debug, Default)]
struct Owned {
    assignment: Assignment,
    drained: bool,
}

impl Ownership {
    /// What the source says now; `drained`: nothing was waiting when last asked.
    pub(crate) fn update(&self, assignment: Assignment, drained: bool) {
        let mut owned = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if owned.assignment == assignment {
            owned.drained |= drained;
        } else {
            *owned = Owned { assignment, drained };
        }
    }

    /// The present assignment, and whether it has been drained since it was made.
    pub fn now(&self) -> (Assignment, bool) {
        let owned = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        (owned.assignment.clone(), owned.drained)
    }

    /// The slots owned now.
    pub fn slots(&self) -> Vec<u16> {
        let (assignment, _) = self.now();
        (0..amends_protocol::SLOTS).filter(|&slot| assignment.owns(slot)).collect()
    }
}

/// The longest that a loop rests after failures.
const LOOP_LONGEST_REST: Duration = Duration::from_secs(5);

/// How long a loop rests after so many failures in a row; `jitter` in thousandths.
pub fn rest(failures: u32, jitter: u16) -> Duration {
    rest_after(failures, LOOP_LONGEST_REST, f64::from(jitter) / 1000.0)
}
