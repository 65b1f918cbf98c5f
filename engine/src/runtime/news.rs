//! Marks slots with recent writes, so that a reader of the timeline need not read all slots.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use amends_protocol::SLOTS;

const SLOT_WORDS: usize = SLOTS as usize / 64;

/// One mark per slot in which this process has committed. It does not know what other processes commit: a reader scans
/// all slots from time to time.
#[derive(Debug, Clone, Default)]
pub struct News(Arc<[AtomicU64; SLOT_WORDS]>);

impl News {
    /// Marks a slot after a commit.
    pub fn mark(&self, slot: u16) {
        let slot = usize::from(slot % SLOTS);
        self.0[slot / 64].fetch_or(1 << (slot % 64), Ordering::Release);
    }

    /// Returns the marked slots and clears the marks.
    pub fn take(&self) -> Vec<u16> {
        let mut slots = Vec::new();
        for (first, word) in (0..).step_by(64).zip(self.0.iter()) {
            let mut bits = word.swap(0, Ordering::Acquire);
            while bits != 0 {
                slots.push(first + u16::try_from(bits.trailing_zeros()).unwrap_or_default());
                bits &= bits - 1;
            }
        }
        slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_was_marked_is_told_once() {
        let news = News::default();
        for slot in [1023, 0, 64, 63, 64] {
            news.clone().mark(slot);
        }
        assert_eq!(news.take(), [0, 63, 64, 1023]);
        assert_eq!(news.take(), [0; 0]);
    }
}
