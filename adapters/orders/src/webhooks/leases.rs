//! Which process delivers to a webhook, and what its attempts have shown of the receiver.

use std::time::Duration;

use amends_postgres::{Error, error};
use sqlx::FromRow;
use uuid::Uuid;

use super::WebhookStore;

/// A webhook that this process delivers to.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct LeasedWebhook {
    /// The webhook.
    pub id: Uuid,
    /// Where events are sent.
    pub url: String,
    /// `event` or `snapshot`.
    pub format: String,
    /// The secret, sealed.
    pub secret: String,
    /// The secret before, sealed, while it signs too.
    pub previous_secret: Option<String>,
}

/// The columns of [`LeasedWebhook`].
macro_rules! leased_columns {
    () => {
        "w.id, w.url, w.format, w.secret,
         CASE WHEN w.previous_until > now() THEN w.previous_secret END AS previous_secret"
    };
}

impl WebhookStore {
    /// Leases webhooks that have something to send and are not leased, at most `limit`.
    ///
    /// # Errors
    /// The database's.
    pub async fn lease(&self, owner: Uuid, lease: Duration, limit: u32) -> Result<Vec<LeasedWebhook>, Error> {
        sqlx::query_as(concat!(
            "UPDATE webhooks AS w SET leased_by = $1, leased_until = now() + make_interval(secs => $2)
             WHERE w.id = ANY (ARRAY(
                 SELECT c.id FROM webhooks AS c
                 WHERE c.is_enabled AND (c.leased_until IS NULL OR c.leased_until <= now())
                   AND EXISTS (SELECT FROM webhook_deliveries AS d WHERE d.webhook_id = c.id AND d.due_at <= now())
                 LIMIT $3 FOR UPDATE SKIP LOCKED))
             RETURNING ",
            leased_columns!()
        ))
        .bind(owner)
        .bind(lease.as_secs_f64())
        .bind(i64::from(limit))
        .fetch_all(&self.0)
        .await
        .map_err(error::of)
    }

    /// Renews a lease, and reads the webhook as it is now; `None` if the lease is lost, or nothing may be sent any more.
    ///
    /// # Errors
    /// The database's.
    pub async fn renew(
        &self,
        owner: Uuid,
        id: Uuid,
        lease: Duration,
    ) -> Result<Option<LeasedWebhook>, Error> {
        sqlx::query_as(concat!(
            "UPDATE webhooks AS w SET leased_until = now() + make_interval(secs => $3)
             WHERE w.id = $2 AND w.leased_by = $1 AND w.is_enabled
             RETURNING ",
            leased_columns!()
        ))
        .bind(owner)
        .bind(id)
        .bind(lease.as_secs_f64())
        .fetch_optional(&self.0)
        .await
        .map_err(error::of)
    }

    /// Ends a lease.
    ///
    /// # Errors
    /// The database's: the lease then ends by itself.
    pub async fn release(&self, owner: Uuid, id: Uuid) -> Result<(), Error> {
        sqlx::query(
            "UPDATE webhooks SET leased_by = NULL, leased_until = NULL WHERE id = $2 AND leased_by = $1",
        )
        .bind(owner)
        .bind(id)
        .execute(&self.0)
        .await
        .map(drop)
        .map_err(error::of)
    }

    /// Notes that an attempt has succeeded.
    ///
    /// # Errors
    /// The database's.
    pub async fn note_success(&self, id: Uuid) -> Result<(), Error> {
        sqlx::query("UPDATE webhooks SET failing_since = NULL WHERE id = $1 AND failing_since IS NOT NULL")
            .bind(id)
            .execute(&self.0)
            .await
            .map(drop)
            .map_err(error::of)
    }

    /// Notes that an attempt has failed. Disables the webhook, with this reason, if all have for `patience`; returns
    /// whether it did.
    ///
    /// # Errors
    /// The database's.
    pub async fn note_failure(&self, id: Uuid, patience: Duration, reason: &str) -> Result<bool, Error> {
        sqlx::query("UPDATE webhooks SET failing_since = now() WHERE id = $1 AND failing_since IS NULL")
            .bind(id)
            .execute(&self.0)
            .await
            .map_err(error::of)?;
        let disabled = sqlx::query(
            "UPDATE webhooks SET is_enabled = false, disabled_reason = $3, revision = revision + 1,
                                 updated_at = now()
             WHERE id = $1 AND is_enabled AND failing_since <= now() - make_interval(secs => $2)",
        )
        .bind(id)
        .bind(patience.as_secs_f64())
        .bind(reason)
        .execute(&self.0)
        .await
        .map_err(error::of)?;
        Ok(disabled.rows_affected() > 0)
    }
}
