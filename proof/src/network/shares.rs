//! Which process owns which partitions of a topic, as the broker says: each member of a group has its own address.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};
use tokio::time::{Instant, sleep};

use super::plan::Place;

/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Interval at which a group is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Who owns which partitions of one topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shares {
    /// Partitions by the name of the process that owns them, without processes that own none.
    pub owners: BTreeMap<String, Vec<i32>>,
    /// How many partitions the topic has.
    pub partitions: usize,
}

impl Shares {
    /// Returns whether each partition has one owner, and exactly these own some, each as many as any other, or one more.
    pub fn are_even(&self, among: &[String]) -> bool {
        let counts = || self.owners.values().map(Vec::len);
        let spread = counts().max().unwrap_or(0) - counts().min().unwrap_or(0);
        self.are_complete()
            && spread <= 1
            && self.owners.len() == among.len()
            && among.iter().all(|name| self.owners.contains_key(name))
    }

    /// Returns whether each partition has one owner, and this process is none.
    pub fn are_without(&self, name: &str) -> bool {
        self.are_complete() && !self.owners.contains_key(name)
    }

    fn are_complete(&self) -> bool {
        let mut all: Vec<_> = self.owners.values().flatten().copied().collect();
        all.sort_unstable();
        !all.is_empty() && all.len() == self.partitions && all.windows(2).all(|pair| pair[0] < pair[1])
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = self.owners.iter().map(|(name, partitions)| {
            let partitions: Vec<_> = partitions.iter().map(i32::to_string).collect();
            format!("{name} {}", partitions.join(" "))
        });
        f.write_str(&each.collect::<Vec<_>>().join(", "))
    }
}

/// A consumer group and the topic that it shares out.
#[derive(Debug, Clone)]
pub struct Group {
    config: ClientConfig,
    name: String,
    topic: String,
    members: BTreeMap<IpAddr, String>,
}

impl Group {
    /// The group of the engines, or of the workers that take commands of a kind, at this broker.
    pub fn of<'a>(role: &str, broker: SocketAddr, places: impl Iterator<Item = &'a Place>) -> Self {
        let topic = match role {
            "engine" => "saga.replies".to_owned(),
            worker => format!("{worker}.commands"),
        };
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", broker.to_string()).set("log_level", "0");
        let members = places.map(|place| (place.address.into(), place.name.clone())).collect();
        Self { config, name: format!("amends-{role}"), topic, members }
    }

    /// Returns who owns what now; `None` while the group is being rebalanced, or the broker does not answer.
    pub async fn shares(&self) -> Option<Shares> {
        let group = self.clone();
        tokio::task::spawn_blocking(move || group.look()).await.ok()?.ok()?
    }

    fn look(&self) -> Result<Option<Shares>, KafkaError> {
        let consumer: BaseConsumer = self.config.create()?;
        let groups = consumer.fetch_group_list(Some(&self.name), PATIENCE)?;
        let stable = groups.groups().iter().find(|group| group.state() == "Stable");
        let metadata = consumer.fetch_metadata(Some(&self.topic), PATIENCE)?;
        let partitions = metadata.topics().iter().map(|topic| topic.partitions().len()).sum();
        Ok(stable.map(|group| {
            let mut shares = Shares { partitions, ..Shares::default() };
            for member in group.members() {
                let host = member.client_host().trim_start_matches('/').parse();
                let host = host.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
                let name = self.members.get(&host).cloned().unwrap_or_else(|| host.to_string());
                let owned = member.assignment().map(|bytes| assigned(bytes, &self.topic)).unwrap_or_default();
                shares.owners.entry(name).or_default().extend(owned);
            }
            shares.owners.retain(|_, partitions| !partitions.is_empty());
            shares.owners.values_mut().for_each(|partitions| partitions.sort_unstable());
            shares
        }))
    }

    /// Waits until the shares are as asked; returns them and how long that took, or what they were at last.
    pub async fn become_such(
        &self,
        patience: Duration,
        such: impl Fn(&Shares) -> bool,
    ) -> Result<(Shares, Duration), Shares> {
        let (begun, mut last) = (Instant::now(), Shares::default());
        while begun.elapsed() < patience {
            if let Some(shares) = self.shares().await {
                if such(&shares) {
                    return Ok((shares, begun.elapsed()));
                }
                last = shares;
            }
            sleep(LOOK).await;
        }
        Err(last)
    }
}

