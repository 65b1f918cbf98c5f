//! A member of a consumer group.

use std::{
    collections::BTreeMap,
    ops::{Range, RangeInclusive},
    sync::{Arc, Mutex, MutexGuard, mpsc},
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
    ClientContext, Message, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance, StreamConsumer},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers},
};

use crate::{
    KafkaSettings, context,
    lag::{LAG_EVERY, Lag},
    progress::{Partition, Progress},
    settings,
    watch::Watch,
};

/// How members of a group share the partitions. All members of a group must name the same assignor.
pub const ASSIGNOR: &str = "cooperative-sticky";

/// Minimum time between two replacements of a consumer.
const FETCH_RENEWAL: Duration = Duration::from_secs(2);

/// Batch sizes after which the source waits for more messages.
const BATCH_FEW: Range<usize> = 4..64;
const BATCH_LINGER: RangeInclusive<Duration> = Duration::from_millis(2)..=Duration::from_millis(10);

/// How long a rebalance may wait for members that do not join, and how long a batch may take before its partitions go
/// to another member. Not the client's default of five minutes: a broker that was killed has been seen to wait all that
/// time for the members that it remembered, while the same processes, which had joined again, waited for the broker.
const REBALANCE_PATIENCE: Duration = Duration::from_secs(15);

/// Interval between offset commits. Messages whose offsets were not committed in time are received again, and are
/// known.
const COMMIT_EVERY: Duration = Duration::from_millis(100);

/// How long local operations of the client, such as a seek, and a query of the topic may take.
const LOCAL_PATIENCE: Duration = Duration::from_secs(2);

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
            consumer: Some(Arc::new(consumer)),
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
        let old = self.consumer.replace(Arc::new(renewed));
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

    fn state(&self) -> MutexGuard<'_, SourceState> {
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

/// Creates a consumer that is a member of this group and reads these topics.
fn join(
    settings: &KafkaSettings,
    group: &str,
    topics: &[&str],
    progress: Progress,
) -> Result<StreamConsumer<Member>, settings::Error> {
    let millis = |duration: Duration| duration.as_millis().to_string();
    let config = settings.client(&[
        ("group.id", group),
        ("auto.offset.reset", "earliest"),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("partition.assignment.strategy", ASSIGNOR),
        ("session.timeout.ms", &millis(settings.session_timeout)),
        // A member learns of a rebalance by heartbeats.
        ("heartbeat.interval.ms", &millis(settings.session_timeout / 6)),
        // How long a rebalance waits for a member that does not join.
        ("max.poll.interval.ms", &millis(REBALANCE_PATIENCE.max(settings.session_timeout))),
        ("fetch.wait.max.ms", &millis(settings.fetch_wait)),
        ("fetch.queue.backoff.ms", "10"),
        ("fetch.error.backoff.ms", "100"),
        ("statistics.interval.ms", &millis(LAG_EVERY)),
    ]);
    let member = Member {
        topic: topics.first().map_or_else(String::new, |&topic| topic.into()),
        lag: Lag::of(group, topics),
        state: Mutex::new(SourceState { progress, ..SourceState::default() }),
    };
    let consumer: StreamConsumer<Member> =
        config.create_with_context(member).map_err(settings::Error::Settings)?;
    consumer.subscribe(topics).map_err(settings::Error::Settings)?;
    Ok(consumer)
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
        self.watch.heard(messages.iter().map(|message| (message.topic.as_str(), message.partition)));
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

/// State shared with the client's callbacks, which run while the source receives.
struct Member {
    topic: String,
    lag: Lag,
    state: Mutex<SourceState>,
}

#[derive(Default)]
struct SourceState {
    progress: Progress,
    count: i32,
    /// Offsets that are settled and not committed yet.
    uncommitted: BTreeMap<Partition, i64>,
    committed_at: Option<Instant>,
}

impl SourceState {
    /// Returns the time until the next commit; `None` if there is nothing to commit.
    fn uncommitted_for(&self) -> Option<Duration> {
        let since = self.committed_at.map_or(COMMIT_EVERY, |at| at.elapsed());
        (!self.uncommitted.is_empty()).then(|| COMMIT_EVERY.saturating_sub(since))
    }
}

impl SourceState {
    /// Returns the partitions whose received messages are all settled and committed.
    fn idle(&self) -> Vec<Partition> {
        let unsettled = self.progress.unsettled();
        let is_idle = |partition: &&Partition| {
            !unsettled.contains_key(*partition) && !self.uncommitted.contains_key(*partition)
        };
        self.progress.owned().filter(is_idle).cloned().collect()
    }
}

impl Member {
    fn state(&self) -> MutexGuard<'_, SourceState> {
        self.state.lock().expect("nobody panics with the lock")
    }
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        context::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        context::error(&error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.lag.note(statistics);
    }
}

impl ConsumerContext for Member {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        // The next owner then does not begin at the old offset.
        if let Rebalance::Revoke(_) = rebalance
            && let Err(error) = commit(consumer, self)
        {
            tracing::debug!(topic = self.topic, %error, "offsets were not committed before a rebalance");
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                // A topic that grows makes its group rebalance, so its size may have changed now.
                let count = count(consumer, &self.topic);
                let mut state = self.state();
                state.count = count.unwrap_or(state.count);
                state.progress.assigned(partitions(list));
                tracing::debug!(topic = self.topic, assigned = ?partitions(list), count = state.count, "rebalanced");
            }
            Rebalance::Revoke(list) => {
                let revoked = partitions(list);
                let mut state = self.state();
                state.uncommitted.retain(|partition, _| !revoked.contains(partition));
                state.progress.revoked(&revoked);
                tracing::debug!(topic = self.topic, revoked = ?partitions(list), "rebalanced");
            }
            Rebalance::Error(error) => tracing::warn!(topic = self.topic, %error, "rebalance failed"),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        // Offsets that did not move are harmless: the messages are received again, and are known.
        if let Err(error) = result {
            tracing::debug!(topic = self.topic, %error, "offsets were not committed");
        }
    }
}

/// Commits the settled offsets to the broker.
fn commit<C: ConsumerContext>(consumer: &impl Consumer<C>, member: &Member) -> KafkaResult<()> {
    let settled = {
        let mut state = member.state();
        state.committed_at = Some(Instant::now());
        std::mem::take(&mut state.uncommitted)
    };
    if settled.is_empty() { Ok(()) } else { consumer.commit(&list(&settled), CommitMode::Async) }
}

fn count(consumer: &impl Consumer<Member>, topic: &str) -> Option<i32> {
    let metadata = consumer.fetch_metadata(Some(topic), LOCAL_PATIENCE).ok()?;
    let partitions = metadata.topics().first()?.partitions().len();
    i32::try_from(partitions).ok().filter(|count| *count > 0)
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

fn partitions(list: &TopicPartitionList) -> Vec<Partition> {
    list.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect()
}

fn list(offsets: &BTreeMap<Partition, i64>) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for ((topic, partition), offset) in offsets {
        let added = list.add_partition_offset(topic, *partition, Offset::Offset(*offset));
        added.expect("an offset that was received is valid");
    }
    list
}

fn failed(doing: &str, error: &KafkaError) -> Error {
    Error(format!("{doing}: {error}"))
}

#[cfg(test)]
mod tests {
    use amends_protocol::transport::{Outbound, Placement, Sink};

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
