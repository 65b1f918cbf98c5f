//! Remembers sagas whose repetitions wait until they can be paid for, in this process's memory: the nearest promise
//! first.
//!
//! Their rows stay as they are, except for `wake_at`, which brings each back in the end, whatever this process forgets.
//! If there are very many, these times are spaced out, so that a participant that is away takes a bounded share of the
//! timers' work.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::budget::{RepeatBudget, Repetition};

/// Time between two sagas of a participant that is away: 500 per second come back, a twentieth of what one engine's
/// timers can process.
const PUT_OFF_SPACING: TimeDelta = TimeDelta::milliseconds(2);
/// Maximum number of sagas remembered per participant and reason: some tens of megabytes. The furthest promises are
/// forgotten first.
const PUT_OFF_MOST: usize = 400_000;

/// The longest time that a saga is put off.
pub(super) const PUT_OFF_LONGEST: Duration =
    Duration::from_millis(PUT_OFF_SPACING.num_milliseconds().unsigned_abs() * PUT_OFF_MOST as u64);

/// Sagas put off, by participant and reason.
#[derive(Debug, Default)]
pub(super) struct PutOff(BTreeMap<Repetition, Waiting>);

/// A saga, and the time by which it should have progressed.
pub(super) type Promised = (DateTime<Utc>, Uuid);

#[derive(Debug, Default)]
struct Waiting {
    by_promise: BTreeSet<Promised>,
    /// `wake_at` of the saga that was put off last.
    last_wake_at: Option<DateTime<Utc>>,
}

impl PutOff {
    /// Remembers a saga.
    pub fn add(&mut self, unpaid: Repetition, promise: DateTime<Utc>, saga_id: Uuid) {
        let waiting = self.0.entry(unpaid).or_default();
        waiting.by_promise.insert((promise, saga_id));
        if waiting.by_promise.len() > PUT_OFF_MOST {
            waiting.by_promise.pop_last();
        }
    }

    /// Returns when to wake a saga that waits for this repetition: not before `earliest`, and each saga some time after
    /// the previous one.
    pub fn wake_at(
        &mut self,
        unpaid: Repetition,
        now: DateTime<Utc>,
        earliest: DateTime<Utc>,
    ) -> DateTime<Utc> {
        let waiting = self.0.entry(unpaid).or_default();
        let place = waiting.last_wake_at.map_or(now, |last| now.max(last + PUT_OFF_SPACING));
        waiting.last_wake_at = Some(place);
        earliest.max(place)
    }

    /// Forgets the times assigned so far: the store's clock was set back, so they lie too far ahead.
    pub fn forget_places(&mut self) {
        self.0.values_mut().for_each(|waiting| waiting.last_wake_at = None);
    }

    /// Takes out as many sagas as can be paid for, at most `most`, the nearest promise first. Some of them may have
    /// been answered meanwhile.
    pub fn take(&mut self, budget: &RepeatBudget, now: Duration, most: usize) -> BTreeSet<Uuid> {
        let mut taken = BTreeSet::new();
        for (unpaid, waiting) in &mut self.0 {
            if waiting.by_promise.is_empty() {
                continue;
            }
            let affordable = budget.affords(*unpaid, now).min(most.saturating_sub(taken.len()));
            let nearest = (0..affordable).map_while(|_| waiting.by_promise.pop_first());
            taken.extend(nearest.map(|(_, saga_id)| saga_id));
        }
        taken
    }

    /// Returns sagas with the nearest promises, at most `most`, all waiting for one repetition by this participant; each
    /// try selects another repetition.
    pub fn nearest(
        &self,
        participant: &str,
        tries: usize,
        most: usize,
    ) -> Option<(Repetition, Vec<Promised>)> {
        let waited_for: Vec<_> = self
            .0
            .iter()
            .filter(|(unpaid, waiting)| unpaid.0 == participant && !waiting.by_promise.is_empty())
            .collect();
        let (unpaid, waiting) = waited_for.get(tries % waited_for.len().max(1))?;
        Some((**unpaid, waiting.by_promise.iter().take(most).copied().collect()))
    }

    /// Returns whether a saga with a nearer promise waits for this repetition.
    pub fn has_nearer(&self, unpaid: Repetition, than: Promised) -> bool {
        let nearest = self.0.get(&unpaid).and_then(|waiting| waiting.by_promise.first());
        nearest.is_some_and(|nearest| *nearest < than)
    }

    /// Forgets a saga.
    pub fn remove(&mut self, unpaid: Repetition, promise: DateTime<Utc>, saga_id: Uuid) {
        if let Some(waiting) = self.0.get_mut(&unpaid) {
            waiting.by_promise.remove(&(promise, saga_id));
        }
    }

    /// Returns the number of sagas remembered.
    pub fn len(&self) -> usize {
        self.0.values().map(|waiting| waiting.by_promise.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Repeats;

    const PAYMENT: Repetition = ("payment", Repeats::Silent);
    const SHIPMENT: Repetition = ("shipment", Repeats::Silent);

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    #[test]
    fn a_few_come_back_after_their_wait_and_of_very_many_500_a_second() {
        let (mut put_off, now) = (PutOff::default(), at(0));
        for _ in 0..1_000 {
            assert_eq!(put_off.wake_at(PAYMENT, now, at(10)), at(10));
        }
        assert_eq!(put_off.wake_at(SHIPMENT, now, at(5)), at(5), "another participant's wait by themselves");
        let last = (1_000..300_000).map(|_| put_off.wake_at(PAYMENT, now, at(10))).last();
        assert_eq!(last, Some(now + PUT_OFF_SPACING * 299_999));
        assert_eq!(put_off.wake_at(PAYMENT, at(700), at(710)), at(710), "the others have passed");
    }

    #[test]
    fn as_many_as_can_be_paid_for_are_taken_and_the_nearest_promise_first() {
        let (mut put_off, budget) = (PutOff::default(), RepeatBudget::default());
        let ids: Vec<Uuid> = (0..600).map(|n| Uuid::from_u128(1_000 - n)).collect();
        for (n, id) in ids.iter().enumerate() {
            put_off.add(PAYMENT, at(i64::try_from(n).unwrap()), *id);
            put_off.add(SHIPMENT, at(0), *id);
        }
        assert_eq!(put_off.len(), 1_200);
        let of_both = put_off.take(&budget, Duration::ZERO, 300);
        assert_eq!(of_both.len(), 300, "200 of one and 100 of the other, some of them the same");
        assert!(ids[..200].iter().all(|id| of_both.contains(id)));
        assert!(budget.pay(&[PAYMENT; 200], Duration::ZERO).is_ok());
        let of_other = put_off.take(&budget, Duration::ZERO, 1_000);
        assert_eq!((of_other.len(), put_off.len()), (200, 700));
    }
}
