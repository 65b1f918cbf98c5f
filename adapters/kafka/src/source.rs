//! The source: what it receives from its consumer, and what it does about topics that are lost or replaced.

use std::{
    ops::{Range, RangeInclusive},
    sync::{Arc, MutexGuard, mpsc},
    thread,
    time::{Duration, Instant},
};

use amends_batch::Gather;
use amends_protocol::{
    SIGNATURE_HEADER,
    transport::{Assignment, Batch, Error, Inbound, Source},
};
use futures::{FutureExt, StreamExt};
use rdkafka::{
    Message,
    consumer::{Consumer, StreamConsumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers},
};

use crate::{
    KafkaSettings,
    member::{LOCAL_PATIENCE, Member, MemberState, commit, count, join, list},
    progress::{Partition, Progress},
    settings,
    watch::Watch,
};

/// Minimum time between two replacements of a consumer.
const FETCH_RENEWAL: Duration = Duration::from_secs(2);

/// Batch sizes after which the source waits for more messages.
const BATCH_FEW: Range<usize> = 4..64;
const BATCH_LINGER: RangeInclusive<Duration> = Duration::from_millis(2)..=Duration::from_millis(10);

/// Receives the messages of the partitions that the group assigns, and commits those that were settled.
///
/// The group assigns partitions by *cooperative-sticky*: a rebalance then revokes only the partitions that move. With
/// an eager strategy every member would lose all of its partitions at each rebalance, and all unsettled messages would
/// be received again.
pub struct KafkaSource {
    settings: KafkaSettings,
    group: String,
    topics: Vec<String>,
    /// `Some` until the source is dropped.
    consumer: Option<Arc<StreamConsumer<Member>>>,
    watch: Watch,
    /// A topic was deleted or replaced by another of the same name: the consumer would wait for the old one for ever.
    must_renew: bool,
    renewed_at: Option<Instant>,
    /// An error that followed messages; it is returned by the next call.
    failed: Option<Error>,
    gather: Gather,
    /// A rewind failed: nothing may be received before it succeeds.
    must_rewind: bool,
}

impl KafkaSource {
    /// Joins a group that reads these topics. [`Source::assignment`] refers to the first.
    pub fn subscribe(
        settings: &KafkaSettings,
        group: &str,
        topics: &[&str],
    ) -> Result<Self, settings::Error> {
        let consumer = join(settings, group, topics, Progress::default())?;
        Ok(Self {
            settings: settings.clone(),
            group: group.to_owned(),
            topics: topics.iter().map(|&topic| topic.to_owned()).collect(),
            consumer: Some(consumer),
            watch: Watch::default(),
            must_renew: false,
            renewed_at: None,
            failed: None,
            gather: Gather::new(BATCH_FEW, BATCH_LINGER),
            must_rewind: false,
        })
    }

    /// Joins the group again, with a consumer that has no state of the old topic. The old consumer leaves by itself.
    fn renew(&mut self) -> Result<(), Error> {
        if self.renewed_at.is_some_and(|at| at.elapsed() < FETCH_RENEWAL) {
            return Ok(());
        }
        self.renewed_at = Some(Instant::now());
        let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        let progress = self.state().progress.next_life();
        let renewed = join(&self.settings, &self.group, &topics, progress);
        let renewed = renewed.map_err(|error| Error(format!("joining again: {error}")))?;
        tracing::warn!(group = self.group, "a topic was replaced; joined the group again");
        let old = self.consumer.replace(renewed);
        self.watch = Watch::default();
        thread::spawn(move || drop(old));
        (self.must_renew, self.must_rewind) = (false, false);
        Ok(())
    }

