//! Table `webhook_deliveries`: events for webhooks, each once a webhook.

use std::time::Duration;

use amends_pool::Pool;
use amends_postgres::{Error, columns::each, error};
use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

/// Number of deliveries that one statement inserts, sends again or deletes.
pub const DELIVERIES_AT_ONCE: usize = 1_000;

/// An event for a webhook, to be planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDelivery {
    /// UUIDv7, with the time of the event.
    pub id: Uuid,
    /// The webhook.
    pub webhook_id: Uuid,
    /// The order that it is about.
    pub order_id: Option<Uuid>,
    /// The event's number among those of its order.
    pub sequence: i64,
    /// The type of the event.
    pub event_type: String,
    /// The event's id: a webhook gets each event once.
    pub event_id: String,
    /// The event.
    pub event: String,
}

/// A delivery that is due.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct DueDelivery {
    /// Its id.
    pub id: Uuid,
    /// The order that it is about.
    pub order_id: Option<Uuid>,
    /// The attempts since it was planned, or asked for again.
    pub tries: i32,
    /// The time since the first of them, in seconds.
    pub since_first: f64,
    /// The type of the event.
    pub event_type: String,
    /// The event.
    pub event: String,
}

/// The result of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The delivery.
    pub id: Uuid,
    /// Its status now.
    pub status: DeliveryStatus,
    /// The time until the next attempt.
    pub pause: Option<Duration>,
    /// The receiver's status.
    pub answer_status: Option<i16>,
    /// The beginning of the receiver's answer.
    pub answer: Option<String>,
    /// Why there was no answer.
    pub failure: Option<String>,
}

/// How far a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryStatus {
    /// It is sent, or sent again.
    Pending,
    /// The receiver has taken it.
    Delivered,
    /// It was given up.
    Failed,
    /// The webhook was disabled when the event happened: it is sent if an operator asks for it.
    Skipped,
}

impl DeliveryStatus {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Delivered, Self::Failed, Self::Skipped];

    /// Returns its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Delivered => "DELIVERED",
            Self::Failed => "FAILED",
            Self::Skipped => "SKIPPED",
        }
    }
}

/// A delivery, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Delivery {
    /// Its id.
    pub id: Uuid,
    /// The order that it is about.
    pub order_id: Option<Uuid>,
    /// The event's number among those of its order.
    pub sequence: i64,
    /// Its status.
    pub status: String,
    /// The type of the event.
    pub event_type: String,
    /// The event's id.
    pub event_id: String,
    /// The number of attempts.
    pub attempts: i32,
    /// The last attempt.
    pub tried_at: Option<DateTime<Utc>>,
    /// The next attempt.
    pub due_at: Option<DateTime<Utc>>,
    /// The receiver's status.
    pub answer_status: Option<i16>,
    /// The beginning of the receiver's answer.
    pub answer: Option<String>,
    /// Why there was no answer.
    pub failure: Option<String>,
}

/// A page of deliveries, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryPage {
    /// The deliveries.
    pub items: Vec<Delivery>,
    /// The id before which the next page begins; `None` if this is the last.
    pub next: Option<Uuid>,
}

/// The deliveries in the engine's database.
#[derive(Debug, Clone)]
pub struct DeliveryStore(Pool);

/// The columns of [`Delivery`].
macro_rules! delivery_columns {
    () => {
        "d.id, d.order_id, d.sequence, d.status, d.event_type, d.event_id, d.attempts, d.tried_at, d.due_at,
         d.answer_status, d.answer, d.failure"
    };
}

/// What a delivery becomes that is sent again.
macro_rules! sent_again {
    () => {
        "UPDATE webhook_deliveries AS d SET status = 'PENDING', due_at = now(), tries = 0, first_tried_at = NULL "
    };
}

impl DeliveryStore {
    /// Creates a store over this pool.
    pub fn new(pool: impl Into<Pool>) -> Self {
        Self(pool.into())
    }

    /// Plans deliveries; those that exist stay as they are, and those of deleted webhooks are left out. What is for a
    /// disabled webhook is only noted. Returns the number of new ones.
    ///
    /// # Errors
    /// The database's: some may have been planned.
    pub async fn plan(&self, deliveries: &[NewDelivery]) -> Result<u64, Error> {
        // Sorted, so that two publishers cannot deadlock.
        let mut sorted: Vec<&NewDelivery> = deliveries.iter().collect();
        sorted.sort_by(|a, b| (a.webhook_id, &a.event_id).cmp(&(b.webhook_id, &b.event_id)));
        let mut planned = 0;
        for page in sorted.chunks(DELIVERIES_AT_ONCE) {
            planned += self.plan_page(page).await.map_err(error::of)?;
        }
        Ok(planned)
    }

