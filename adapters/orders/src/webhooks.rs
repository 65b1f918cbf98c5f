//! Table `webhooks`: where events are sent. How they are delivered is in [`crate::webhook_deliveries`].

mod leases;

use std::time::Duration;

use amends_pool::Pool;
use amends_postgres::{Error, error};
use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

pub use leases::LeasedWebhook;

/// Maximum number of webhooks: each has deliveries of its own under way, whatever happens to the others.
pub const WEBHOOKS_MOST: i64 = 100;

/// A webhook.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Webhook {
    /// UUIDv7.
    pub id: Uuid,
    /// Where events are sent.
    pub url: String,
    /// The types that are sent: exact, or with a trailing `.*`.
    pub types: Vec<String>,
    /// `event` or `snapshot`.
    pub format: String,
    /// Whether anything is sent.
    pub is_enabled: bool,
    /// Why nothing is, if no operator decided so.
    pub disabled_reason: Option<String>,
    /// Until when the previous secret signs too.
    pub previous_until: Option<DateTime<Utc>>,
    /// The number of times that it was set.
    pub revision: i32,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it was set last.
    pub updated_at: DateTime<Utc>,
}

/// A webhook to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewWebhook {
    /// UUIDv7.
    pub id: Uuid,
    /// Where events are sent.
    pub url: String,
    /// The types that are sent.
    pub types: Vec<String>,
    /// `event` or `snapshot`.
    pub format: String,
    /// The secret, sealed.
    pub secret: String,
}

/// Changes of a webhook.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebhookChange {
    /// Another URL.
    pub url: Option<String>,
    /// Other types.
    pub types: Option<Vec<String>>,
    /// Another format.
    pub format: Option<String>,
    /// Enabled or disabled.
    pub is_enabled: Option<bool>,
}

/// What is sent to a webhook.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Subscription {
    /// The webhook.
    pub id: Uuid,
    /// The types that are sent.
    pub types: Vec<String>,
    /// Events before that are not sent.
    pub created_at: DateTime<Utc>,
}

/// The sealed secrets of a webhook.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct SealedSecrets {
    /// The webhook.
    pub id: Uuid,
    /// The secret.
    pub secret: String,
    /// The secret before.
    pub previous_secret: Option<String>,
}

/// A page of webhooks, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebhookPage {
    /// The webhooks.
    pub items: Vec<Webhook>,
    /// The id behind which the next page begins; `None` if this is the last.
    pub next: Option<Uuid>,
}

/// The webhooks in the engine's database.
#[derive(Debug, Clone)]
pub struct WebhookStore(Pool);

/// The columns of [`Webhook`].
macro_rules! webhook_columns {
    () => {
        "w.id, w.url, w.types, w.format, w.is_enabled, w.disabled_reason, w.previous_until, w.revision, w.created_at,
         w.updated_at"
    };
}

impl WebhookStore {
    /// Creates a store over this pool.
    pub fn new(pool: impl Into<Pool>) -> Self {
        Self(pool.into())
    }

    /// Creates a webhook; `None` if there are [`WEBHOOKS_MOST`].
    ///
    /// # Errors
    /// The database's.
    pub async fn create(&self, webhook: &NewWebhook) -> Result<Option<Webhook>, Error> {
        sqlx::query_as(concat!(
            "INSERT INTO webhooks AS w (id, url, types, format, secret)
             SELECT $1, $2, $3, $4, $5 WHERE (SELECT count(*) FROM webhooks WHERE NOT is_deleted) < $6
             RETURNING ",
            webhook_columns!()
        ))
        .bind(webhook.id)
        .bind(&webhook.url)
        .bind(&webhook.types)
        .bind(&webhook.format)
        .bind(&webhook.secret)
        .bind(WEBHOOKS_MOST)
        .fetch_optional(&self.0)
        .await
        .map_err(error::of)
    }

    /// Reads a webhook.
    ///
    /// # Errors
    /// The database's.
    pub async fn get(&self, id: Uuid) -> Result<Option<Webhook>, Error> {
        sqlx::query_as(concat!(
            "SELECT ",
            webhook_columns!(),
            " FROM webhooks AS w WHERE w.id = $1 AND NOT w.is_deleted"
        ))
        .bind(id)
        .fetch_optional(&self.0)
        .await
        .map_err(error::of)
    }

