//! Chooses slots for new sagas: sagas born together get slots of one partition, so that their messages stay together.

use std::time::{Duration, Instant};

use amends_protocol::SLOTS;

/// Slots at multiples of this distance fall into one partition for the usual partition counts: 48 is a multiple of 1,
/// 2, 3, 4, 6, 8, 12, 16, 24 and itself.
const SLOTS_APART: u16 = 48;
/// How long sagas are born into one partition.
const SLOT_STAY: Duration = Duration::from_millis(50);

/// Chooses the slot of each batch of births.
///
/// Every partition with messages costs a request to the broker and one more place to poll. If each batch were born into
/// another partition than the one before it, the replies to a batch of commands would be spread over all of them, a few
/// each. Different slots within a partition keep the batches of one moment from waiting for each other's slot locks.
#[derive(Debug, Default)]
pub struct BirthSlots {
    /// Start of the present stay, and the slot chosen then.
    stay: Option<(Instant, u16)>,
    turn: u16,
}

impl BirthSlots {
    /// Returns the slot for the next batch.
    pub fn choose(&mut self) -> u16 {
        self.at(Instant::now(), || rand::random_range(0..SLOTS_APART))
    }

    fn at(&mut self, now: Instant, draw: impl FnOnce() -> u16) -> u16 {
        let (_, first) = match self.stay {
            Some(stay) if now.saturating_duration_since(stay.0) < SLOT_STAY => stay,
            _ => *self.stay.insert((now, draw())),
        };
        self.turn = self.turn.wrapping_add(1);
        first + SLOTS_APART * (self.turn % (SLOTS - first).div_ceil(SLOTS_APART))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_is_born_within_a_moment_shares_a_partition_and_has_many_slots() {
        let (mut slots, began) = (BirthSlots::default(), Instant::now());
        let mut born = |after, first| {
            let at = began + after;
            (0..100).map(|_| slots.at(at, || first)).collect::<BTreeSet<u16>>()
        };
        let (one, same, other) = (born(SLOT_STAY / 2, 7), born(SLOT_STAY, 8), born(SLOT_STAY * 2, 8));
        assert_eq!(one, same);
        assert!(one.len() > 20 && one.iter().all(|slot| slot % 12 == 7), "{one:?}");
        assert!(other.iter().all(|slot| slot % 12 == 8), "{other:?}");
    }

    #[test]
    fn every_slot_is_chosen_and_nothing_else_is() {
        let mut all = BTreeSet::new();
        for first in 0..SLOTS_APART {
            let mut slots = BirthSlots::default();
            all.extend((0..SLOTS).map(|_| slots.at(Instant::now(), || first)));
        }
        assert!(all.into_iter().eq(0..SLOTS));
    }
}