    /// Skips queued errors that are over. librdkafka queues several per second while the broker is away, and callers
    /// rest after each error that is returned.
    fn past_errors(&mut self, mut error: KafkaError) -> Result<Inbound, Error> {
        loop {
            self.must_renew |= matches!(
                error.rdkafka_error_code(),
                Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownPartition)
            );
            let consumer = self.consumer.as_ref().expect("it is not dropped yet");
            match consumer.stream().next().now_or_never().flatten() {
                Some(Ok(message)) => return Ok(inbound(&message)),
                Some(Err(next)) => error = next,
                None => return Err(failed("receiving", &error)),
            }
        }
    }

    fn consumer(&self) -> &StreamConsumer<Member> {
        self.consumer.as_ref().expect("it is not dropped yet")
    }

    /// Finds partitions that stand still: a consumer that joins again continues to read them.
    fn look(&mut self) {
        let consumer = self.consumer.as_ref().expect("it is not dropped yet");
        let still = self.watch.stands_still(consumer, || consumer.client().context().state().idle());
        if !still.is_empty() {
            tracing::error!(
                group = self.group,
                ?still,
                "partitions are owned but deliver nothing; joining the group again"
            );
            self.must_renew = true;
        }
    }

    fn state(&self) -> MutexGuard<'_, MemberState> {
        self.consumer().client().context().state()
    }

    /// Takes the messages that have arrived. It contains no await: what it has taken cannot be dropped half-way.
    fn drain(&mut self, first: Inbound, max: usize) -> Vec<Inbound> {
        let (mut messages, mut failure) = (vec![first], None);
        let mut stream = self.consumer.as_ref().expect("it is not dropped yet").stream();
        while messages.len() < max {
            match stream.next().now_or_never().flatten() {
                Some(Ok(message)) => messages.push(inbound(&message)),
                Some(Err(error)) => {
                    failure = Some(error);
                    break;
                }
                None => {
                    self.watch.dry();
                    break;
                }
            }
        }
        drop(stream);
        if let Some(error) = failure {
            match self.past_errors(error) {
                Ok(message) => messages.push(message),
                Err(error) => self.failed = Some(error),
            }
        }
        messages
    }

    /// Commits the offsets that are settled.
    fn flush(&self) -> Result<(), Error> {
        let consumer = self.consumer();
        commit(consumer, consumer.client().context()).map_err(|error| failed("committing", &error))
    }

    fn seek_back(&mut self) -> Result<(), Error> {
        let from = self.state().progress.unsettled();
        if !from.is_empty() {
            let sought = self.consumer().seek_partitions(list(&from), LOCAL_PATIENCE);
            let sought = sought.map_err(|error| failed("rewinding", &error))?;
            // Another member reads a partition that is not owned any more.
            let owned = |partition: &Partition| self.state().progress.owned().any(|owned| owned == partition);
            for element in sought.elements() {
                if let Err(error) = element.error()
                    && owned(&(element.topic().to_owned(), element.partition()))
                {
                    return Err(failed("rewinding", &error));
                }
            }
        }
        self.state().progress.rewound();
        self.must_rewind = false;
        Ok(())
    }

    /// Asks again for the topic's number of partitions if the rebalance could not get it: it is needed to know the
    /// owned slots.
    fn count_again(&self) {
        let unknown = {
            let state = self.state();
            state.count == 0 && state.progress.owned().next().is_some()
        };
        if unknown {
            let member = self.consumer().client().context();
            let found = count(self.consumer(), &member.topic);
            tracing::warn!(topic = member.topic, ?found, "asked again for the topic's number of partitions");
            self.state().count = found.unwrap_or(0);
        }
    }
}

impl Source for KafkaSource {
    async fn receive(&mut self, max: usize, patience: Duration) -> Result<Batch, Error> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.look();
        if self.must_renew {
            self.renew()?;
        }
        if self.must_rewind {
            self.seek_back()?;
        }
        self.count_again();
        if let Some(wait) = self.gather.wait() {
            // Nothing has been taken yet: a drop here loses nothing.
            tokio::time::sleep(wait).await;
        }
        let begun = Instant::now();
        let first = loop {
            let left = patience.saturating_sub(begun.elapsed());
            let due = self.state().uncommitted_for();
            match tokio::time::timeout(due.map_or(left, |due| left.min(due)), self.consumer().recv()).await {
                Ok(Ok(message)) => break Ok(inbound(&message)),
                Ok(Err(error)) => break Err(error),
                Err(_) if due.is_some_and(|due| due <= left) => self.flush()?,
                Err(_) => {
                    self.watch.dry();
                    self.gather.begins(0);
                    return Ok(Batch::default());
                }
            }
        };
        let first = first.or_else(|error| self.past_errors(error))?;
        let messages = self.drain(first, max);
        self.gather.begins(messages.len());
        self.watch.note_messages(messages.iter().map(|message| (message.topic.as_str(), message.partition)));
        let receipt = self.state().progress.received(&messages);
        Ok(Batch { messages, receipt })
    }

    fn commit(&mut self, receipt: u64) -> Result<(), Error> {
        let due = {
            let mut state = self.state();
            let settled = state.progress.settle(receipt);
            state.uncommitted.extend(settled);
            state.uncommitted_for() == Some(Duration::ZERO)
        };
        if due { self.flush() } else { Ok(()) }
    }

    fn rewind(&mut self) -> Result<(), Error> {
        self.must_rewind = true;
        self.seek_back()
    }

    fn assignment(&self) -> Assignment {
        let member = self.consumer().client().context();
        let state = member.state();
        let mine = state.progress.owned().filter(|(topic, _)| *topic == member.topic);
        Assignment {
            generation: state.progress.generation,
            partitions: mine.map(|(_, partition)| *partition).collect(),
            count: state.count,
        }
    }
}

