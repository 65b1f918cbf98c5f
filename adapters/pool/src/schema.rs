//! Checks that a database can be reached and has this program's schema.

use std::{collections::HashMap, io::ErrorKind, time::Duration};

use sqlx::migrate::Migrator;

use crate::{Error, Pool, sqlstate};

/// Checks that the database answers within `patience`.
///
/// # Errors
/// [`Error::Unreachable`].
pub async fn check(pool: &Pool, patience: Duration) -> Result<(), Error> {
    let mut last = sqlx::Error::PoolTimedOut;
    let asked = async {
        loop {
            match sqlx::query("SELECT").execute(pool).await {
                Ok(_) => return Ok(()),
                Err(error) if may_pass(&error) => {
                    tracing::debug!(%error, "waiting");
                    last = error;
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let answer = tokio::time::timeout(patience, asked).await;
    answer.unwrap_or(Err(last)).map_err(Error::Unreachable)
}

/// Returns whether the database may answer later. A certificate that is refused (`InvalidData`) stays so.
fn may_pass(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() != ErrorKind::InvalidData,
        sqlx::Error::PoolTimedOut => true,
        _ => false,
    }
}

/// Checks that this program can run beside the database's schema: either the schema is that of these migrations, or a
/// newer one that allows it (table `schema_compatibility` names the oldest compatible schema).
///
/// # Errors
/// [`Error::Older`], [`Error::Newer`], [`Error::Different`] or [`Error::Unreachable`].
pub async fn is_at(pool: &Pool, migrator: &Migrator) -> Result<(), Error> {
    let applied =
        sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations WHERE success").fetch_all(pool).await;
    let applied: HashMap<i64, Vec<u8>> = match applied {
        Ok(rows) => rows.into_iter().collect(),
        // No such table: the database was never migrated.
        Err(error) if sqlstate::is_undefined_table(&error) => HashMap::new(),
        Err(error) => return Err(Error::Unreachable(error)),
    };
    let known: HashMap<i64, &[u8]> = migrator.iter().map(|m| (m.version, &*m.checksum)).collect();
    if let Some(newer) = applied.keys().filter(|version| !known.contains_key(version)).max() {
        let own = known.keys().max().copied().unwrap_or_default();
        if compatible_from(pool).await?.is_none_or(|oldest| own < oldest) {
            return Err(Error::Newer(*newer));
        }
        tracing::info!(
            schema = newer,
            own,
            "the database is at a newer schema, which this program can run beside"
        );
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

/// Reads the oldest schema whose programs can run beside the database's schema.
async fn compatible_from(pool: &Pool) -> Result<Option<i64>, Error> {
    let oldest = sqlx::query_scalar("SELECT compatible_from FROM schema_compatibility").fetch_optional(pool);
    match oldest.await {
        Ok(oldest) => Ok(oldest),
        Err(error) if sqlstate::is_undefined_table(&error) => Ok(None),
        Err(error) => Err(Error::Unreachable(error)),
    }
}
