//! The keys by which a worker knows the commands of its engine: table `command_keys` of its own database, which
//! `amends migrate` writes and only the worker's role may read.

use amends_pool::Pool;
use amends_protocol::{CommandKey, CommandKeys};

use crate::store::Error;

/// The keys that this worker accepts.
///
/// # Errors
/// What the database says, or a key that is none.
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

/// Replaces the keys; as the database's owner. Each has its stage (`previous`, `current` or `next`), its id and its 64
/// hexadecimal digits.
///
/// # Errors
/// What the database says; then the keys are what they were.
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
