//! Computes how long to wait before the next batch is taken.

use std::{
    ops::{Range, RangeInclusive},
    time::{Duration, Instant},
};

/// Delays the next batch a little after a small one, so that items that arrive meanwhile are processed together: a
/// batch costs a transaction, a request and a wake-up of each thread, whatever its size. After a batch below the range
/// there is no wait, because as few items would arrive meanwhile; a batch above the range has little to gain. The wait
/// is as long as the small batch took, within bounds: a busy machine takes longer, and there larger batches help more.
#[derive(Debug)]
pub struct Gather {
    few: Range<usize>,
    within: RangeInclusive<Duration>,
    last: Option<(usize, Instant)>,
}

impl Gather {
    /// Waits after batches whose size is in `few`; the wait is `within` these bounds.
    pub fn new(few: Range<usize>, within: RangeInclusive<Duration>) -> Self {
        Self { few, within, last: None }
    }

    /// Records that the processing of a batch of this size begins.
    pub fn begins(&mut self, batch: usize) {
        self.last = Some((batch, Instant::now()));
    }

    /// Returns how long to wait before the next batch is taken, now that the last is processed.
    pub fn wait(&self) -> Option<Duration> {
        let (batch, began) = self.last?;
        self.few.contains(&batch).then(|| began.elapsed().clamp(*self.within.start(), *self.within.end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_after_a_few_is_there_a_wait_and_it_is_as_long_as_they_took() {
        let [shortest, longest] = [2, 10].map(Duration::from_millis);
        let mut gather = Gather::new(2..64, shortest..=longest);
        assert_eq!(gather.wait(), None);
        for (batch, waits) in [(0, false), (1, false), (2, true), (63, true), (64, false)] {
            gather.begins(batch);
            assert_eq!(gather.wait().is_some(), waits, "{batch}");
        }
        let began = |ago| Gather {
            few: 2..64,
            within: shortest..=longest,
            last: Some((9, Instant::now().checked_sub(Duration::from_millis(ago)).unwrap())),
        };
        assert!(began(5).wait().unwrap() >= Duration::from_millis(5));
        assert_eq!(began(500).wait(), Some(longest));
    }
}
