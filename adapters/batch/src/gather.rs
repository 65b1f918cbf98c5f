//! How long to wait for more before the next batch.

use std::{
    ops::{Range, RangeInclusive},
    time::{Duration, Instant},
};

/// Has whoever works off batches wait a moment after one of a few, so that what comes meanwhile goes with the next: a
/// batch costs a transaction, a request and a wake-up of each thread, whatever is in it. After a smaller one nobody waits,
/// for as few would come meanwhile, and a big batch has little to gain. The moment is as long as the few took, within
/// bounds: where the machine is busy they take longer, and there more of them should go together.
#[derive(Debug)]
pub struct Gather {
    few: Range<usize>,
    within: RangeInclusive<Duration>,
    last: Option<(usize, Instant)>,
}

impl Gather {
    /// After a batch of a `few`, waits that are `within` these bounds.
    pub fn new(few: Range<usize>, within: RangeInclusive<Duration>) -> Self {
        Self { few, within, last: None }
    }

    /// A batch of so many begins to be worked off.
    pub fn begins(&mut self, batch: usize) {
        self.last = Some((batch, Instant::now()));
    }

    /// How long to wait before the next is taken, now that the last is worked off.
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
