//! Table `plans`: what operators have planned, until it is applied or expires.

use std::time::Duration;

use amends_pool::Pool;
use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use crate::{Error, error};

/// A planned action on a saga.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct StoredPlan {
    /// The hash by which it is known.
    pub hash: String,
    /// The saga.
    pub saga_id: Uuid,
    /// The revision of the saga at which it is applied.
    pub revision: i32,
    /// The event that it applies, as JSON.
    pub event: String,
    /// Who has planned it.
    pub planned_by: String,
    /// When it can no longer be applied.
    pub expires_at: DateTime<Utc>,
    /// Whether it has expired, by the database's clock.
    pub has_expired: bool,
    /// The answer to its application, as JSON; `None` if it has not been applied.
    pub answer: Option<String>,
}

/// A plan to store.
#[derive(Debug, Clone, Copy)]
pub struct NewPlan<'a> {
    /// The hash by which it is known.
    pub hash: &'a str,
    /// The saga.
    pub saga_id: Uuid,
    /// The revision of the saga at which it is applied.
    pub revision: u32,
    /// The event that it applies, as JSON.
    pub event: &'a str,
    /// Who has planned it.
    pub planned_by: &'a str,
}

/// Stores a plan for this long, and returns when it expires. The same plan again lives longer. Plans that have expired
/// a day ago are deleted, a few at a time.
///
/// # Errors
/// The database's.
pub async fn keep(pool: &Pool, plan: NewPlan<'_>, lifetime: Duration) -> Result<DateTime<Utc>, Error> {
    sqlx::query(
        "DELETE FROM plans WHERE hash IN (
             SELECT hash FROM plans WHERE expires_at < now() - interval '1 day' ORDER BY expires_at LIMIT 100)",
    )
    .execute(pool)
    .await
    .map_err(error::of)?;
    sqlx::query_scalar(
        "INSERT INTO plans (hash, saga_id, revision, event, planned_by, expires_at)
         VALUES ($1, $2, $3, $4, $5, clock_timestamp() + make_interval(secs => $6))
         ON CONFLICT (hash) DO UPDATE SET expires_at = EXCLUDED.expires_at
         RETURNING expires_at",
    )
    .bind(plan.hash)
    .bind(plan.saga_id)
    .bind(i32::try_from(plan.revision).unwrap_or(i32::MAX))
    .bind(plan.event)
    .bind(plan.planned_by)
    .bind(lifetime.as_secs_f64())
    .fetch_one(pool)
    .await
    .map_err(error::of)
}

/// Reads a plan.
///
/// # Errors
/// The database's.
pub async fn get(pool: &Pool, hash: &str) -> Result<Option<StoredPlan>, Error> {
    sqlx::query_as(
        "SELECT hash, saga_id, revision, event, planned_by, expires_at, expires_at <= clock_timestamp() AS has_expired,
                answer
         FROM plans WHERE hash = $1",
    )
    .bind(hash)
    .fetch_optional(pool)
    .await
    .map_err(error::of)
}

/// Records the answer to a plan's application, unless there is one; returns the first.
///
/// # Errors
/// The database's.
pub async fn answered(pool: &Pool, hash: &str, answer: &str) -> Result<Option<String>, Error> {
    sqlx::query_scalar("UPDATE plans SET answer = coalesce(answer, $2) WHERE hash = $1 RETURNING answer")
        .bind(hash)
        .bind(answer)
        .fetch_optional(pool)
        .await
        .map_err(error::of)
}
