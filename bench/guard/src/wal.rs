//! A server of the guard's own, and what is written to its log.

use amends_embedded::{Postgres, PostgresOptions};
use amends_pool::Pool;
use anyhow::{Context, Result};

/// A server that writes the same for the same work, whatever else the machine does.
pub struct Server {
    server: Postgres,
    _directory: tempfile::TempDir,
}

/// The WAL of a piece of work.
pub struct Written {
    /// Bytes without full-page images, which depend on when checkpoints happen.
    pub bytes: u64,
    pub commits: u64,
}

impl Server {
    /// Starts a server.
    pub async fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut options = PostgresOptions::new(directory.path().join("postgres"));
        // What is written is the same with commits that wait for the disk. But it must be written when it is looked at.
        options.fsync = false;
        options.settings.push(("synchronous_commit".into(), "on".into()));
        options.settings.push(("autovacuum".into(), "off".into()));
        let server = Postgres::start(options).await?;
        Ok(Self { server, _directory: directory })
    }

    /// A database with these migrations, and the login role that they grant to.
    pub async fn database(&self, name: &'static str, migrator: &sqlx::migrate::Migrator) -> Result<Pool> {
        let admin = amends_pool::connect(&self.server.url("postgres"), 1, "amends-guard")?;
        for sql in [format!("CREATE ROLE amends_{name}"), format!("CREATE DATABASE {name}")] {
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&admin).await?;
        }
        admin.close().await;
        let pool = amends_pool::connect(&self.server.url(name), 2, "amends-guard")?;
        sqlx::query("CREATE EXTENSION pg_walinspect").execute(&pool).await?;
        migrator.run(pool.unbounded()).await?;
        Ok(pool)
    }

    /// Stops the server.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

/// Counts what this work writes. Only one piece of work may run at a time: the WAL is the whole server's.
pub async fn written(pool: &Pool, work: impl Future<Output = Result<()>>) -> Result<Written> {
    sqlx::query("CHECKPOINT").execute(pool).await?;
    let from = position(pool).await?;
    work.await?;
    let to = position(pool).await?;
    let (bytes, commits): (i64, i64) = sqlx::query_as(
        "SELECT (pg_wal_lsn_diff($2::pg_lsn, $1::pg_lsn) - coalesce(sum(fpi_size), 0))::int8,
                coalesce(sum(count) FILTER (WHERE \"resource_manager/record_type\" = 'Transaction/COMMIT'), 0)::int8
         FROM pg_get_wal_stats($1::pg_lsn, $2::pg_lsn, true)",
    )
    .bind(from)
    .bind(to)
    .fetch_one(pool)
    .await
    .context("reading the WAL")?;
    Ok(Written { bytes: bytes.unsigned_abs(), commits: commits.unsigned_abs() })
}

async fn position(pool: &Pool) -> Result<String> {
    Ok(sqlx::query_scalar("SELECT pg_current_wal_flush_lsn()::text").fetch_one(pool).await?)
}