    async fn plan_page(&self, page: &[&NewDelivery]) -> Result<u64, sqlx::Error> {
        let inserted = sqlx::query(
            "INSERT INTO webhook_deliveries (id, webhook_id, order_id, sequence, status, due_at, event_type, event_id, event)
             SELECT n.id, n.webhook_id, n.order_id, n.sequence, CASE WHEN w.is_enabled THEN 'PENDING' ELSE 'SKIPPED' END,
                    CASE WHEN w.is_enabled THEN now() END, n.event_type, n.event_id, n.event
             FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::text[])
                  AS n (id, webhook_id, order_id, sequence, event_type, event_id, event)
                  JOIN webhooks AS w ON w.id = n.webhook_id AND NOT w.is_deleted
             ON CONFLICT (webhook_id, event_id) DO NOTHING",
        )
        .bind(each(page, |new| new.id))
        .bind(each(page, |new| new.webhook_id))
        .bind(each(page, |new| new.order_id))
        .bind(each(page, |new| new.sequence))
        .bind(each(page, |new| new.event_type.as_str()))
        .bind(each(page, |new| new.event_id.as_str()))
        .bind(each(page, |new| new.event.as_str()))
        .execute(&self.0)
        .await?;
        Ok(inserted.rows_affected())
    }

    /// Reads deliveries of a webhook that are due, those that have waited longest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn due(&self, webhook: Uuid, limit: u32) -> Result<Vec<DueDelivery>, Error> {
        sqlx::query_as(
            "SELECT id, order_id, tries, event_type, event,
                    COALESCE(extract(epoch FROM now() - first_tried_at)::float8, 0) AS since_first
             FROM webhook_deliveries WHERE webhook_id = $1 AND due_at <= now() ORDER BY due_at, id LIMIT $2",
        )
        .bind(webhook)
        .bind(i64::from(limit))
        .fetch_all(&self.0)
        .await
        .map_err(error::of)
    }

    /// Stores the result of an attempt.
    ///
    /// # Errors
    /// The database's: it is sent again, with the same id.
    pub async fn record(&self, attempt: &Attempt) -> Result<(), Error> {
        sqlx::query(
            "UPDATE webhook_deliveries
             SET status = $2, due_at = now() + make_interval(secs => $3), answer_status = $4, answer = $5, failure = $6,
                 attempts = attempts + 1, tries = tries + 1, tried_at = now(),
                 first_tried_at = COALESCE(first_tried_at, now())
             WHERE id = $1",
        )
        .bind(attempt.id)
        .bind(attempt.status.as_str())
        .bind(attempt.pause.map(|pause| pause.as_secs_f64()))
        .bind(attempt.answer_status)
        .bind(&attempt.answer)
        .bind(&attempt.failure)
        .execute(&self.0)
        .await
        .map(drop)
        .map_err(error::of)
    }

    /// Reads a delivery of a webhook.
    ///
    /// # Errors
    /// The database's.
    pub async fn get(&self, webhook: Uuid, id: Uuid) -> Result<Option<Delivery>, Error> {
        sqlx::query_as(concat!(
            "SELECT ",
            delivery_columns!(),
            " FROM webhook_deliveries AS d WHERE d.id = $2 AND d.webhook_id = $1"
        ))
        .bind(webhook)
        .bind(id)
        .fetch_optional(&self.0)
        .await
        .map_err(error::of)
    }

    /// Reads the deliveries of a webhook with one of these statuses before this id, the newest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn list(
        &self,
        webhook: Uuid,
        statuses: &[DeliveryStatus],
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<DeliveryPage, Error> {
        let limit = limit.max(1);
        // One range of the index a status.
        let mut items: Vec<Delivery> = sqlx::query_as(concat!(
            "SELECT d.* FROM UNNEST($2::text[]) AS s (status)
             CROSS JOIN LATERAL (
                 SELECT ",
            delivery_columns!(),
            " FROM webhook_deliveries AS d
                 WHERE d.webhook_id = $1 AND d.status = s.status AND d.id < $3
                 ORDER BY d.id DESC LIMIT $4) AS d
             ORDER BY d.id DESC LIMIT $4"
        ))
        .bind(webhook)
        .bind(each(statuses, |status| status.as_str()))
        .bind(before.unwrap_or(Uuid::max()))
        // One row more than is shown is read: it shows whether there are more.
        .bind(i64::from(limit) + 1)
        .fetch_all(&self.0)
        .await
        .map_err(error::of)?;
        let is_last = items.len() <= limit as usize;
        items.truncate(limit as usize);
        let next = items.last().filter(|_| !is_last).map(|delivery| delivery.id);
        Ok(DeliveryPage { items, next })
    }

    /// Sends a delivery again, whatever has become of it; `None` if it does not exist.
    ///
    /// # Errors
    /// The database's.
    pub async fn resend(&self, webhook: Uuid, id: Uuid) -> Result<Option<Delivery>, Error> {
        sqlx::query_as(concat!(
            sent_again!(),
            "WHERE d.id = $2 AND d.webhook_id = $1 RETURNING ",
            delivery_columns!()
        ))
        .bind(webhook)
        .bind(id)
        .fetch_optional(&self.0)
        .await
        .map_err(error::of)
    }

    /// Sends deliveries of a webhook from this id on again, the oldest first and at most `limit`; returns their ids.
    ///
    /// # Errors
    /// The database's.
    pub async fn resend_from(&self, webhook: Uuid, from: Uuid, limit: i64) -> Result<Vec<Uuid>, Error> {
        let mut sent: Vec<Uuid> = sqlx::query_scalar(concat!(
            sent_again!(),
            "WHERE d.id = ANY (ARRAY(
                 SELECT o.id FROM UNNEST(ARRAY['PENDING', 'DELIVERED', 'FAILED', 'SKIPPED']) AS s (status)
                 CROSS JOIN LATERAL (
                     SELECT f.id FROM webhook_deliveries AS f
                     WHERE f.webhook_id = $1 AND f.status = s.status AND f.id >= $2 ORDER BY f.id LIMIT $3) AS o
                 ORDER BY o.id LIMIT $3)) RETURNING d.id"
        ))
        .bind(webhook)
        .bind(from)
        .bind(limit)
        .fetch_all(&self.0)
        .await
        .map_err(error::of)?;
        sent.sort_unstable();
        Ok(sent)
    }

    /// Returns the number of deliveries that are due, counted up to `most`.
    ///
    /// # Errors
    /// The database's.
    pub async fn waiting(&self, most: i64) -> Result<i64, Error> {
        sqlx::query_scalar(
            "SELECT count(*) FROM (
                 SELECT FROM webhooks AS w JOIN webhook_deliveries AS d ON d.webhook_id = w.id AND d.due_at <= now()
                 WHERE w.is_enabled LIMIT $1) AS due",
        )
        .bind(most)
        .fetch_one(&self.0)
        .await
        .map_err(error::of)
    }

    /// Deletes deliveries of events before this id, the oldest first, at most [`DELIVERIES_AT_ONCE`]; returns their
    /// number.
    ///
    /// # Errors
    /// The database's.
    pub async fn expire(&self, before: Uuid) -> Result<u64, Error> {
        self.delete(
            "DELETE FROM webhook_deliveries WHERE id = ANY (ARRAY(
                 SELECT id FROM webhook_deliveries WHERE id < $1 ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED))",
            before,
        )
        .await
    }

    /// Deletes deliveries of deleted webhooks, at most [`DELIVERIES_AT_ONCE`], and then the webhooks that have none;
    /// returns the number of deliveries.
    ///
    /// # Errors
    /// The database's.
    pub async fn clear_deleted(&self) -> Result<u64, Error> {
        let deleted: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM webhooks WHERE is_deleted ORDER BY id")
            .fetch_all(&self.0)
            .await
            .map_err(error::of)?;
        let mut gone = 0;
        for webhook in deleted {
            let went = self
                .delete(
                    "DELETE FROM webhook_deliveries WHERE id = ANY (ARRAY(
                         SELECT id FROM webhook_deliveries WHERE webhook_id = $1 LIMIT $2 FOR UPDATE SKIP LOCKED))",
                    webhook,
                )
                .await?;
            gone += went;
            if went == 0 {
                let row = sqlx::query("DELETE FROM webhooks WHERE id = $1 AND is_deleted").bind(webhook);
                row.execute(&self.0).await.map_err(error::of)?;
            }
        }
        Ok(gone)
    }

    async fn delete(&self, statement: &'static str, id: Uuid) -> Result<u64, Error> {
        let deleted = sqlx::query(statement)
            .bind(id)
            .bind(i64::try_from(DELIVERIES_AT_ONCE).unwrap_or(i64::MAX))
            .execute(&self.0)
            .await
            .map_err(error::of)?;
        Ok(deleted.rows_affected())
    }
}
