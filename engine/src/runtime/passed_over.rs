//! Remembers sagas that were passed over recently: another transaction holds their row, or this program cannot judge
//! them. The timers leave them out for some time, so that they do not fill the batches. Nothing is stored for this.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use uuid::Uuid;

use crate::port::Deferral;

/// Maximum number of sagas remembered; those beyond it are found and passed over again.
const MOST_REMEMBERED: usize = 10_000;

/// Returns how long the timers leave a saga out.
const fn rest(why: Deferral) -> Duration {
    match why {
        Deferral::Locked | Deferral::Unreachable | Deferral::BeforeRestore => Duration::from_secs(2),
        // Until then a newer program wakes it, or an operator repairs the row.
        Deferral::UnknownWorkflow | Deferral::Unreadable => Duration::from_secs(60),
    }
}

/// Sagas by id, and until when they are left out.
#[derive(Debug, Clone, Default)]
pub struct PassedOver(Arc<Mutex<HashMap<Uuid, Duration>>>);

impl PassedOver {
    /// Records that a saga was passed over now.
    pub(super) fn note(&self, saga_id: Uuid, why: Deferral, now: Duration) {
        let mut until = self.lock();
        if until.len() < MOST_REMEMBERED || until.contains_key(&saga_id) {
            until.insert(saga_id, now + rest(why));
        }
    }

    /// Returns the sagas that are left out now.
    pub(super) fn now(&self, now: Duration) -> Vec<Uuid> {
        let mut until = self.lock();
        until.retain(|_, until| *until > now);
        until.keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Duration>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_saga_is_left_out_for_two_seconds_and_an_unreadable_one_for_a_minute() {
        let passed_over = PassedOver::default();
        let (locked, unreadable) = (Uuid::from_u128(1), Uuid::from_u128(2));
        passed_over.note(locked, Deferral::Locked, Duration::ZERO);
        passed_over.note(unreadable, Deferral::Unreadable, Duration::ZERO);
        assert_eq!(passed_over.now(Duration::from_millis(1_999)).len(), 2);
        assert_eq!(passed_over.now(Duration::from_secs(2)), [unreadable]);
        assert!(passed_over.now(Duration::from_secs(60)).is_empty());
    }
}
