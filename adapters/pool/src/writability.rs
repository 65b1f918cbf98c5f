//! Whether the database accepts writes: the basis of a role's readiness.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::{Pool, calls::is_unanswered, sqlstate};

/// How long the check waits for a connection, and then for the answer.
const CHECK_BOUND: Duration = Duration::from_secs(1);

/// Writes to the log and, because `work_mem` is small, to a file beside the tables: both fail on a full disk. A
/// read-only session writes nothing.
const WRITE: &str =
    "SELECT COALESCE(may_write AND pg_logical_emit_message(true, 'amends', 'ready') IS NOT NULL, false)
            AND (SELECT count(*) FROM generate_series(1, 5000)) > 0
     FROM (SELECT NOT current_setting('transaction_read_only')::bool AS may_write) AS session";

/// Why a database accepts no writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    /// The database cannot be reached, or does not answer.
    #[error("down")]
    Down,
    /// Calls of this process wait for answers on connections that have gone silent.
    #[error("silent")]
    Silent,
    /// The database is a standby, or its sessions are read-only.
    #[error("read-only")]
    ReadOnly,
    /// The disk is full.
    #[error("full")]
    Full,
}

/// Checks whether a pool's database accepts writes, on a connection of its own, because the pool's may all be busy.
#[derive(Debug, Clone)]
pub struct WriteCheck {
    watched: Pool,
    own: Pool,
}

impl WriteCheck {
    /// Creates a check of this pool's database.
    pub fn of(watched: &Pool) -> Self {
        let connections = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(CHECK_BOUND)
            .test_before_acquire(false)
            .connect_lazy_with(options_of(watched));
        let own = Pool { call_bound: CHECK_BOUND, ..Pool::from(connections) };
        Self { watched: watched.clone(), own }
    }

    /// Checks that the database accepts writes, and that this process's calls get answers.
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
                tracing::debug!(%error, "the database does not accept writes");
                Err(if sqlstate::is_disk_full(&error) { Unwritable::Full } else { Unwritable::Down })
            }
        }
    }

    /// Writes; returns whether the session may write.
    async fn write(&self) -> Result<bool, sqlx::Error> {
        // The watched pool's password may have changed.
        self.own.unbounded().set_connect_options(options_of(&self.watched));
        let mut connection = self.own.acquire().await?;
        if self.watched.calls.is_read_only() {
            // The rights of this session were fixed when it began; the next check opens a new one.
            connection.distrust();
            drop(connection);
            connection = self.own.acquire().await?;
        }
        let may_write: bool = sqlx::query_scalar(WRITE).fetch_one(&mut connection).await?;
        Ok(may_write)
    }
}

/// Returns the options of the check's connection: those of the watched pool.
fn options_of(watched: &Pool) -> PgConnectOptions {
    let options = PgConnectOptions::clone(&watched.unbounded().connect_options());
    options.options([("work_mem", "64kB")])
}
