//! Sagas that a commit has passed over lately, because another transaction held their row or their slot.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use amends_engine::port::Write;
use uuid::Uuid;

/// For so long a batch with such a saga waits for nobody. Otherwise each of them would wait a second for the same row.
const HELD_REMEMBERED: Duration = Duration::from_secs(30);
/// At most so many are remembered; a batch with another one waits a second.
const MOST_HELD: usize = 10_000;

/// Sagas by id, and when they were passed over last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held(Arc<Mutex<HashMap<Uuid, Instant>>>);

impl Held {
    /// Whether any of these was passed over lately.
    pub(crate) fn has_any(&self, writes: &[&Write]) -> bool {
        let held = self.lock();
        let lately =
            |write: &&Write| held.get(&write.saga.id).is_some_and(|at| at.elapsed() < HELD_REMEMBERED);
        !held.is_empty() && writes.iter().any(lately)
    }

    /// Of this batch these were passed over, and all others were not.
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
