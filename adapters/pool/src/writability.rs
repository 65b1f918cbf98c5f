//! Whether the database takes writes: what a role's readiness means.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::{Pool, calls::is_unanswered, sqlstate};

/// How long the check waits for a connection, and then for the answer.
const CHECK_BOUND: Duration = Duration::from_secs(1);

/// Writes to the log and, since `work_mem` is small, to a file beside the tables: what a full disk refuses. A session
/// that may not write is not asked to.
const WRITE: &str =
    "SELECT COALESCE(may_write AND pg_logical_emit_message(true, 'amends', 'ready') IS NOT NULL, false)
            AND (SELECT count(*) FROM generate_series(1, 5000)) > 0
     FROM (SELECT NOT current_setting('transaction_read_only')::bool AS may_write) AS session";

/// Why a database takes no writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    /// It cannot be reached, or does not answer.
    #[error("down")]
    Down,
    /// Calls of this process wait for answers on connections that have gone silent.
    #[error("silent")]
    Silent,
    /// It is a standby, or its sessions are read-only.
    #[error("read-only")]
    ReadOnly,
    /// There is no room on its disk.
    #[error("full")]
    Full,
}

/// Asks whether a pool's database takes writes, on a connection of its own: the pool's may all be busy.
#[derive(Debug, Clone)]
pub struct WriteCheck {
    watched: Pool,
    own: Pool,
}

impl WriteCheck {
    /// A check of this pool's database.
    pub fn of(watched: &Pool) -> Self {
        let options = PgConnectOptions::clone(&watched.unbounded().connect_options());
        let connections = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(CHECK_BOUND)
            .test_before_acquire(false)
            .connect_lazy_with(options.options([("work_mem", "64kB")]));
        let own = Pool { call_bound: CHECK_BOUND, ..Pool::from(connections) };
        Self { watched: watched.clone(), own }
    }

    /// Whether the database takes writes, and this process's calls get answers.
    ///
    /// # Errors
    /// [`Unwritable`].
    pub async fn run(&self) -> Result<(), Unwritable> {
        let written = match self.write().await {
            // The connection ended while it was idle.
            Err(error) if sqlstate::ends_connection(&error) && !is_unanswered(&error) => self.write().await,
            written => written,
        };
        if written.as_ref().is_err_and(is_unanswered) {
            self.watched.calls.note_silence();
        }
        if let Ok(may_write) = written {
            self.watched.calls.note_may_write(may_write);
        }
        if self.watched.calls.waits_in_vain() {
            return Err(Unwritable::Silent);
        }
        if self.watched.calls.met_full_disk() {
            return Err(Unwritable::Full);
        }
        match written {
            Ok(true) => Ok(()),
            Ok(false) => Err(Unwritable::ReadOnly),
            Err(error) => {
                tracing::debug!(%error, "the database takes no writes");
                Err(if sqlstate::is_disk_full(&error) { Unwritable::Full } else { Unwritable::Down })
            }
        }
    }

    /// Writes; answers whether the session may.
    async fn write(&self) -> Result<bool, sqlx::Error> {
        let mut connection = self.own.acquire().await?;
        if self.watched.calls.is_read_only() {
            // What this session may was settled when it began: one that begins now is asked.
            connection.distrust();
            drop(connection);
            connection = self.own.acquire().await?;
        }
        let may_write: bool = sqlx::query_scalar(WRITE).fetch_one(&mut connection).await?;
        Ok(may_write)
    }
}
