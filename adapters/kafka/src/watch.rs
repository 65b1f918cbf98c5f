//! Whether a partition stands still: there is something in it, the source has nothing else to do, and it does not come.
//!
//! It was seen in campaigns, where for minutes nothing came from partitions that the consumer owned. Heartbeats went on,
//! so that the group noticed nothing. Once it followed a broker's death and a rewind, and what in librdkafka does it is
//! not proved. Once a topic had been deleted and made again between two fetches: librdkafka goes on to ask for the leader
//! epoch of the topic as it was, which the broker does not know of the new one, for ever. A consumer that joins anew
//! reads on, whatever it was.

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

/// So often each partition is looked at. One that stood still from one look to the next is reported.
const EVERY: Duration = Duration::from_secs(5);
/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How far those partitions were read that have more.
type Behind = BTreeMap<Partition, i64>;

/// Looks now and then, in a thread beside the receiving.
pub(crate) struct Watch {
    looked_at: Instant,
    looking: Option<JoinHandle<Option<Behind>>>,
    /// Behind at the last look, and silent since.
    suspects: Behind,
    /// Whether the source has run dry since: others may only have come first.
    was_dry: bool,
}

impl Default for Watch {
    fn default() -> Self {
        Self { looked_at: Instant::now(), looking: None, suspects: Behind::new(), was_dry: false }
    }
}

impl Watch {
    /// Something came from these.
    pub(crate) fn heard<'a>(&mut self, partitions: impl Iterator<Item = (&'a str, i32)>) {
        if !self.suspects.is_empty() {
            for (topic, partition) in partitions {
                self.suspects.retain(|suspect, _| (suspect.0.as_str(), suspect.1) != (topic, partition));
            }
        }
    }

    /// There was nothing to receive.
    pub(crate) fn dry(&mut self) {
        self.was_dry = true;
    }

    /// Looks if it is time; answers which partitions stand still. `idle` are those of which all that was received is
    /// settled and told.
    pub(crate) fn stands_still<C: ConsumerContext + 'static>(
        &mut self,
        consumer: &Arc<StreamConsumer<C>>,
        idle: impl FnOnce() -> Vec<Partition>,
    ) -> Vec<Partition> {
        if let Some(looking) = self.looking.take_if(|looking| looking.is_finished()) {
            // Without an answer nothing is known.
            return self.judge(looking.join().ok().flatten().unwrap_or_default());
        }
        if self.looking.is_none() && self.looked_at.elapsed() >= EVERY {
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

    /// The thread that looks, if one does: it keeps the consumer.
    pub(crate) fn looking(&mut self) -> Option<JoinHandle<Option<Behind>>> {
        self.looking.take()
    }
}

/// Of these partitions those that have more than was read.
fn behind<C: ConsumerContext>(consumer: &StreamConsumer<C>, partitions: &[Partition]) -> KafkaResult<Behind> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (topic, partition) in partitions {
        list.add_partition(topic, *partition);
    }
    let committed = consumer.committed_offsets(list, PATIENCE)?;
    let mut behind = Behind::new();
    for (topic, partition) in partitions {
        let (low, high) = consumer.fetch_watermarks(topic, *partition, PATIENCE)?;
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

/// From where a partition that has `low..high` is read, by what is committed of it. What lies past its end was committed
/// of another topic of the same name.
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
        watch.heard([("t", 0)].into_iter());
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
