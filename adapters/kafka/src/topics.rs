//! Topics: those that are missing are made, those that are not as they should be are told of.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    types::RDKafkaErrorCode,
};

use crate::{
    KafkaSettings,
    context::{self, Quiet},
    settings::Error,
};

/// Seven days.
const RETENTION_MS: &str = "604800000";

/// A topic as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: i32,
}

impl Topic {
    /// A topic with that many partitions.
    pub fn new(name: impl Into<String>, partitions: i32) -> Self {
        Self { name: name.into(), partitions }
    }

    /// Where its messages go that cannot be read or routed.
    pub fn dead_letters(&self) -> Self {
        Self::new(dead_letter_topic(&self.name), 1)
    }
}

/// The name of a topic's topic of dead letters.
pub fn dead_letter_topic(topic: &str) -> String {
    format!("{topic}.DLT")
}

/// A topic that has another number of partitions than the settings say. Everything works with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Its name.
    pub topic: String,
    /// As the settings say.
    pub expected: i32,
    /// As the broker says.
    pub found: i32,
}

/// Makes the topics that are missing, with as many replicas as the broker makes by default, and waits until they are
/// there. Returns those with another number of partitions, which are left as they are.
///
/// An embedded broker has no admin API: its owner makes the topics first, and this finds them.
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
        tokio::time::sleep(Duration::from_millis(50)).await;
        found = partitions(&admin, settings, patience).await?;
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
                "the topic has another number of partitions than the settings say"
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
            // Somebody else was quicker.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(failed(&topic, code)),
        }
    }
    Ok(())
}

fn failed(topic: &str, reason: impl ToString) -> Error {
    Error::Topic { topic: topic.into(), reason: reason.to_string() }
}
