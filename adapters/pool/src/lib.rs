//! Connections to any of the databases, whether a schema is this program's, and what time it is there.

#![warn(missing_docs)]

mod clock;

use std::{collections::HashMap, str::FromStr, time::Duration};

use sqlx::{
    Connection, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};

pub use clock::DatabaseClock;

/// How long a caller waits for a connection: soon enough for an answer over HTTP.
const ACQUIRE: Duration = Duration::from_secs(3);
/// How long a statement waits for a row that another transaction has locked.
const LOCK_TIMEOUT: &str = "1s";
/// A connection that has rested for so long is asked whether it still lives.
const RESTED: Duration = Duration::from_secs(1);

/// Why a start cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is none.
    #[error("not a Postgres URL: {0}")]
    Url(#[source] sqlx::Error),
    /// It does not answer.
    #[error("the database cannot be reached: {0}")]
    Unreachable(#[source] sqlx::Error),
    /// It has not been migrated to this program's schema.
    #[error("the database is at an older schema than this program: run `amends migrate`")]
    Older,
    /// It was migrated by a newer program.
    #[error("the database is at a newer schema ({0}) than this program: run a newer `amends`")]
    Newer(i64),
    /// A migration is not the one that this program knows by that number.
    #[error("migration {0} of the database is not this program's")]
    Different(i64),
}

/// Connections to a service's database, made when they are first needed. `name` is what the server calls them.
///
/// Its statements find rows by key, in batches whose size the planner cannot know: one plan for all, made for
/// index look-ups, even while the tables are new and small.
///
/// # Errors
/// [`Error::Url`].
pub fn connect(url: &str, max_connections: u32, name: &str) -> Result<PgPool, Error> {
    let options = PgConnectOptions::from_str(url).map_err(Error::Url)?.application_name(name).options([
        ("plan_cache_mode", "force_generic_plan"),
        ("enable_seqscan", "off"),
        // A bitmap scan looks at every dead row again each time; an index scan marks them as it meets them.
        ("enable_bitmapscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("jit", "off"),
        // A row that somebody has forgotten to unlock must not hold up those that need others.
        ("lock_timeout", LOCK_TIMEOUT),
        // A transaction whose client is gone holds what others wait for.
        ("idle_in_transaction_session_timeout", "10s"),
    ]);
    let pool = PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE)
        .test_before_acquire(false)
        .before_acquire(|connection, rest| {
            Box::pin(async move {
                if rest.idle_for > RESTED {
                    connection.ping().await?;
                }
                Ok(true)
            })
        });
    Ok(pool.connect_lazy_with(options))
}

/// Whether the database answers within the time that a start may take.
///
/// # Errors
/// [`Error::Unreachable`].
pub async fn check(pool: &PgPool, patience: Duration) -> Result<(), Error> {
    let asked = async {
        loop {
            match sqlx::query("SELECT").execute(pool).await {
                Ok(_) => return Ok(()),
                Err(error @ (sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut)) => {
                    tracing::debug!(%error, "waiting")
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    match tokio::time::timeout(patience, asked).await {
        Ok(answer) => answer.map_err(Error::Unreachable),
        Err(_) => Err(Error::Unreachable(sqlx::Error::PoolTimedOut)),
    }
}

/// Whether the database is at the schema that these migrations lead to.
///
/// # Errors
/// [`Error::Older`], [`Error::Newer`], [`Error::Different`] or [`Error::Unreachable`].
pub async fn is_at(pool: &PgPool, migrator: &Migrator) -> Result<(), Error> {
    let applied =
        sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations WHERE success").fetch_all(pool).await;
    let applied: HashMap<i64, Vec<u8>> = match applied {
        Ok(rows) => rows.into_iter().collect(),
        // No such table: nothing was ever migrated.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => HashMap::new(),
        Err(error) => return Err(Error::Unreachable(error)),
    };
    let known: HashMap<i64, &[u8]> = migrator.iter().map(|m| (m.version, &*m.checksum)).collect();
    if let Some(newer) = applied.keys().filter(|version| !known.contains_key(version)).max() {
        return Err(Error::Newer(*newer));
    }
    for (version, checksum) in known {
        match applied.get(&version) {
            None => return Err(Error::Older),
            Some(stored) if stored != checksum => return Err(Error::Different(version)),
            Some(_) => {}
        }
    }
    Ok(())
}
