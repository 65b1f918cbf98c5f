//! Table `notifications`: what is recorded, claimed by a sender, and settled.

use std::time::Duration;

use amends_pool::Pool;
use sqlx::FromRow;
use uuid::Uuid;

use crate::event::Channel;

/// The reason of a message that this deployment has no way to send.
pub(crate) const NOT_CONFIGURED: &str = "not_configured";

/// A notification of an event on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewNotification {
    pub id: Uuid,
    pub order_id: Uuid,
    pub event_id: String,
    pub event_type: String,
    pub channel: Channel,
    pub amount: Option<i64>,
    pub currency: Option<String>,
    /// The span in which its event was processed.
    pub traceparent: Option<String>,
    /// Whether it is queued; otherwise it is skipped.
    pub is_to_be_sent: bool,
}

/// A notification that a sender has claimed.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub(crate) struct Claimed {
    pub id: Uuid,
    pub order_id: Uuid,
    pub event_type: String,
    pub amount: Option<i64>,
    pub currency: Option<String>,
    pub traceparent: Option<String>,
    /// Number of attempts, this one included.
    pub attempts: i32,
    /// How long it has been recorded, in seconds.
    pub age: f64,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Settled {
    /// The server has taken it, for this masked address.
    Sent { address: String },
    /// It is tried again after this time.
    Later { reason: String, address: Option<String>, pause: Duration },
    /// It is never sent: it was refused, or the patience is over.
    Failed { reason: String, address: Option<String> },
    /// It is not to be sent.
    Skipped { reason: &'static str, address: Option<String>, preview: Option<String> },
}

/// The table.
#[derive(Debug, Clone)]
pub(crate) struct NotificationStore {
    pub(crate) pool: Pool,
}

impl NotificationStore {
    pub(crate) fn new(pool: impl Into<Pool>) -> Self {
        Self { pool: pool.into() }
    }

    /// Inserts those that are not there yet; returns their number.
    pub(crate) async fn record(&self, mut new: Vec<NewNotification>) -> Result<u64, sqlx::Error> {
        // Two recorders lock rows in the same order.
        new.sort_by_key(|new| new.id);
        let count = new.len();
        let (mut ids, mut orders) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let (mut events, mut types) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let (mut channels, mut queued) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let (mut amounts, mut currencies) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut traceparents = Vec::with_capacity(count);
        for new in new {
            ids.push(new.id);
            orders.push(new.order_id);
            events.push(new.event_id);
            types.push(new.event_type);
            channels.push(new.channel.as_str());
            queued.push(new.is_to_be_sent);
            amounts.push(new.amount);
            currencies.push(new.currency);
            traceparents.push(new.traceparent);
        }
        let recorded = sqlx::query(
            "INSERT INTO notifications (id, order_id, event_id, event_type, channel, amount, currency, traceparent, status, reason, due_at)
             SELECT n.id, n.order_id, n.event_id, n.event_type, n.channel, n.amount, n.currency, n.traceparent,
                    CASE WHEN n.is_queued THEN 'QUEUED' ELSE 'SKIPPED' END, CASE WHEN NOT n.is_queued THEN $9 END,
                    CASE WHEN n.is_queued THEN clock_timestamp() END
             FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::bool[], $7::bigint[], $8::text[],
                         $10::text[])
                  AS n (id, order_id, event_id, event_type, channel, is_queued, amount, currency, traceparent)
             ON CONFLICT (id) DO NOTHING",
        )
        .bind(ids)
        .bind(orders)
        .bind(events)
        .bind(types)
        .bind(channels)
        .bind(queued)
        .bind(amounts)
        .bind(currencies)
        .bind(NOT_CONFIGURED)
        .bind(traceparents)
        .execute(&self.pool)
        .await?;
        Ok(recorded.rows_affected())
    }

    /// Claims at most `limit` notifications of a channel that are due, for this long. Those that other senders are just
    /// claiming are passed over.
    pub(crate) async fn claim(
        &self,
        channel: Channel,
        limit: i64,
        lease: Duration,
    ) -> Result<Vec<Claimed>, sqlx::Error> {
        sqlx::query_as(
            "UPDATE notifications AS n
             SET attempts = n.attempts + 1, due_at = clock_timestamp() + make_interval(secs => $3)
             FROM (SELECT d.id FROM notifications AS d WHERE d.channel = $1 AND d.due_at <= clock_timestamp()
                   ORDER BY d.due_at LIMIT $2 FOR UPDATE SKIP LOCKED) AS due
             WHERE n.id = due.id
             RETURNING n.id, n.order_id, n.event_type, n.amount, n.currency, n.traceparent, n.attempts,
                       extract(epoch FROM clock_timestamp() - n.created_at)::float8 AS age",
        )
        .bind(channel.as_str())
        .bind(limit)
        .bind(lease.as_secs_f64())
        .fetch_all(&self.pool)
        .await
    }

    /// Counts the notifications of a channel that wait to be sent or to be tried again, up to `most`.
    pub(crate) async fn waiting(&self, channel: Channel, most: i64) -> Result<i64, sqlx::Error> {
        sqlx::query_scalar(
            "SELECT count(*) FROM (SELECT FROM notifications WHERE channel = $1 AND due_at IS NOT NULL LIMIT $2) AS waiting",
        )
        .bind(channel.as_str())
        .bind(most)
        .fetch_one(&self.pool)
        .await
    }

    /// Records how the attempt ended. If another sender has claimed the notification since, only a success is recorded:
    /// the message was sent, whatever the other one finds.
    pub(crate) async fn settle(&self, claimed: &Claimed, settled: Settled) -> Result<(), sqlx::Error> {
        let (status, reason, address, preview, pause) = match settled {
            Settled::Sent { address } => ("SENT", None, Some(address), None, None),
            Settled::Later { reason, address, pause } => {
                ("QUEUED", Some(reason), address, None, Some(pause.as_secs_f64()))
            }
            Settled::Failed { reason, address } => ("FAILED", Some(reason), address, None, None),
            Settled::Skipped { reason, address, preview } => {
                ("SKIPPED", Some(reason.to_owned()), address, preview, None)
            }
        };
        sqlx::query(
            "UPDATE notifications
             SET status = $3, reason = $4, address = coalesce($5, address), preview = $6,
                 due_at = clock_timestamp() + make_interval(secs => $7),
                 sent_at = CASE WHEN $3 = 'SENT' THEN clock_timestamp() END
             WHERE id = $1 AND status = 'QUEUED' AND (attempts = $2 OR $3 = 'SENT')",
        )
        .bind(claimed.id)
        .bind(claimed.attempts)
        .bind(status)
        .bind(reason)
        .bind(address)
        .bind(preview)
        .bind(pause)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
