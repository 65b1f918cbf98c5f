//! The keys that sign an engine's commands for this worker: table `command_keys` of the worker's own database, which
//! `amends migrate` writes and only the worker's role may read.

use amends_pool::Pool;
use amends_protocol::{CommandKey, CommandKeys};

use crate::store::Error;

/// Reads the keys that this worker accepts.
///
/// # Errors
/// The database's error, or a malformed key.
pub async fn accepted_keys(pool: impl Into<Pool>) -> Result<CommandKeys, Error> {
    let rows: Vec<(String, String)> =
        sqlx::query_as("SELECT id, key FROM command_keys").fetch_all(&pool.into()).await?;
    rows.into_iter()
        .map(|(id, hex)| {
            let damaged = Error::Poison(format!("command key {id} is damaged"));
            CommandKey::from_hex(id, &hex).map_err(|_| damaged)
        })
        .collect()
}

/// Replaces the keys; run as the database's owner. Each has its stage (`previous`, `current` or `next`), its id and its
/// 64 hexadecimal digits.
///
/// # Errors
/// The database's error; the keys are then unchanged.
pub async fn write_keys(pool: impl Into<Pool>, keys: &[(&str, &str, &str)]) -> Result<(), Error> {
    let mut tx = pool.into().begin().await?;
    sqlx::query("DELETE FROM command_keys").execute(&mut *tx).await?;
    for (stage, id, hex) in keys {
        sqlx::query("INSERT INTO command_keys (stage, id, key) VALUES ($1, $2, $3)")
            .bind(stage)
            .bind(id)
            .bind(hex)
            .execute(&mut *tx)
            .await?;
    }
    Ok(tx.commit().await?)
}
