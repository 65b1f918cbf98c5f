//! How many messages a consumer has not settled yet, by topic: a metric, from librdkafka's statistics.

use std::{collections::HashMap, time::Duration};

use metrics::Gauge;
use serde::Deserialize;

/// Interval between two statistics of a consumer.
pub(crate) const LAG_EVERY: Duration = Duration::from_secs(5);

/// The gauges of a consumer, by topic: the sum over the partitions that it owns.
pub(crate) struct Lag(HashMap<String, Gauge>);

/// The part of librdkafka's statistics that is read.
#[derive(Deserialize)]
struct Statistics {
    topics: HashMap<String, Topic>,
}

#[derive(Deserialize)]
struct Topic {
    partitions: HashMap<String, Partition>,
}

#[derive(Deserialize)]
struct Partition {
    /// Messages after the committed offset; -1 if the consumer does not own the partition, or does not know yet.
    consumer_lag: i64,
}

impl Lag {
    /// Creates the gauges of a member of this group.
    pub(crate) fn of(group: &str, topics: &[&str]) -> Self {
        let gauge = |topic: &&str| {
            let labels = [("group", group.to_owned()), ("topic", (*topic).to_owned())];
            ((*topic).to_owned(), metrics::gauge!("amends_kafka_lag_messages", &labels))
        };
        Self(topics.iter().map(gauge).collect())
    }

    /// Notes what the statistics say. A topic that they do not name has no messages that are known of.
    pub(crate) fn note(&self, statistics: &[u8]) {
        let Some(lags) = lags(statistics) else {
            return tracing::debug!("librdkafka's statistics cannot be read");
        };
        for (topic, gauge) in &self.0 {
            let lag = lags.get(topic).copied().unwrap_or_default();
            #[expect(clippy::cast_precision_loss, reason = "a topic has far fewer than 2^52 messages")]
            gauge.set(lag as f64);
        }
    }
}

/// Returns the number of messages behind the committed offsets, by topic.
fn lags(statistics: &[u8]) -> Option<HashMap<String, i64>> {
    let statistics: Statistics = serde_json::from_slice(statistics).ok()?;
    let lag = |topic: Topic| topic.partitions.values().map(|partition| partition.consumer_lag.max(0)).sum();
    Some(statistics.topics.into_iter().map(|(name, topic)| (name, lag(topic))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_is_the_sum_over_the_owned_partitions_and_what_is_not_owned_counts_nothing() {
        let statistics = br#"{"name":"x","topics":{"payment.commands":{"topic":"payment.commands","partitions":{
            "0":{"consumer_lag":3},"1":{"consumer_lag":4},"2":{"consumer_lag":-1},"-1":{"consumer_lag":-1}}}}}"#;
        assert_eq!(lags(statistics).unwrap(), HashMap::from([("payment.commands".to_owned(), 7)]));
        assert_eq!(lags(b"not json"), None);
    }
}
