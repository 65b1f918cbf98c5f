//! What Postgres says of itself: WAL, commits, statements.

use std::{collections::BTreeMap, fs};

use amends_proof::deployment::{DATABASES, Deployment};
use anyhow::{Context, Result};
use serde::Serialize;
use sqlx::{FromRow, PgPool};

/// Counters that only grow.
#[derive(Debug, Clone, Serialize)]
pub struct Counters {
    /// The WAL's position.
    pub lsn: String,
    /// Transactions that ended well, reading ones too, by database. Backends report them up to a second late.
    pub transactions: BTreeMap<String, i64>,
}

/// What the WAL of a window holds.
#[derive(Debug, Clone, Copy, Default, Serialize, FromRow)]
pub struct Wal {
    pub bytes: i64,
    /// Commit records: transactions that wrote something, in any database.
    pub commits: i64,
    pub records: i64,
    /// Whole pages, written when a page is first changed after a checkpoint.
    pub full_page_bytes: i64,
}

impl Wal {
    /// Scales all counts by a factor.
    pub fn times(self, factor: f64) -> Self {
        let times = |count: i64| (count as f64 * factor).round() as i64;
        Self {
            bytes: times(self.bytes),
            commits: times(self.commits),
            records: times(self.records),
            full_page_bytes: times(self.full_page_bytes),
        }
    }
}

/// A statement's cost over a window.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct Statement {
    #[sqlx(skip)]
    pub database: String,
    pub calls: i64,
    pub total_ms: f64,
    pub mean_ms: f64,
    pub rows: i64,
    pub wal_bytes: i64,
    pub query: String,
}

/// Connections for the meter's own queries.
pub struct Meter {
    pool: PgPool,
    databases: BTreeMap<&'static str, PgPool>,
}

/// The server's first process.
pub fn postmaster(deployment: &Deployment) -> Result<u32> {
    let directory = deployment.server.directory().context("the server is not the deployment's own")?;
    let file = directory.join("cluster/postmaster.pid");
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    text.lines().next().and_then(|line| line.trim().parse().ok()).context("postmaster.pid")
}

impl Meter {
    /// A meter of a deployment's server.
    pub async fn of(deployment: &Deployment) -> Result<Self> {
        let pool = deployment.pool("engine");
        sqlx::query("CREATE EXTENSION IF NOT EXISTS pg_walinspect").execute(&pool).await?;
        let databases = DATABASES.iter().map(|name| (*name, deployment.pool(name))).collect();
        Ok(Self { pool, databases })
    }

    /// Reads the counters.
    pub async fn read(&self) -> Result<Counters> {
        let lsn = sqlx::query_scalar("SELECT pg_current_wal_flush_lsn()::text").fetch_one(&self.pool).await?;
        let transactions: Vec<(String, i64)> = sqlx::query_as(
            "SELECT datname::text, xact_commit FROM pg_stat_database WHERE datname LIKE 'amends%'",
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(Counters { lsn, transactions: transactions.into_iter().collect() })
    }

    /// What was written between the two.
    pub async fn wal(&self, from: &Counters, to: &Counters) -> Result<Wal> {
        let commits =
            "\"resource_manager/record_type\" IN ('Transaction/COMMIT', 'Transaction/COMMIT_PREPARED')";
        let sql = format!(
            "SELECT pg_wal_lsn_diff($2::pg_lsn, $1::pg_lsn)::int8 AS bytes,
                    coalesce(sum(count) FILTER (WHERE {commits}), 0)::int8 AS commits,
                    coalesce(sum(count), 0)::int8 AS records, coalesce(sum(fpi_size), 0)::int8 AS full_page_bytes
             FROM pg_get_wal_stats($1::pg_lsn, $2::pg_lsn, true)"
        );
        let wal =
            sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(&from.lsn).bind(&to.lsn).fetch_one(&self.pool);
        wal.await.context("reading the WAL")
    }

    /// Resets the statement counters.
    pub async fn watch_statements(&self) -> Result<()> {
        for pool in self.databases.values() {
            sqlx::query("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").execute(pool).await?;
        }
        sqlx::query("SELECT pg_stat_statements_reset()").execute(&self.pool).await?;
        Ok(())
    }

    /// The most expensive statements since the reset, by database.
    pub async fn statements(&self, most: i32) -> Result<Vec<Statement>> {
        let mut all = Vec::new();
        for (name, pool) in &self.databases {
            let rows: Vec<Statement> = sqlx::query_as(
                "SELECT calls, total_exec_time AS total_ms, mean_exec_time AS mean_ms, rows, wal_bytes::int8 AS wal_bytes,
                        regexp_replace(query, '\\s+', ' ', 'g') AS query
                 FROM pg_stat_statements
                 WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
                 ORDER BY total_exec_time DESC LIMIT $1",
            )
            .bind(most)
            .fetch_all(pool)
            .await?;
            all.extend(rows.into_iter().map(|row| Statement { database: (*name).to_owned(), ..row }));
        }
        Ok(all)
    }
}
