//! Sagas that this process wrote lately, as it wrote them: most answers come a moment after the command that they
//! answer, and need not have the row read again.
//!
//! What is remembered may be out of date, for others may have written since. A *write* that is decided by it is fenced by
//! the revision, like any other. Where it comes to anything else (nothing, not mine, not possible) it is not believed,
//! and the row is read. The caller sees to that.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use amends_protocol::Json;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::core::Saga;

/// At least half as many are remembered, at most so many: some tens of megabytes.
const MOST: usize = 20_000;

/// A saga as it was written last.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub saga: Arc<Saga>,
    /// What it was given, where that is known. It never changes; personal fields may be erased, and are not kept.
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
    /// Those of these that are remembered; they are forgotten, until they are written again.
    pub(super) fn take<'a>(&self, ids: impl Iterator<Item = &'a Uuid>) -> HashMap<Uuid, Kept> {
        let mut halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ids.filter_map(|id| Some((*id, halves.newer.remove(id).or_else(|| halves.older.remove(id))?)))
            .collect()
    }

    /// These are woken at another time, if they still have that revision: remembered with the old one, a row would be set
    /// back to it by the next write.
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

    /// Forgets all of them: the rows are not what they were.
    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Halves::default();
    }

    /// Remembers these. What has ended has no answers to come.
    pub(super) fn keep(&self, written: impl Iterator<Item = Kept>) {
        let mut halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for kept in written {
            // What was decided by a row that was read is remembered as it was before.
            halves.older.remove(&kept.saga.id);
            halves.newer.remove(&kept.saga.id);
            if !kept.saga.live {
                continue;
            }
            if halves.newer.len() >= MOST / 2 {
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
            poisoned: None,
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
        let most = MOST as u128;
        recent.keep((0..most + 2).map(|n| saga(n, n != 7)));
        let told = |n: u128| recent.take([Uuid::from_u128(n)].iter()).len();
        assert_eq!((told(most + 1), told(most + 1)), (1, 0), "once");
        assert_eq!(told(most / 2 + 2), 1);
        assert_eq!(told(0), 0, "forgotten");
        recent.keep([saga(1, true), saga(1, false)].into_iter());
        assert_eq!(told(1), 0, "it has ended");
    }
}