/// Returns the partitions of a topic in an assignment of Kafka's consumer protocol: a version, then each topic with its
/// partitions. What is malformed ends it.
fn assigned(bytes: &[u8], topic: &str) -> Vec<i32> {
    let mut rest = bytes.get(2..).unwrap_or_default();
    let mut found = Vec::new();
    let mut read = || -> Option<()> {
        for _ in 0..number(&mut rest)? {
            let (length, after) = rest.split_first_chunk()?;
            let (name, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            rest = after;
            for _ in 0..number(&mut rest)? {
                let partition = number(&mut rest)?;
                if name == topic.as_bytes() {
                    found.push(partition);
                }
            }
        }
        Some(())
    };
    let _ = read();
    found
}

fn number(rest: &mut &[u8]) -> Option<i32> {
    let (four, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(i32::from_be_bytes(*four))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(of: &[(&str, &[i32])], partitions: usize) -> Shares {
        let owners = of.iter().map(|(name, owned)| ((*name).to_owned(), owned.to_vec())).collect();
        Shares { owners, partitions }
    }

    #[test]
    fn an_assignment_is_read_as_the_broker_writes_it() {
        let mut bytes = vec![0, 1, 0, 0, 0, 2];
        for (topic, partitions) in [("other", [7, 8].as_slice()), ("saga.replies", &[0, 3, 5])] {
            bytes.extend(u16::try_from(topic.len()).unwrap().to_be_bytes());
            bytes.extend(topic.as_bytes());
            bytes.extend(u32::try_from(partitions.len()).unwrap().to_be_bytes());
            partitions.iter().for_each(|partition: &i32| bytes.extend(partition.to_be_bytes()));
        }
        bytes.extend([0xff; 4]);
        assert_eq!(assigned(&bytes, "saga.replies"), [0, 3, 5]);
        assert_eq!(assigned(&bytes, "other"), [7, 8]);
        assert_eq!(assigned(&bytes, "none"), [0; 0]);
        assert_eq!(assigned(&bytes[..bytes.len() - 9], "saga.replies"), [0]);
        assert_eq!(assigned(&[], "saga.replies"), [0; 0]);
    }

    #[test]
    fn shares_are_even_if_everybody_has_some_and_nobody_much_more() {
        let two = ["engine-1".to_owned(), "engine-2".to_owned()];
        assert!(shares(&[("engine-1", &[0, 2]), ("engine-2", &[1])], 3).are_even(&two));
        for wrong in [
            shares(&[("engine-1", &[0, 1, 2])], 3),
            shares(&[("engine-1", &[0, 1, 2]), ("engine-2", &[3])], 4),
            shares(&[("engine-1", &[0]), ("engine-2", &[1])], 3),
            shares(&[("engine-1", &[0, 1]), ("engine-2", &[1])], 3),
            shares(&[("engine-1", &[0, 1]), ("engine-3", &[2])], 3),
            shares(&[], 0),
        ] {
            assert!(!wrong.are_even(&two), "{wrong}");
        }
    }

    #[test]
    fn one_is_without_a_share_once_others_own_everything() {
        let moved = shares(&[("engine-2", &[0, 1])], 2);
        assert!(moved.are_without("engine-1") && !moved.are_without("engine-2"));
        assert!(!shares(&[("engine-2", &[0])], 2).are_without("engine-1"));
    }

    #[test]
    fn shares_are_printed_by_process() {
        let shown = shares(&[("engine-1", &[0, 2]), ("engine-2", &[1])], 3).to_string();
        assert_eq!(shown, "engine-1 0 2, engine-2 1");
    }
}
