//! Short lists for operators: what wakes next, effects without an order, and which versions of workflows live on.

use std::cmp::Reverse;

use amends_engine::core::Saga;
use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, FromRow};
use uuid::Uuid;

use crate::{
    Database,
    admin::{Admin, ListError, OPEN},
    homes::each_home,
    sagas::{COLUMNS, SagaRow},
};

/// How many sagas of a version of a workflow have not ended.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct LiveVersion {
    /// Name of the workflow.
    pub workflow: String,
    /// Version of the workflow.
    pub workflow_version: i32,
    /// The number of its sagas that have not ended.
    pub sagas: i64,
}

/// A saga that will be woken.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Timer {
    /// The saga.
    pub saga_id: Uuid,
    /// The business key.
    pub business_key: String,
    /// Name of the workflow.
    pub workflow: String,
    /// Version of the workflow.
    pub workflow_version: i32,
    /// The public label.
    pub label: String,
    /// The current step.
    pub step: String,
    /// When it is woken.
    pub wake_at: DateTime<Utc>,
}

/// A success that no saga ordered.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct StrayReply {
    /// The saga that the reply names. It need not exist.
    pub saga_id: Uuid,
    /// The command that the reply names.
    pub command_id: Uuid,
    /// When it was kept.
    pub received_at: DateTime<Utc>,
    /// The whole reply, as JSON.
    pub reply: String,
}

/// Sagas that stand still.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StandingStill {
    /// Those that are parked or stuck, the newest first.
    pub sagas: Vec<Saga>,
    /// Whether there are no others.
    pub is_complete: bool,
}

impl Admin {
    /// Reads sagas that are parked or stuck, at most so many of each home. Those that this program cannot read are left
    /// out.
    ///
    /// # Errors
    /// [`ListError`].
    pub async fn standing_still(&self, most: u32) -> Result<StandingStill, ListError> {
        let Database { pool, homes, .. } = &self.database;
        let of_home = |home: i16, ()| async move {
            // Each condition is that of an index.
            let sql = format!(
                "(SELECT {COLUMNS} FROM sagas AS s
                  WHERE ($1::int2 IS NULL OR s.home = $1) AND s.parked ORDER BY s.id DESC LIMIT $2)
                 UNION ALL
                 (SELECT {COLUMNS} FROM sagas AS s
                  WHERE ($1::int2 IS NULL OR s.home = $1) AND {OPEN} AND s.live AND NOT s.parked
                    AND s.stuck_at IS NOT NULL ORDER BY s.id DESC LIMIT $2)"
            );
            sqlx::query_as(AssertSqlSafe(sql))
                .bind(home)
                .bind(i64::from(most))
                .fetch_all(pool)
                .await
                .map_err(ListError::from)
        };
        let rows: Vec<Vec<SagaRow>> = each_home(homes.all().map(|home| (home, ())), of_home).await?;
        let is_complete = rows.iter().all(|rows| rows.len() < most as usize);
        let mut sagas: Vec<Saga> = rows.into_iter().flatten().filter_map(|row| row.read().ok()).collect();
        sagas.sort_by_key(|saga| Reverse(saga.id));
        Ok(StandingStill { sagas, is_complete })
    }

    /// Counts the sagas that have not ended, by version of their workflow.
    ///
    /// # Errors
    /// [`ListError`].
    pub async fn live_versions(&self) -> Result<Vec<LiveVersion>, ListError> {
        let Database { pool, homes, .. } = &self.database;
        let of_home = |home: i16, ()| async move {
            let sql = format!(
                "SELECT s.workflow, s.workflow_version, count(*) AS sagas FROM sagas AS s
                 WHERE ($1::int2 IS NULL OR s.home = $1) AND {OPEN} GROUP BY 1, 2"
            );
            sqlx::query_as(AssertSqlSafe(sql)).bind(home).fetch_all(pool).await.map_err(ListError::from)
        };
        let counted: Vec<Vec<LiveVersion>> = each_home(homes.all().map(|home| (home, ())), of_home).await?;
        let mut sums: Vec<LiveVersion> = Vec::new();
        for version in counted.into_iter().flatten() {
            let same = |sum: &&mut LiveVersion| {
                (&sum.workflow, sum.workflow_version) == (&version.workflow, version.workflow_version)
            };
            match sums.iter_mut().find(same) {
                Some(sum) => sum.sagas += version.sagas,
                None => sums.push(version),
            }
        }
        Ok(sums)
    }

    /// Lists the sagas that are woken next, the earliest first.
    ///
    /// # Errors
    /// [`ListError`].
    pub async fn timers(&self, limit: u32) -> Result<Vec<Timer>, ListError> {
        let Database { pool, homes, .. } = &self.database;
        let of_home = |home: i16, ()| async move {
            sqlx::query_as(
                "SELECT s.id AS saga_id, s.business_key, s.workflow, s.workflow_version, s.label, s.step, s.wake_at
                 FROM sagas AS s
                 WHERE ($1::int2 IS NULL OR s.home = $1) AND s.live AND s.wake_at IS NOT NULL
                 ORDER BY s.wake_at LIMIT $2",
            )
            .bind(home)
            .bind(i64::from(limit))
            .fetch_all(pool)
            .await
            .map_err(ListError::from)
        };
        let found: Vec<Vec<Timer>> = each_home(homes.all().map(|home| (home, ())), of_home).await?;
        let mut timers: Vec<Timer> = found.into_iter().flatten().collect();
        timers.sort_by_key(|timer| (timer.wake_at, timer.saga_id));
        timers.truncate(limit as usize);
        Ok(timers)
    }

    /// Lists successes that no saga ordered, those of the newest sagas first.
    ///
    /// # Errors
    /// [`ListError`].
    pub async fn strays(&self, limit: u32) -> Result<Vec<StrayReply>, ListError> {
        let Database { pool, homes, .. } = &self.database;
        let of_home = |home: i16, ()| async move {
            sqlx::query_as(
                "SELECT s.saga_id, s.command_id, s.received_at, s.reply FROM strays AS s
                 WHERE ($1::int2 IS NULL OR s.home = $1) ORDER BY s.saga_id DESC, s.command_id DESC LIMIT $2",
            )
            .bind(home)
            .bind(i64::from(limit))
            .fetch_all(pool)
            .await
            .map_err(ListError::from)
        };
        let found: Vec<Vec<StrayReply>> = each_home(homes.all().map(|home| (home, ())), of_home).await?;
        let mut strays: Vec<StrayReply> = found.into_iter().flatten().collect();
        strays.sort_by_key(|stray| Reverse((stray.saga_id, stray.command_id)));
        strays.truncate(limit as usize);
        Ok(strays)
    }
}
