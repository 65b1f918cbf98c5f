//! Tracks what was received from the owned partitions and not settled yet: the part of a consumer that is only
//! arithmetic.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use amends_protocol::transport::Inbound;

/// A topic and one of its partitions.
pub(crate) type Partition = (String, i32);

/// The receipts given out, and their partitions.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Changes at every rebalance.
    pub(crate) generation: u64,
    owned: BTreeSet<Partition>,
    receipts: u64,
    unsettled: VecDeque<(u64, BTreeMap<Partition, Span>)>,
}

/// The offsets of a batch in one partition.
#[derive(Debug, Clone, Copy)]
struct Span {
    first: i64,
    next: i64,
}

impl Progress {
    /// Returns the state of a member that joins again: it owns nothing yet, and earlier receipts are not its own.
    pub(crate) fn next_life(&self) -> Self {
        Self { generation: self.generation + 1, receipts: self.receipts, ..Self::default() }
    }

    /// Returns the partitions owned now, sorted.
    pub(crate) fn owned(&self) -> impl Iterator<Item = &Partition> {
        self.owned.iter()
    }

    /// Records partitions that are owned from now on; earlier receipts for them no longer count.
    pub(crate) fn assigned(&mut self, partitions: Vec<Partition>) {
        self.forget(&partitions);
        self.owned.extend(partitions);
        self.generation += 1;
    }

    /// Records partitions that another member owns now: it settles what was received from them.
    pub(crate) fn revoked(&mut self, partitions: &[Partition]) {
        self.forget(partitions);
        self.owned.retain(|partition| !partitions.contains(partition));
        self.generation += 1;
    }

    /// Records a batch and returns its receipt.
    pub(crate) fn received(&mut self, messages: &[Inbound]) -> u64 {
        let mut spans = BTreeMap::<Partition, Span>::new();
        for message in messages {
            let partition = (message.topic.clone(), message.partition);
            let (first, next) = (message.offset, message.offset + 1);
            let span = spans.entry(partition).or_insert(Span { first, next });
            span.next = next;
        }
        // A partition may have been lost while its messages were being taken over.
        spans.retain(|partition, _| self.owned.contains(partition));
        self.receipts += 1;
        self.unsettled.push_back((self.receipts, spans));
        self.receipts
    }

    /// Settles everything up to and including this receipt. Returns the next offset of each of its partitions.
    pub(crate) fn settle(&mut self, receipt: u64) -> BTreeMap<Partition, i64> {
        let mut settled = BTreeMap::new();
        while self.unsettled.front().is_some_and(|(given, _)| *given <= receipt) {
            let (_, spans) = self.unsettled.pop_front().expect("it was there");
            settled.extend(spans.into_iter().map(|(partition, span)| (partition, span.next)));
        }
        settled
    }

    /// Returns the offset from which each partition with unsettled messages must be read again.
    pub(crate) fn unsettled(&self) -> BTreeMap<Partition, i64> {
        // The oldest is inserted last and stays.
        let spans = self.unsettled.iter().rev().flat_map(|(_, spans)| spans);
        spans.map(|(partition, span)| (partition.clone(), span.first)).collect()
    }

    /// The unsettled messages will be received again, so their receipts are void.
    pub(crate) fn rewound(&mut self) {
        self.unsettled.clear();
    }

    fn forget(&mut self, partitions: &[Partition]) {
        for (_, spans) in &mut self.unsettled {
            spans.retain(|partition, _| !partitions.contains(partition));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(number: i32) -> Partition {
        ("t".into(), number)
    }

    fn batch(offsets: &[(i32, i64)]) -> Vec<Inbound> {
        let message = |&(partition, offset): &(i32, i64)| Inbound {
            topic: "t".into(),
            partition,
            offset,
            traceparent: None,
            signature: None,
            bytes: Vec::new(),
        };
        offsets.iter().map(message).collect()
    }

    fn owning(partitions: &[i32]) -> Progress {
        let mut progress = Progress::default();
        progress.assigned(partitions.iter().copied().map(partition).collect());
        progress
    }

    #[test]
    fn a_receipt_settles_itself_and_all_before_it() {
        let mut progress = owning(&[0, 1]);
        progress.received(&batch(&[(0, 10), (0, 11), (1, 5)]));
        let second = progress.received(&batch(&[(0, 12)]));
        progress.received(&batch(&[(0, 13)]));
        assert_eq!(progress.settle(second), BTreeMap::from([(partition(0), 13), (partition(1), 6)]));
        assert_eq!(progress.settle(second), BTreeMap::new());
    }

    #[test]
    fn rewinding_goes_back_to_the_oldest_that_is_not_settled() {
        let mut progress = owning(&[0, 1]);
        let first = progress.received(&batch(&[(0, 10)]));
        progress.received(&batch(&[(0, 11), (1, 5)]));
        progress.received(&batch(&[(0, 12)]));
        progress.settle(first);
        assert_eq!(progress.unsettled(), BTreeMap::from([(partition(0), 11), (partition(1), 5)]));
        progress.rewound();
        assert_eq!(progress.unsettled(), BTreeMap::new());
    }

    #[test]
    fn the_receipt_of_a_lost_partition_settles_nothing_even_if_it_came_back() {
        let mut progress = owning(&[0, 1]);
        let receipt = progress.received(&batch(&[(0, 10), (1, 5)]));
        progress.revoked(&[partition(0)]);
        progress.assigned(vec![partition(0)]);
        assert_eq!(progress.settle(receipt), BTreeMap::from([(partition(1), 6)]));
        assert_eq!(progress.generation, 3);
    }

    #[test]
    fn what_comes_from_a_partition_that_is_no_longer_owned_is_not_settled() {
        let mut progress = owning(&[0]);
        let receipt = progress.received(&batch(&[(0, 10), (1, 5)]));
        assert_eq!(progress.settle(receipt), BTreeMap::from([(partition(0), 11)]));
    }
}
