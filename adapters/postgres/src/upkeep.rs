//! What is done every so often. Any number of processes may do it at once.

use std::time::Duration;

use amends_engine::core::SagaState;
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

use crate::{
    Error,
    admin::{STATE, state_of},
    error,
};

/// Upkeep of the engine's database.
#[derive(Debug, Clone)]
pub struct Upkeep {
    pool: PgPool,
}

/// How many sagas of a workflow are in a state that is no end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Name of the workflow.
    pub workflow: String,
    /// Running, compensating or parked.
    pub state: SagaState,
    /// So many.
    pub sagas: u64,
    /// Of these, marked as stuck.
    pub stuck: u64,
}

impl Upkeep {
    /// Over these connections.
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Forgets at most `batch` expired idempotency keys; answers how many. As many as `batch`: there may be more.
    ///
    /// # Errors
    /// The database's.
    pub async fn expire_keys(&self, batch: u32) -> Result<u64, Error> {
        let done = sqlx::query(
            "DELETE FROM idempotency_keys WHERE (subject, key) IN (
                 SELECT subject, key FROM idempotency_keys WHERE expires_at <= clock_timestamp()
                 LIMIT $1 FOR UPDATE SKIP LOCKED)",
        )
        .bind(i64::from(batch))
        .execute(&self.pool)
        .await
        .map_err(error::of)?;
        Ok(done.rows_affected())
    }

    /// Makes the partitions of this month and the following ones; answers how many were missing.
    ///
    /// # Errors
    /// The database's.
    pub async fn ensure_partitions(&self, months: u16) -> Result<u64, Error> {
        let made: i32 = sqlx::query_scalar("SELECT ensure_partitions($1)")
            .bind(i32::from(months))
            .fetch_one(&self.pool)
            .await
            .map_err(error::of)?;
        Ok(u64::try_from(made).unwrap_or_default())
    }

    /// Marks live sagas without an outcome that have been where they are for at least so long; answers those that
    /// were not marked before.
    ///
    /// # Errors
    /// The database's.
    pub async fn mark_stuck(&self, older_than: Duration) -> Result<Vec<Uuid>, Error> {
        sqlx::query_scalar(
            "UPDATE sagas SET stuck_at = clock_timestamp()
             WHERE id IN (SELECT id FROM sagas
                          WHERE live AND outcome IS NULL AND stuck_at IS NULL
                            AND since <= clock_timestamp() - make_interval(secs => $1)
                          ORDER BY id FOR UPDATE SKIP LOCKED)
             RETURNING id",
        )
        .bind(older_than.as_secs_f64())
        .fetch_all(&self.pool)
        .await
        .map_err(error::of)
    }

    /// Wakes live sagas that have no time to wake, which should not be; answers which.
    ///
    /// # Errors
    /// The database's.
    pub async fn sweep_missed(&self) -> Result<Vec<Uuid>, Error> {
        sqlx::query_scalar(
            "UPDATE sagas SET wake_at = clock_timestamp()
             WHERE id IN (SELECT id FROM sagas WHERE live AND wake_at IS NULL ORDER BY id FOR UPDATE SKIP LOCKED)
             RETURNING id",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(error::of)
    }

    /// Counts sagas that have not ended, by workflow and state. Ended ones are not counted: that would read them.
    ///
    /// # Errors
    /// The database's.
    pub async fn counts(&self) -> Result<Vec<Count>, Error> {
        let rows: Vec<(String, String, i64, i64)> = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT workflow, {STATE} AS state, count(*), count(*) FILTER (WHERE stuck_at IS NOT NULL)
             FROM (SELECT * FROM sagas WHERE live UNION ALL SELECT * FROM sagas WHERE parked AND NOT live) AS s
             WHERE parked OR outcome IS NULL
             GROUP BY 1, 2 ORDER BY 1, 2"
        )))
        .fetch_all(&self.pool)
        .await
        .map_err(error::of)?;
        let count = |(workflow, state, sagas, stuck): (String, String, i64, i64)| {
            let (sagas, stuck) = (sagas.unsigned_abs(), stuck.unsigned_abs());
            Some(Count { workflow, state: state_of(&state)?, sagas, stuck })
        };
        Ok(rows.into_iter().filter_map(count).collect())
    }
}
