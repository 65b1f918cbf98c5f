//! What a database has done so far, by its own counters.

use crate::Pool;

/// Counters of a database. A failover to another server may set them back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Statistics {
    /// Transactions that were committed in the database, by all its clients.
    pub commits: i64,
    /// Bytes of WAL that its server has written, for all its databases.
    pub wal_bytes: i64,
}

/// Reads a database's counters. Every role may.
///
/// # Errors
/// The database's; a standby has no WAL of its own.
pub async fn statistics(pool: &Pool) -> Result<Statistics, sqlx::Error> {
    sqlx::query_as(
        "SELECT pg_stat_get_db_xact_commit((SELECT oid FROM pg_database WHERE datname = current_database())) AS commits,
                pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint AS wal_bytes",
    )
    .fetch_one(pool)
    .await
}