    /// Reads the webhooks behind this id, the oldest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn list(&self, after: Uuid, limit: u32) -> Result<WebhookPage, Error> {
        let limit = limit.max(1);
        let mut items: Vec<Webhook> = sqlx::query_as(concat!(
            "SELECT ",
            webhook_columns!(),
            " FROM webhooks AS w WHERE w.id > $1 AND NOT w.is_deleted ORDER BY w.id LIMIT $2"
        ))
        .bind(after)
        // One row more than is shown is read: it shows whether there are more.
        .bind(i64::from(limit) + 1)
        .fetch_all(&self.0)
        .await
        .map_err(error::of)?;
        let is_last = items.len() <= limit as usize;
        items.truncate(limit as usize);
        let next = items.last().filter(|_| !is_last).map(|webhook| webhook.id);
        Ok(WebhookPage { items, next })
    }

    /// Changes a webhook if it still has this revision; `None` if it has another, or does not exist. One that is enabled
    /// begins anew: its earlier failures are forgotten.
    ///
    /// # Errors
    /// The database's.
    pub async fn change(
        &self,
        id: Uuid,
        revision: i32,
        change: &WebhookChange,
    ) -> Result<Option<Webhook>, Error> {
        sqlx::query_as(concat!(
            "UPDATE webhooks AS w
             SET url = COALESCE($3, w.url), types = COALESCE($4, w.types), format = COALESCE($5, w.format),
                 is_enabled = COALESCE($6, w.is_enabled),
                 disabled_reason = CASE WHEN $6 IS NULL THEN w.disabled_reason END,
                 failing_since = CASE WHEN $6 IS NULL THEN w.failing_since END,
                 revision = w.revision + 1, updated_at = now()
             WHERE w.id = $1 AND w.revision = $2 AND NOT w.is_deleted
             RETURNING ",
            webhook_columns!()
        ))
        .bind(id)
        .bind(revision)
        .bind(&change.url)
        .bind(&change.types)
        .bind(&change.format)
        .bind(change.is_enabled)
        .fetch_optional(&self.0)
        .await
        .map_err(error::of)
    }

    /// Gives a webhook another secret, if it still has this revision; `None` if it has another, or does not exist. Its
    /// present one goes on signing for `overlap`.
    ///
    /// # Errors
    /// The database's.
    pub async fn rotate(
        &self,
        id: Uuid,
        revision: i32,
        secret: &str,
        overlap: Duration,
    ) -> Result<Option<Webhook>, Error> {
        sqlx::query_as(concat!(
            "UPDATE webhooks AS w
             SET previous_secret = w.secret, previous_until = now() + make_interval(secs => $4), secret = $3,
                 revision = w.revision + 1, updated_at = now()
             WHERE w.id = $1 AND w.revision = $2 AND NOT w.is_deleted
             RETURNING ",
            webhook_columns!()
        ))
        .bind(id)
        .bind(revision)
        .bind(secret)
        .bind(overlap.as_secs_f64())
        .fetch_optional(&self.0)
        .await
        .map_err(error::of)
    }

    /// Deletes a webhook, if it still has this revision; returns whether it had. Its secrets and URL go at once, its
    /// deliveries page by page, and then the row.
    ///
    /// # Errors
    /// The database's.
    pub async fn delete(&self, id: Uuid, revision: i32) -> Result<bool, Error> {
        let deleted = sqlx::query(
            "UPDATE webhooks SET is_deleted = true, is_enabled = false, secret = '', previous_secret = NULL, url = '',
                                 revision = revision + 1, updated_at = now()
             WHERE id = $1 AND revision = $2 AND NOT is_deleted",
        )
        .bind(id)
        .bind(revision)
        .execute(&self.0)
        .await
        .map_err(error::of)?;
        Ok(deleted.rows_affected() > 0)
    }

    /// Reads what is sent to each webhook.
    ///
    /// # Errors
    /// The database's.
    pub async fn subscriptions(&self) -> Result<Vec<Subscription>, Error> {
        sqlx::query_as("SELECT id, types, created_at FROM webhooks WHERE NOT is_deleted ORDER BY id")
            .fetch_all(&self.0)
            .await
            .map_err(error::of)
    }

    /// Reads the sealed secrets of all webhooks.
    ///
    /// # Errors
    /// The database's.
    pub async fn sealed_secrets(&self) -> Result<Vec<SealedSecrets>, Error> {
        sqlx::query_as("SELECT id, secret, previous_secret FROM webhooks WHERE NOT is_deleted")
            .fetch_all(&self.0)
            .await
            .map_err(error::of)
    }

    /// Replaces sealed secrets by the same ones, sealed with another key, unless they have changed.
    ///
    /// # Errors
    /// The database's.
    pub async fn reseal(&self, before: &SealedSecrets, after: &SealedSecrets) -> Result<(), Error> {
        sqlx::query(
            "UPDATE webhooks SET secret = $4, previous_secret = $5
             WHERE id = $1 AND secret = $2 AND previous_secret IS NOT DISTINCT FROM $3",
        )
        .bind(before.id)
        .bind(&before.secret)
        .bind(&before.previous_secret)
        .bind(&after.secret)
        .bind(&after.previous_secret)
        .execute(&self.0)
        .await
        .map(drop)
        .map_err(error::of)
    }
}
