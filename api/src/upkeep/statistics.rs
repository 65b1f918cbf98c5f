//! Counters of a database, as metrics.

use std::time::Duration;

use amends_pool::{Pool, Statistics, statistics};

use super::Piece;

/// Adds to the metrics what a database has committed and written since the last run.
pub struct CountWrites {
    pool: Pool,
    database: &'static str,
    last: Option<Statistics>,
}

impl CountWrites {
    /// Begins to count with the first run.
    pub fn of(database: &'static str, pool: Pool) -> Self {
        Self { pool, database, last: None }
    }
}

impl Piece for CountWrites {
    const PERIOD: Duration = Duration::from_secs(5);
    type Error = sqlx::Error;

    fn name(&self) -> &'static str {
        "statistics of the database"
    }

    async fn run_once(&mut self) -> Result<(), sqlx::Error> {
        let now = statistics(&self.pool).await?;
        let last = self.last.replace(now).unwrap_or(now);
        // After a failover the counters of another server may be lower.
        let risen = |now: i64, last: i64| u64::try_from(now.saturating_sub(last)).unwrap_or_default();
        let (commits, bytes) = (risen(now.commits, last.commits), risen(now.wal_bytes, last.wal_bytes));
        metrics::counter!("amends_database_commits_total", "database" => self.database).increment(commits);
        metrics::counter!("amends_database_wal_bytes_total", "database" => self.database).increment(bytes);
        Ok(())
    }
}
