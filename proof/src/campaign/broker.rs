//! What a campaign does to the broker's topics: poison, deletion, and reading the dead letters.

use std::{net::SocketAddr, sync::LazyLock, time::Duration};

use amends_api::topics::REPLIES;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    producer::{FutureProducer, FutureRecord},
    types::RDKafkaErrorCode,
};
use tokio::time::{Instant, sleep};

use crate::{books::DeadLetter, deployment::PARTICIPANTS};

/// Topics of commands and replies. They can be deleted without loss, because the rows are the record.
pub static TOPICS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let commands = PARTICIPANTS.iter().map(|name| format!("{name}.commands"));
    commands.chain([REPLIES.to_owned()]).collect()
});
/// A topic of domain events that a worker reads.
const EVENTS: &str = "order.created";
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the topics that receive poison.
pub fn poisonable() -> impl Iterator<Item = &'static str> {
    TOPICS.iter().map(String::as_str).chain([EVENTS])
}

/// Clients of the broker itself, without the proxy's faults.
pub struct Broker {
    config: ClientConfig,
    admin: AdminClient<DefaultClientContext>,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Broker")
    }
}

impl Broker {
    /// Connects to the broker at this address.
    pub fn new(address: SocketAddr) -> Result<Self, KafkaError> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", address.to_string()).set("reconnect.backoff.max.ms", "500");
        // Errors are reported by the campaign; librdkafka's own log about a broker that is down adds nothing.
        config.set("log_level", "0");
        Ok(Self { admin: config.create()?, config })
    }

    /// Deletes a topic and creates it again, with this number of partitions.
    pub async fn recreate(&self, topic: &str, partitions: usize) -> Result<(), String> {
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
        let deleted = self.admin.delete_topics(&[topic], &options).await.map_err(|e| e.to_string())?;
        match deleted.into_iter().next() {
            Some(Err((_, code))) if code != RDKafkaErrorCode::UnknownTopicOrPartition => {
                return Err(format!("deleting {topic}: {code}"));
            }
            _ => {}
        }
        let begun = Instant::now();
        let wanted = i32::try_from(partitions).unwrap_or(i32::MAX);
        // A request without an answer may have made it.
        let mut may_be_made = false;
        loop {
            let new = NewTopic::new(topic, wanted, TopicReplication::Fixed(1));
            let made = self.admin.create_topics(&[new], &options).await;
            let why = match made.map(|each| each.into_iter().next()) {
                Ok(Some(Ok(_)) | None) => return Ok(()),
                // It is not gone yet; or a producer's request has created it, with one partition.
                Ok(Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists)))) => {
                    let more = [NewPartitions::new(topic, partitions)];
                    let grown = self.admin.create_partitions(&more, &options).await;
                    if grown.is_ok_and(|each| each.iter().all(Result::is_ok)) {
                        return Ok(());
                    }
                    "it neither is there nor can be made".to_owned()
                }
                Ok(Some(Err((_, code)))) => {
                    may_be_made |= code == RDKafkaErrorCode::RequestTimedOut;
                    code.to_string()
                }
                Err(error) => {
                    may_be_made = true;
                    error.to_string()
                }
            };
            if may_be_made && self.lengths(topic).await.is_ok_and(|lengths| lengths.len() == partitions) {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("making {topic}: {why}"));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns the number of members of a consumer group; `None` while it is being rebalanced.
    pub async fn members(&self, group: &str) -> Result<Option<usize>, String> {
        let (config, group) = (self.config.clone(), group.to_owned());
        let asking = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = config.create()?;
            let groups = consumer.fetch_group_list(Some(&group), PATIENCE)?;
            let stable = groups.groups().iter().find(|group| group.state() == "Stable");
            Ok(stable.map(|group| group.members().len()))
        });
        asking.await.map_err(|e| e.to_string())?.map_err(|e: KafkaError| e.to_string())
    }

    /// Returns how many messages each partition of a topic has ever had.
    pub async fn lengths(&self, topic: &str) -> Result<Vec<i64>, String> {
        let (config, topic) = (self.config.clone(), topic.to_owned());
        let asking = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = config.create()?;
            let metadata = consumer.fetch_metadata(Some(&topic), PATIENCE)?;
            let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
            let end = |id| Ok(consumer.fetch_watermarks(&topic, id, PATIENCE)?.1);
            partitions.map(|partition| end(partition.id())).collect::<Result<_, KafkaError>>()
        });
        asking.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
    }

    /// Produces bytes to a partition that the broker chooses.
    pub async fn produce(&self, topic: &str, bytes: &[u8]) -> Result<(), String> {
        let mut config = self.config.clone();
        config.set("acks", "all").set("message.timeout.ms", "15000");
        let producer: FutureProducer = config.create().map_err(|e| e.to_string())?;
        let record = FutureRecord::<(), _>::to(topic).payload(bytes);
        producer.send(record, PATIENCE).await.map(drop).map_err(|(e, _)| e.to_string())
    }

    /// Returns all dead letters of the topics that receive poison.
    pub async fn dead_letters(&self) -> Result<Vec<DeadLetter>, String> {
        let config = self.config.clone();
        let reading = tokio::task::spawn_blocking(move || read_dead_letters(&config));
        reading.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
    }
}

fn read_dead_letters(config: &ClientConfig) -> Result<Vec<DeadLetter>, KafkaError> {
    let mut dead_letters = Vec::new();
    for topic in poisonable() {
        let dead = format!("{topic}.DLT");
        let consumer: BaseConsumer =
            config.clone().set("group.id", "amends-campaign").set("enable.auto.commit", "false").create()?;
        let (_, end) = consumer.fetch_watermarks(&dead, 0, PATIENCE)?;
        let mut all = TopicPartitionList::new();
        all.add_partition_offset(&dead, 0, Offset::Beginning)?;
        consumer.assign(&all)?;
        let mut next = 0;
        while next < end {
            let Some(message) = consumer.poll(PATIENCE) else { break };
            let message = message?;
            next = message.offset() + 1;
            dead_letters.push(DeadLetter {
                topic: topic.to_owned(),
                mark: mark(message.payload().unwrap_or_default()),
            });
        }
    }
    Ok(dead_letters)
}

/// Returns the mark near the beginning of a poison message; for any other message, its beginning.
fn mark(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).into_owned();
    let number =
        |at: usize| text[at + POISON.len()..].chars().take_while(char::is_ascii_digit).collect::<String>();
    text.find(POISON).map_or(text.clone(), |at| format!("{POISON}{}", number(at)))
}

const POISON: &str = "poison-";

/// Returns an unreadable message of one of several kinds, with its topic and its mark.
pub fn poison(number: usize) -> (&'static str, String, Vec<u8>) {
    let mark = format!("{POISON}{number}");
    let (kind, bytes) = match number % 4 {
        0 => ("not JSON", mark.clone().into_bytes()),
        1 => ("900 kB", format!("\"{mark}{}\"", " ".repeat(900_000)).into_bytes()),
        2 => {
            ("deeply nested", format!("[\"{mark}\",{}{}]", "[".repeat(5_000), "]".repeat(5_000)).into_bytes())
        }
        _ => ("another shape", format!("{{\"is\":\"{mark}\",\"schemaVersion\":1}}").into_bytes()),
    };
    (kind, mark, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poison_is_recognised_among_dead_letters() {
        for number in 0..8 {
            let (_, expected, bytes) = poison(number);
            assert_eq!(mark(&bytes), expected);
        }
        assert_eq!(mark(b"{\"commandId\":1}"), "{\"commandId\":1}");
    }
}
