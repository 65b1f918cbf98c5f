//! Plain SQL in one backend. Frozen: what is measured against it stays comparable only if it stays as it is.

use std::time::{Duration, Instant};

use anyhow::Result;
use sqlx::PgPool;

const SQL: &str = include_str!("reference.sql");
const WARM_UP: i32 = 20;
/// Batches a call of the function writes.
const BATCHES: i32 = 20;
const SAGAS: i32 = 500;
const LONG: Duration = Duration::from_secs(6);

/// Sagas a second.
pub async fn measure(database: &PgPool) -> Result<f64> {
    sqlx::raw_sql(SQL).execute(database).await?;
    let run = |batches: i32| sqlx::query("CALL reference($1)").bind(batches).execute(database);
    run(WARM_UP).await?;
    let (begun, mut batches) = (Instant::now(), 0);
    while begun.elapsed() < LONG {
        run(BATCHES).await?;
        batches += BATCHES;
    }
    Ok(f64::from(batches * SAGAS) / begun.elapsed().as_secs_f64())
}
