//! A member of a consumer group: the client's callbacks, and the state that they share with the source.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance, StreamConsumer},
    error::{KafkaError, KafkaResult},
};

use crate::{
    KafkaSettings, context,
    lag::{LAG_EVERY, Lag},
    progress::{Partition, Progress},
    settings,
};

/// How members of a group share the partitions. All members of a group must name the same assignor.
pub const ASSIGNOR: &str = "cooperative-sticky";

/// How long a rebalance may wait for members that do not join, and how long a batch may take before its partitions go
/// to another member. Not the client's default of five minutes: a broker that was killed has been seen to wait all that
/// time for the members that it remembered, while the same processes, which had joined again, waited for the broker.
const REBALANCE_PATIENCE: Duration = Duration::from_secs(15);

/// Interval between offset commits. Messages whose offsets were not committed in time are received again, and are
/// known.
const COMMIT_EVERY: Duration = Duration::from_millis(100);

/// How long local operations of the client, such as a seek, and a query of the topic may take.
pub(crate) const LOCAL_PATIENCE: Duration = Duration::from_secs(2);

/// Creates a consumer that is a member of this group and reads these topics.
pub(crate) fn join(
    settings: &KafkaSettings,
    group: &str,
    topics: &[&str],
    progress: Progress,
) -> Result<Arc<StreamConsumer<Member>>, settings::Error> {
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
        state: Mutex::new(MemberState { progress, ..MemberState::default() }),
    };
    let consumer: StreamConsumer<Member> =
        config.create_with_context(member).map_err(settings::Error::Settings)?;
    let consumer = Arc::new(consumer);
    settings.credentials.reach(&consumer);
    consumer.subscribe(topics).map_err(settings::Error::Settings)?;
    Ok(consumer)
}

/// State shared with the client's callbacks, which run while the source receives.
pub(crate) struct Member {
    pub(crate) topic: String,
    lag: Lag,
    state: Mutex<MemberState>,
}

#[derive(Default)]
pub(crate) struct MemberState {
    pub(crate) progress: Progress,
    pub(crate) count: i32,
    /// Offsets that are settled and not committed yet.
    pub(crate) uncommitted: BTreeMap<Partition, i64>,
    committed_at: Option<Instant>,
}

impl MemberState {
    /// Returns the time until the next commit; `None` if there is nothing to commit.
    pub(crate) fn uncommitted_for(&self) -> Option<Duration> {
        let since = self.committed_at.map_or(COMMIT_EVERY, |at| at.elapsed());
        (!self.uncommitted.is_empty()).then(|| COMMIT_EVERY.saturating_sub(since))
    }

    /// Returns the partitions whose received messages are all settled and committed.
    pub(crate) fn idle(&self) -> Vec<Partition> {
        let unsettled = self.progress.unsettled();
        let is_idle = |partition: &&Partition| {
            !unsettled.contains_key(*partition) && !self.uncommitted.contains_key(*partition)
        };
        self.progress.owned().filter(is_idle).cloned().collect()
    }
}

impl Member {
    pub(crate) fn state(&self) -> MutexGuard<'_, MemberState> {
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
pub(crate) fn commit<C: ConsumerContext>(consumer: &impl Consumer<C>, member: &Member) -> KafkaResult<()> {
    let settled = {
        let mut state = member.state();
        state.committed_at = Some(Instant::now());
        std::mem::take(&mut state.uncommitted)
    };
    if settled.is_empty() { Ok(()) } else { consumer.commit(&list(&settled), CommitMode::Async) }
}

/// Returns the number of the topic's partitions; `None` if the broker does not say.
pub(crate) fn count(consumer: &impl Consumer<Member>, topic: &str) -> Option<i32> {
    let metadata = consumer.fetch_metadata(Some(topic), LOCAL_PATIENCE).ok()?;
    let partitions = metadata.topics().first()?.partitions().len();
    i32::try_from(partitions).ok().filter(|count| *count > 0)
}

fn partitions(list: &TopicPartitionList) -> Vec<Partition> {
    list.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect()
}

pub(crate) fn list(offsets: &BTreeMap<Partition, i64>) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for ((topic, partition), offset) in offsets {
        let added = list.add_partition_offset(topic, *partition, Offset::Offset(*offset));
        added.expect("an offset that was received is valid");
    }
    list
}
