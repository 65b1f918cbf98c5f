//! What a broker says of topics and consumer groups, for those who check a deployment. Nothing is changed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, OwnedResourceSpecifier, ResourceSpecifier},
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};

use crate::{
    KafkaSettings,
    context::{self, Quiet},
    settings::Error,
};

/// A topic as the broker has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundTopic {
    /// Its name.
    pub name: String,
    /// Number of partitions.
    pub partitions: i32,
    /// The least number of replicas of a partition.
    pub replicas: usize,
    /// The least number of replicas of a partition that are in sync.
    pub in_sync: usize,
    /// Partitions without a leader.
    pub leaderless: usize,
}

/// Returns those of these topics that exist, in the given order.
///
/// # Errors
/// [`Error::Unreachable`].
pub async fn topics(
    settings: &KafkaSettings,
    names: &[String],
    patience: Duration,
) -> Result<Vec<FoundTopic>, Error> {
    let admin = admin(settings)?;
    let asking = tokio::task::spawn_blocking(move || admin.inner().fetch_metadata(None, patience));
    let metadata = context::finished(asking).await.map_err(|source| unreachable(settings, source))?;
    let mut found: BTreeMap<&str, FoundTopic> = BTreeMap::new();
    for topic in metadata.topics() {
        let least = |of: fn(&rdkafka::metadata::MetadataPartition) -> usize| {
            topic.partitions().iter().map(of).min().unwrap_or_default()
        };
        let state = FoundTopic {
            name: topic.name().to_owned(),
            partitions: i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX),
            replicas: least(|partition| partition.replicas().len()),
            in_sync: least(|partition| partition.isr().len()),
            leaderless: topic.partitions().iter().filter(|partition| partition.leader() < 0).count(),
        };
        found.insert(topic.name(), state);
    }
    Ok(names.iter().filter_map(|name| found.remove(name.as_str())).collect())
}

/// Returns the configuration of each of these topics, by name; `None` if the broker does not tell it (an embedded one). Those
/// whose configuration is not for this user to see are left out.
///
/// # Errors
/// [`Error::Settings`].
pub async fn configurations(
    settings: &KafkaSettings,
    names: &[String],
    patience: Duration,
) -> Result<Option<BTreeMap<String, BTreeMap<String, String>>>, Error> {
    let admin = admin(settings)?;
    let asked: Vec<ResourceSpecifier<'_>> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let options = AdminOptions::new().request_timeout(Some(patience));
    let Ok(told) = admin.describe_configs(&asked, &options).await else { return Ok(None) };
    let mut all = BTreeMap::new();
    for resource in told.into_iter().flatten() {
        let OwnedResourceSpecifier::Topic(name) = resource.specifier else { continue };
        // The client library drops the error. No topic is without configuration.
        if resource.entries.is_empty() {
            continue;
        }
        let entries = resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?)));
        all.insert(name, entries.collect());
    }
    Ok(Some(all))
}

/// How far a consumer group is in a topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupProgress {
    /// Number of messages that it has settled, and of those that were deleted before.
    pub settled: i64,
    /// Number of messages that it has not settled.
    pub behind: i64,
}

/// Returns how many messages of a topic a consumer group has not settled. A partition of which it has settled nothing
/// counts whole.
///
/// # Errors
/// [`Error::Unreachable`].
pub async fn lag(
    settings: &KafkaSettings,
    group: &str,
    topic: &FoundTopic,
    patience: Duration,
) -> Result<i64, Error> {
    progress(settings, group, topic, patience).await.map(|progress| progress.behind)
}

/// Returns how far a consumer group is in a topic.
///
/// # Errors
/// [`Error::Unreachable`].
pub async fn progress(
    settings: &KafkaSettings,
    group: &str,
    topic: &FoundTopic,
    patience: Duration,
) -> Result<GroupProgress, Error> {
    let config = settings.client(&[("group.id", group), ("enable.auto.commit", "false")]);
    let consumer: BaseConsumer<Quiet> = config.create_with_context(Quiet).map_err(Error::Settings)?;
    let topic = topic.clone();
    let asking = tokio::task::spawn_blocking(move || progress_of(&consumer, &topic, patience));
    context::finished(asking).await.map_err(|source| unreachable(settings, source))
}

fn progress_of(
    consumer: &BaseConsumer<Quiet>,
    topic: &FoundTopic,
    patience: Duration,
) -> Result<GroupProgress, KafkaError> {
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_range(&topic.name, 0, topic.partitions - 1);
    let settled = consumer.committed_offsets(partitions, patience)?;
    let mut progress = GroupProgress::default();
    for partition in settled.elements() {
        let (low, high) = consumer.fetch_watermarks(&topic.name, partition.partition(), patience)?;
        let from = match partition.offset() {
            Offset::Offset(offset) => offset.max(low),
            _ => low,
        };
        progress.settled += from;
        progress.behind += (high - from).max(0);
    }
    Ok(progress)
}

fn admin(settings: &KafkaSettings) -> Result<Arc<AdminClient<Quiet>>, Error> {
    let admin = settings.client(&[]).create_with_context(Quiet).map_err(Error::Settings)?;
    Ok(Arc::new(admin))
}

fn unreachable(settings: &KafkaSettings, source: KafkaError) -> Error {
    Error::Unreachable { brokers: settings.brokers.clone(), source }
}