impl Drop for KafkaSource {
    /// Leaves the group, so that others receive the partitions at once. librdkafka would wait for the broker's answer
    /// as long as the broker is away; this does not.
    fn drop(&mut self) {
        let _ = self.flush();
        let (consumer, looking) = (self.consumer.take(), self.watch.looking());
        let (left, leaving) = mpsc::channel();
        thread::spawn(move || {
            let _ = looking.map(thread::JoinHandle::join);
            drop(consumer);
            let _ = left.send(());
        });
        if leaving.recv_timeout(LOCAL_PATIENCE).is_err() {
            tracing::debug!("the broker is away; the group will notice the member's absence by a timeout");
        }
    }
}

fn inbound(message: &BorrowedMessage<'_>) -> Inbound {
    let header = |name: &str| {
        let found = message.headers()?.iter().find(|header| header.key == name)?.value?;
        String::from_utf8(found.to_vec()).ok()
    };
    Inbound {
        topic: message.topic().into(),
        partition: message.partition(),
        offset: message.offset(),
        traceparent: header("traceparent"),
        signature: header(SIGNATURE_HEADER),
        bytes: message.payload().unwrap_or_default().to_vec(),
    }
}

fn failed(doing: &str, error: &KafkaError) -> Error {
    Error(format!("{doing}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use amends_protocol::transport::{Outbound, Placement, Sink};
    use rdkafka::{TopicPartitionList, consumer::CommitMode};

    use super::*;
    use crate::KafkaSink;

    /// Longer than two checks.
    const COMMIT_PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_partition_that_stands_still_is_read_on_by_another_consumer() {
        stands_still_and_is_read_on("still", None).await;
    }

    /// As when the topic was created again between two fetches: the committed offset is past the end of the new topic.
    #[tokio::test]
    async fn so_is_one_that_was_read_further_than_it_has_messages() {
        stands_still_and_is_read_on("again", Some(1_000_000)).await;
    }

    async fn stands_still_and_is_read_on(name: &str, committed: Option<i64>) {
        let broker = amends_testkit::broker().await;
        let topic = broker.topic(name, 2).await;
        let settings = KafkaSettings {
            session_timeout: broker.session_timeout(),
            fetch_wait: broker.fetch_wait(),
            ..KafkaSettings::new(broker.bootstrap_servers())
        };
        let sink = KafkaSink::new(&settings).unwrap();
        let mut source = KafkaSource::subscribe(&settings, &topic, &[&topic]).unwrap();
        let mut begun = Instant::now();
        let (mut paused, mut missing) = (false, vec![0, 1]);
        while !missing.is_empty() {
            assert!(begun.elapsed() < COMMIT_PATIENCE, "nothing comes from {missing:?}, paused: {paused}");
            let message = |slot| Outbound {
                topic: topic.clone(),
                placement: Placement::Slot(slot),
                key: uuid::Uuid::nil(),
                traceparent: None,
                bytes: b"1".to_vec(),
            };
            sink.send(vec![message(0), message(1)]).await.unwrap();
            let batch = source.receive(10, Duration::from_millis(100)).await.unwrap();
            missing.retain(|partition| batch.messages.iter().all(|message| message.partition != *partition));
            source.commit(batch.receipt).unwrap();
            if missing.is_empty() && !paused {
                // As librdkafka does by itself: the partition is owned, and not fetched.
                let mut one = TopicPartitionList::new();
                one.add_partition(&topic, 1);
                source.consumer().pause(&one).unwrap();
                (paused, missing, begun) = (true, vec![1], Instant::now());
                // Messages fetched before do not count.
                while !source.receive(10, Duration::from_millis(300)).await.unwrap().messages.is_empty() {}
                if let Some(offset) = committed {
                    let offsets = list(&BTreeMap::from([((topic.clone(), 1), offset)]));
                    source.consumer().commit(&offsets, CommitMode::Sync).unwrap();
                }
            }
        }
    }
}
