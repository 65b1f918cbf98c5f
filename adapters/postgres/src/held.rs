//! Remembers sagas that a commit passed over recently because another transaction held their row or slot.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use amends_engine::port::Write;
use uuid::Uuid;

/// How long a batch with such a saga does not wait for locks. Otherwise each such batch would wait for the same
/// row.
const HELD_REMEMBERED: Duration = Duration::from_secs(30);
/// Maximum number of sagas remembered; a batch with any further one waits for its lock.
const MOST_HELD: usize = 10_000;

/// Sagas by id, with the time at which they were last passed over.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeldSagas(Arc<Mutex<HashMap<Uuid, Instant>>>);

impl HeldSagas {
    /// Returns whether any of these sagas was passed over recently.
    pub(crate) fn has_any(&self, writes: &[&Write]) -> bool {
        let held = self.lock();
        let lately =
            |write: &&Write| held.get(&write.saga.id).is_some_and(|at| at.elapsed() < HELD_REMEMBERED);
        !held.is_empty() && writes.iter().any(lately)
    }

    /// Records which sagas of a batch were passed over, and that the others were not.
    pub(crate) fn note(&self, locked: &[Uuid], writes: &[&Write]) {
        let mut held = self.lock();
        if held.is_empty() && locked.is_empty() {
            return;
        }
        for write in writes {
            held.remove(&write.saga.id);
        }
        if held.len() + locked.len() > MOST_HELD {
            held.retain(|_, at| at.elapsed() < HELD_REMEMBERED);
        }
        if held.len() + locked.len() <= MOST_HELD {
            held.extend(locked.iter().map(|id| (*id, Instant::now())));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
