//! Publishes what was sent as domain events, `notif.sent`: gives each sent message the next number, sends the event, and
//! advances the mark once everything is acknowledged. The numbers are stored before they are sent, so an event that is
//! sent again has its number still. Delivery is at least once, and in the order of the numbers.

use std::time::Duration;

use amends_pool::{Connection, Pool};
use amends_protocol::{
    id,
    transport::{self, Outbound, Placement, Sink},
    wire,
};
use amends_worker::Backoff;
use chrono::SecondsFormat;
use schemars::JsonSchema;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::store::Sent;

/// The type of the events, and their topic.
pub const SENT_TOPIC: &str = "notif.sent";

/// Maximum number of messages in a batch.
const SENT_BATCH: i64 = 500;
/// Pause after an empty read.
const SENT_POLL: Duration = Duration::from_secs(1);

/// Why a batch was not published.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database failed.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The transport failed.
    #[error(transparent)]
    Transport(#[from] transport::Error),
}

/// Publishes what was sent. Only one of several instances publishes at a time.
pub struct Publisher<K> {
    pool: Pool,
    sink: K,
}

impl<K: Sink> Publisher<K> {
    /// Creates a publisher. `sink` must keep the order of its messages.
    pub fn new(pool: impl Into<Pool>, sink: K) -> Self {
        Self { pool: pool.into(), sink }
    }

    /// Publishes until stopped.
    pub async fn run(self, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        while !stop.is_cancelled() {
            let published = self.run_once().await;
            if published.is_ok() {
                backoff.reset();
            }
            let rest = match published {
                Ok(0) => SENT_POLL,
                Ok(_) => continue,
                Err(error) => {
                    tracing::warn!(%error, "notif.sent: the batch failed and will be retried");
                    backoff.pause()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Publishes one batch; returns the number of its events.
    ///
    /// # Errors
    /// [`Error`]: the batch is published again.
    pub async fn run_once(&self) -> Result<usize, Error> {
        // Nothing is published before its number is stored.
        self.number().await?;
        let mut tx = self.pool.begin().await?;
        match self.publish(&mut tx).await {
            Ok(published) => {
                tx.commit().await?;
                Ok(published)
            }
            Err(error) => {
                // A dropped transaction would end a little later, and with it its lock.
                let _ = tx.rollback().await;
                Err(error)
            }
        }
    }

    /// Gives what was sent the next numbers.
    async fn number(&self) -> Result<(), sqlx::Error> {
        let mut tx = self.pool.begin().await?;
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
        .bind(SENT_BATCH)
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

    async fn publish(&self, tx: &mut Connection) -> Result<usize, Error> {
        // The instance that locks the row publishes; the others have nothing to do.
        let mark: Option<i64> = sqlx::query_scalar("SELECT published FROM notif_sent FOR UPDATE SKIP LOCKED")
            .fetch_optional(&mut *tx)
            .await?;
        let Some(mark) = mark else { return Ok(0) };
        let sent: Vec<Sent> = sqlx::query_as(
            "SELECT id, order_id, event_id, event_type, channel, number, sent_at FROM notifications
             WHERE number > $1 ORDER BY number LIMIT $2",
        )
        .bind(mark)
        .bind(SENT_BATCH)
        .fetch_all(&mut *tx)
        .await?;
        let Some(last) = sent.last().map(|sent| sent.number) else { return Ok(0) };
        self.sink.send(sent.iter().map(Sent::event).collect()).await?;
        sqlx::query("UPDATE notif_sent SET published = $1").bind(last).execute(&mut *tx).await?;
        Ok(sent.len())
    }
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

impl Sent {
    /// Returns it as a structured CloudEvent 1.0. Nothing in it is personal.
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
