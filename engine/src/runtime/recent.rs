//! Remembers sagas that this process wrote recently: most replies arrive shortly after their command, and the row need
//! not be read again.
//!
//! A remembered row may be outdated, because another process may have written since. A *write* decided by it is fenced
//! by the revision, like any other. Any other decision (nothing to do, not mine, not possible) is not trusted, and the
//! row is read. The caller sees to that.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use amends_protocol::Json;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::core::Saga;

/// Maximum number of sagas remembered: some tens of megabytes. At least half as many are kept.
const RECENT_MOST: usize = 20_000;

/// A saga as last written.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub saga: Arc<Saga>,
    /// The saga's input, if it is known. It never changes. Personal fields may be erased and are not kept.
    pub data: Option<Json>,
}

/// Sagas by id. The older half is forgotten as a whole.
#[derive(Debug, Clone, Default)]
pub struct Recent(Arc<Mutex<Halves>>);

#[derive(Debug, Default)]
struct Halves {
    newer: HashMap<Uuid, Kept>,
    older: HashMap<Uuid, Kept>,
}

impl Recent {
    /// Takes out those of these sagas that are remembered; they are remembered again when they are written.
    pub(super) fn take<'a>(&self, ids: impl Iterator<Item = &'a Uuid>) -> HashMap<Uuid, Kept> {
        let mut halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ids.filter_map(|id| Some((*id, halves.newer.remove(id).or_else(|| halves.older.remove(id))?)))
            .collect()
    }

    /// Sets a new `wake_at` where the revision still matches. A saga remembered with the old one would reset it in the
    /// row at its next write.
    pub(super) fn reschedule(&self, sagas: &[(Uuid, u32, Option<DateTime<Utc>>)]) {
        let mut halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Halves { newer, older } = &mut *halves;
        for (id, revision, wake_at) in sagas {
            if let Some(kept) = newer.get_mut(id).or_else(|| older.get_mut(id))
                && kept.saga.revision == *revision
            {
                Arc::make_mut(&mut kept.saga).wake_at = *wake_at;
            }
        }
    }

    /// Remembers these sagas. A saga that has ended expects no more replies and is not remembered.
    pub(super) fn keep(&self, written: impl Iterator<Item = Kept>) {
        let mut halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for kept in written {
            // An older version of the saga must not stay remembered.
            halves.older.remove(&kept.saga.id);
            halves.newer.remove(&kept.saga.id);
            if !kept.saga.live {
                continue;
            }
            if halves.newer.len() >= RECENT_MOST / 2 {
                halves.older = std::mem::take(&mut halves.newer);
            }
            halves.newer.insert(kept.saga.id, kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Direction, SagaProgress};

    fn saga(n: u128, live: bool) -> Kept {
        let at = DateTime::UNIX_EPOCH;
        let state = SagaProgress {
            direction: Direction::Forward,
            timeout_at: None,
            parts: Vec::new(),
            commands: Vec::new(),
            signals: Vec::new(),
            labels: Default::default(),
            poisoned: None,
            trace: None,
        };
        let saga = Saga {
            id: Uuid::from_u128(n),
            slot: 0,
            business_key: String::new(),
            workflow: String::new(),
            workflow_version: 1,
            core_version: 1,
            revision: 1,
            label: String::new(),
            heading_for: None,
            reason: None,
            outcome: None,
            parked: false,
            live,
            wake_at: None,
            step: String::new(),
            since: at,
            born_at: at,
            state,
        };
        Kept { saga: Arc::new(saga), data: None }
    }

    #[test]
    fn what_was_written_last_is_told_once_and_the_oldest_are_forgotten() {
        let recent = Recent::default();
        let most = RECENT_MOST as u128;
        recent.keep((0..most + 2).map(|n| saga(n, n != 7)));
        let told = |n: u128| recent.take([Uuid::from_u128(n)].iter()).len();
        assert_eq!((told(most + 1), told(most + 1)), (1, 0), "once");
        assert_eq!(told(most / 2 + 2), 1);
        assert_eq!(told(0), 0, "forgotten");
        recent.keep([saga(1, true), saga(1, false)].into_iter());
        assert_eq!(told(1), 0, "it has ended");
    }
}
