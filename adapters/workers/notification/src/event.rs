//! The part of a domain event (structured CloudEvents 1.0) that this worker needs, and what follows from it.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

/// The types of events about which customers are notified; each is a topic.
pub const TOPICS: [&str; 7] = [
    "order.created",
    "order.fulfilled",
    "order.cancelled",
    "order.failed",
    "order.return.requested",
    "order.returned",
    "order.refunded",
];

/// A way to reach a customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// By SMTP.
    Email,
    /// By a webhook.
    Sms,
}

impl Channel {
    /// Every channel.
    pub const ALL: [Self; 2] = [Self::Email, Self::Sms];

    /// Returns its name in rows, routes and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Sms => "sms",
        }
    }
}

/// The fields read from an event. Its other fields may change without effect here.
#[derive(Debug, Deserialize)]
pub(crate) struct Event {
    pub id: String,
    pub r#type: String,
    pub time: DateTime<Utc>,
    pub data: Data,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Data {
    pub order_id: Uuid,
    /// What was paid back: of a refund.
    #[serde(default)]
    pub amount: Option<i64>,
    #[serde(default)]
    pub currency: Option<String>,
}

impl Event {
    /// Returns whether customers are notified of it.
    pub fn notifies_customers(&self) -> bool {
        TOPICS.contains(&self.r#type.as_str())
    }

    /// Returns the id of its notification on a channel: a UUIDv7 of the event's time, and otherwise a digest of the
    /// event's id and the channel. It is the same in each process, and however often the event arrives.
    pub fn notification(&self, channel: Channel) -> Uuid {
        let digest = Sha256::digest(format!("{}\0{}", self.id, channel.as_str()));
        let millis = u64::try_from(self.time.timestamp_millis()).unwrap_or_default();
        let mut rest = [0; 10];
        rest.copy_from_slice(&digest[..10]);
        Builder::from_unix_timestamp_millis(millis, &rest).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(id: &str) -> Event {
        serde_json::from_value(json!({
            "id": id, "type": "order.created", "time": "2026-11-27T12:00:00.123Z",
            "data": { "orderId": Uuid::from_u128(1 << 64) },
        }))
        .unwrap()
    }

    #[test]
    fn a_notifications_id_follows_from_event_and_channel_and_sorts_by_the_events_time() {
        let [email, sms] = Channel::ALL.map(|channel| event("a").notification(channel));
        assert_eq!(email, event("a").notification(Channel::Email));
        assert_ne!(email, sms);
        assert_ne!(email, event("b").notification(Channel::Email));
        let (seconds, nanos) = email.get_timestamp().unwrap().to_unix();
        assert_eq!((seconds, nanos, email.get_version_num()), (1_795_780_800, 123_000_000, 7));
    }
}
