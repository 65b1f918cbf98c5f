//! What was sent as domain events, `notif.sent`: at least once, and in the order of their numbers. The numbers are stored
//! before they are sent, so an event that is sent again has its number still.

use std::time::Duration;

use amends_pool::Pool;
use amends_protocol::{
    id,
    transport::{Outbound, Placement},
    wire,
};
use amends_worker::PublishedRow;
use chrono::{DateTime, SecondsFormat, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::FromRow;
use uuid::Uuid;

/// The type of the events, and their topic.
pub const SENT_TOPIC: &str = "notif.sent";

/// Maximum number of messages that are numbered at once.
const NUMBERED_BATCH: i64 = 500;

/// Publishes what was sent.
pub type Publisher<K> = amends_worker::Publisher<Sent, K>;

/// A notification that was sent.
#[derive(Debug, Clone, FromRow)]
pub struct Sent {
    id: Uuid,
    order_id: Uuid,
    event_id: String,
    event_type: String,
    channel: String,
    number: i64,
    sent_at: DateTime<Utc>,
}

/// `notif.sent`: a message was handed to the mail server or the SMS provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SentEvent {
    /// `1.0`.
    pub specversion: &'static str,
    /// The event's id, the same for every delivery.
    pub id: String,
    /// `/amends/notification`.
    pub source: &'static str,
    /// The type, which is also the topic: `notif.sent`.
    pub r#type: &'static str,
    /// The order's id.
    pub subject: Uuid,
    /// When it was sent.
    pub time: String,
    /// `application/json`.
    pub datacontenttype: &'static str,
    /// Counts the messages that were sent from 1, without gaps. (CloudEvents' extension of that name is a string.)
    pub sequence: String,
    /// The content.
    pub data: MessageSent,
}

/// A message that was sent, without its address and its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageSent {
    /// The notification.
    pub notification_id: Uuid,
    /// The order that it is about.
    pub order_id: Uuid,
    /// The type of the event that it is about.
    pub r#type: String,
    /// The id of that event.
    pub event_id: String,
    /// `email` or `sms`.
    pub channel: String,
}

impl PublishedRow for Sent {
    const TOPIC: &'static str = SENT_TOPIC;
    const POLL: Duration = Duration::from_secs(1);
    const MARK: &'static str = "SELECT published FROM notif_sent FOR UPDATE SKIP LOCKED";
    const ROWS: &'static str =
        "SELECT id, order_id, event_id, event_type, channel, number, sent_at FROM notifications
         WHERE number > $1 ORDER BY number LIMIT $2";
    const ADVANCE: &'static str = "UPDATE notif_sent SET published = $1";

    async fn prepare(pool: &Pool) -> Result<(), sqlx::Error> {
        number(pool).await
    }

    fn number(&self) -> i64 {
        self.number
    }

    fn event(&self) -> Outbound {
        let event = SentEvent {
            specversion: "1.0",
            id: format!("notification/{}", self.id),
            source: "/amends/notification",
            r#type: SENT_TOPIC,
            subject: self.order_id,
            time: self.sent_at.to_rfc3339_opts(SecondsFormat::Millis, true),
            datacontenttype: "application/json",
            sequence: self.number.to_string(),
            data: MessageSent {
                notification_id: self.id,
                order_id: self.order_id,
                r#type: self.event_type.clone(),
                event_id: self.event_id.clone(),
                channel: self.channel.clone(),
            },
        };
        Outbound {
            topic: SENT_TOPIC.to_owned(),
            placement: Placement::Slot(id::slot(self.order_id)),
            key: self.order_id,
            traceparent: None,
            bytes: wire::write(&event),
        }
    }
}

/// Gives what was sent the next numbers.
async fn number(pool: &Pool) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    // The instance that locks the row numbers. What the last one has numbered is seen by the next statement only.
    let mark: Option<i64> = sqlx::query_scalar("SELECT numbered FROM notif_sent FOR UPDATE SKIP LOCKED")
        .fetch_optional(&mut *tx)
        .await?;
    let Some(mark) = mark else { return tx.rollback().await };
    let numbered = sqlx::query(
        "UPDATE notifications AS n SET number = $1 + page.nth
         FROM (SELECT id, row_number() OVER (ORDER BY sent_at, id) AS nth
               FROM (SELECT id, sent_at FROM notifications
                     WHERE status = 'SENT' AND number IS NULL ORDER BY sent_at, id LIMIT $2) AS next) AS page
         WHERE n.id = page.id",
    )
    .bind(mark)
    .bind(NUMBERED_BATCH)
    .execute(&mut *tx)
    .await?
    .rows_affected();
    if numbered == 0 {
        return tx.rollback().await;
    }
    sqlx::query("UPDATE notif_sent SET numbered = numbered + $1")
        .bind(i64::try_from(numbered).unwrap_or_default())
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}
