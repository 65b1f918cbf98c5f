//! Topics: missing ones are created, those with too few partitions get more, and those with too many are reported.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication},
    types::RDKafkaErrorCode,
};

use crate::{
    KafkaSettings,
    context::{self, Quiet},
    settings::Error,
};

/// Interval between checks whether a topic or partition has appeared.
const APPEARANCE_POLL: Duration = Duration::from_millis(50);

/// Seven days.
const RETENTION_MS: &str = "604800000";

/// A topic as the settings require it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Number of partitions.
    pub partitions: i32,
}

impl Topic {
    /// Creates a topic with this number of partitions.
    pub fn new(name: impl Into<String>, partitions: i32) -> Self {
        Self { name: name.into(), partitions }
    }

    /// Returns the topic for its messages that cannot be read or routed.
    pub fn dead_letters(&self) -> Self {
        Self::new(dead_letter_topic(&self.name), 1)
    }
}

/// Returns the name of a topic's dead letter topic.
pub fn dead_letter_topic(topic: &str) -> String {
    format!("{topic}.DLT")
}

/// A topic whose number of partitions differs from the settings. Everything works with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Its name.
    pub topic: String,
    /// The number in the settings.
    pub expected: i32,
    /// The number at the broker.
    pub found: i32,
}

/// Creates the missing topics, with the broker's default number of replicas, and waits until they exist. Adds
/// partitions to a topic that has too few: a broker that creates topics automatically, at the first message, uses its
/// own default. Returns the topics whose number of partitions still differs: no broker removes partitions, and some
/// cannot add any.
///
/// An embedded broker has no admin API: its owner creates the topics first, and this finds them.
///
/// # Errors
/// [`Error::Unreachable`], or [`Error::Topic`] for a topic that is missing.
pub async fn ensure(
    settings: &KafkaSettings,
    topics: &[Topic],
    patience: Duration,
) -> Result<Vec<Mismatch>, Error> {
    let deadline = Instant::now() + patience;
    let admin = admin(settings)?;
    let mut found = partitions(&admin, settings, patience).await?;
    let missing: Vec<&Topic> = topics.iter().filter(|topic| !found.contains_key(&topic.name)).collect();
    if !missing.is_empty() {
        create(&admin.client, &missing, patience).await?;
    }
    while let Some(absent) = topics.iter().find(|topic| !found.contains_key(&topic.name)) {
        if Instant::now() > deadline {
            return Err(failed(&absent.name, "it did not appear in time"));
        }
        tokio::time::sleep(APPEARANCE_POLL).await;
        found = partitions(&admin, settings, patience).await?;
    }
    let narrow: Vec<&Topic> = topics.iter().filter(|topic| found[&topic.name] < topic.partitions).collect();
    if !narrow.is_empty() && widen(&admin.client, &narrow, patience).await {
        while narrow.iter().any(|topic| found.get(&topic.name).is_none_or(|count| *count < topic.partitions))
            && Instant::now() < deadline
        {
            tokio::time::sleep(APPEARANCE_POLL).await;
            found.extend(partitions(&admin, settings, patience).await?);
        }
    }
    let mismatches = topics.iter().filter(|topic| found[&topic.name] != topic.partitions);
    Ok(mismatches
        .map(|topic| Mismatch {
            topic: topic.name.clone(),
            expected: topic.partitions,
            found: found[&topic.name],
        })
        .inspect(|Mismatch { topic, expected, found }| {
            tracing::warn!(
                topic,
                expected,
                found,
                "the topic's number of partitions differs from the settings"
            );
        })
        .collect())
}

#[derive(Clone)]
struct Admin {
    client: std::sync::Arc<AdminClient<Quiet>>,
}

fn admin(settings: &KafkaSettings) -> Result<Admin, Error> {
    let client = settings.client(&[]).create_with_context(Quiet).map_err(Error::Settings)?;
    Ok(Admin { client: std::sync::Arc::new(client) })
}

async fn partitions(
    admin: &Admin,
    settings: &KafkaSettings,
    patience: Duration,
) -> Result<HashMap<String, i32>, Error> {
    let admin = admin.clone();
    let metadata = tokio::task::spawn_blocking(move || admin.client.inner().fetch_metadata(None, patience));
    let metadata = context::finished(metadata)
        .await
        .map_err(|source| Error::Unreachable { brokers: settings.brokers.clone(), source })?;
    let count = |topic: &rdkafka::metadata::MetadataTopic| {
        i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX)
    };
    Ok(metadata.topics().iter().map(|topic| (topic.name().to_owned(), count(topic))).collect())
}

async fn create(admin: &AdminClient<Quiet>, missing: &[&Topic], patience: Duration) -> Result<(), Error> {
    let new: Vec<_> = missing
        .iter()
        .map(|topic| {
            NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(-1))
                .set("retention.ms", RETENTION_MS)
        })
        .collect();
    let options = AdminOptions::new().request_timeout(Some(patience)).operation_timeout(Some(patience));
    let created =
        admin.create_topics(&new, &options).await.map_err(|error| failed(&missing[0].name, error))?;
    for topic in created {
        match topic {
            Ok(topic) => tracing::info!(topic, "created"),
            // Another process was faster.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(failed(&topic, code)),
        }
    }
    Ok(())
}

/// Requests the partitions that these topics lack. Returns whether the broker added any; failures are only logged,
/// because everything works with fewer.
async fn widen(admin: &AdminClient<Quiet>, narrow: &[&Topic], patience: Duration) -> bool {
    let wanted: Vec<_> = narrow
        .iter()
        .map(|topic| NewPartitions::new(&topic.name, usize::try_from(topic.partitions).unwrap_or_default()))
        .collect();
    let options = AdminOptions::new().request_timeout(Some(patience)).operation_timeout(Some(patience));
    let widened = match admin.create_partitions(&wanted, &options).await {
        Ok(widened) => widened,
        Err(error) => {
            tracing::debug!(%error, "the broker cannot add partitions");
            return false;
        }
    };
    let mut any = false;
    for topic in widened {
        match topic {
            Ok(topic) => {
                tracing::info!(topic, "added the partitions that the topic lacked");
                any = true;
            }
            // Another process was faster.
            Err((_, RDKafkaErrorCode::InvalidPartitions)) => any = true,
            Err((topic, code)) => {
                tracing::warn!(topic, %code, "could not add the partitions that the topic lacks")
            }
        }
    }
    any
}

fn failed(topic: &str, reason: impl ToString) -> Error {
    Error::Topic { topic: topic.into(), reason: reason.to_string() }
}
