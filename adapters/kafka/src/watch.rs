//! Detects partitions that stand still: they contain messages, the source is otherwise idle, and the messages do not
//! arrive.
//!
//! This was seen in campaigns: for minutes nothing came from partitions that the consumer owned. Heartbeats continued,
//! so the group noticed nothing. One case followed a broker's death and a rewind; what in librdkafka causes it is not
//! proved. In another case a topic had been deleted and created again between two fetches: librdkafka continues to ask
//! for the leader epoch of the old topic, which the broker does not know for the new one, for ever. A consumer that
//! joins again continues to read, whatever the cause.

use std::{
    collections::BTreeMap,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{Consumer, ConsumerContext, StreamConsumer},
    error::KafkaResult,
};

use crate::progress::Partition;

/// Interval between checks of the partitions. One that stood still from one check to the next is reported.
const WATCH_EVERY: Duration = Duration::from_secs(5);
/// How long the broker may take to answer.
const WATCH_PATIENCE: Duration = Duration::from_secs(2);

/// Position of the partitions that have more messages.
type Behind = BTreeMap<Partition, i64>;

/// Checks the partitions from time to time, in a thread beside the receiving.
pub(crate) struct Watch {
    looked_at: Instant,
    looking: Option<JoinHandle<Option<Behind>>>,
    /// Partitions that were behind at the last check, and silent since.
    suspects: Behind,
    /// Whether the source has run dry since; if not, other messages may simply have come first.
    was_dry: bool,
}

impl Default for Watch {
    fn default() -> Self {
        Self { looked_at: Instant::now(), looking: None, suspects: Behind::new(), was_dry: false }
    }
}

impl Watch {
    /// Records that messages came from these partitions.
    pub(crate) fn note_messages<'a>(&mut self, partitions: impl Iterator<Item = (&'a str, i32)>) {
        if !self.suspects.is_empty() {
            for (topic, partition) in partitions {
                self.suspects.retain(|suspect, _| (suspect.0.as_str(), suspect.1) != (topic, partition));
            }
        }
    }

    /// Records that there was nothing to receive.
    pub(crate) fn dry(&mut self) {
        self.was_dry = true;
    }

    /// Checks if it is time; returns the partitions that stand still. `idle` are those whose received messages are all
    /// settled and committed.
    pub(crate) fn stands_still<C: ConsumerContext + 'static>(
        &mut self,
        consumer: &Arc<StreamConsumer<C>>,
        idle: impl FnOnce() -> Vec<Partition>,
    ) -> Vec<Partition> {
        if let Some(looking) = self.looking.take_if(|looking| looking.is_finished()) {
            // Without an answer nothing is known.
            return self.judge(looking.join().ok().flatten().unwrap_or_default());
        }
        if self.looking.is_none() && self.looked_at.elapsed() >= WATCH_EVERY {
            self.looked_at = Instant::now();
            let (consumer, idle) = (Arc::clone(consumer), idle());
            self.looking = Some(thread::spawn(move || behind(&consumer, &idle).ok()));
        }
        Vec::new()
    }

    fn judge(&mut self, behind: Behind) -> Vec<Partition> {
        let still = |(partition, read): (&Partition, &i64)| {
            (self.was_dry && self.suspects.get(partition) == Some(read)).then(|| partition.clone())
        };
        let still = behind.iter().filter_map(still).collect();
        (self.suspects, self.was_dry) = (behind, false);
        still
    }

    /// Returns the checking thread, if one runs: it keeps the consumer alive.
    pub(crate) fn looking(&mut self) -> Option<JoinHandle<Option<Behind>>> {
        self.looking.take()
    }
}

/// Returns those of these partitions that have more messages than were read.
fn behind<C: ConsumerContext>(consumer: &StreamConsumer<C>, partitions: &[Partition]) -> KafkaResult<Behind> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (topic, partition) in partitions {
        list.add_partition(topic, *partition);
    }
    let committed = consumer.committed_offsets(list, WATCH_PATIENCE)?;
    let mut behind = Behind::new();
    for (topic, partition) in partitions {
        let (low, high) = consumer.fetch_watermarks(topic, *partition, WATCH_PATIENCE)?;
        let committed = match committed.find_partition(topic, *partition).map(|element| element.offset()) {
            Some(Offset::Offset(offset)) => Some(offset),
            _ => None,
        };
        let read = read(committed, low, high);
        if read < high {
            behind.insert((topic.clone(), *partition), read);
        }
    }
    Ok(behind)
}

/// Returns the offset from which a partition with `low..high` is read, given its committed offset. An offset past the
/// end was committed for an earlier topic of the same name.
fn read(committed: Option<i64>, low: i64, high: i64) -> i64 {
    committed.filter(|offset| (low..=high).contains(offset)).unwrap_or(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind(partitions: &[(i32, i64)]) -> Behind {
        partitions.iter().map(|(partition, read)| (("t".to_owned(), *partition), *read)).collect()
    }

    #[test]
    fn what_is_behind_at_two_looks_and_silent_between_them_stands_still() {
        let mut watch = Watch::default();
        assert!(watch.judge(behind(&[(0, 7), (1, 7), (2, 7)])).is_empty());
        watch.note_messages([("t", 0)].into_iter());
        watch.dry();
        assert_eq!(watch.judge(behind(&[(0, 7), (1, 7), (2, 8)])), [("t".to_owned(), 1)]);
    }

    #[test]
    fn nothing_stands_still_while_there_is_something_else_to_receive() {
        let mut watch = Watch::default();
        watch.judge(behind(&[(0, 7)]));
        assert!(watch.judge(behind(&[(0, 7)])).is_empty());
        watch.dry();
        assert_eq!(watch.judge(behind(&[(0, 7)])).len(), 1);
    }
}
