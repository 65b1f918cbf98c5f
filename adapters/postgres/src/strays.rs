//! Table `strays`: successes that no saga ordered.

use amends_engine::port::Stray;
use amends_pool::Pool;

use crate::{Database, Error, columns::each, error, homes::each_home};

/// Stores each stray once.
pub(crate) async fn keep(Database { pool, homes, .. }: &Database, strays: &[Stray]) -> Result<(), Error> {
    let mut strays: Vec<&Stray> = strays.iter().collect();
    strays.sort_by_key(|stray| (stray.saga_id, stray.command_id));
    let parts = homes.divide(strays, |stray| homes.of(stray.saga_id));
    each_home(parts, |home, strays| keep_home(pool, home, strays)).await?;
    Ok(())
}

async fn keep_home(pool: &Pool, home: i16, strays: Vec<&Stray>) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO strays (home, saga_id, command_id, reply)
         SELECT $1, w.* FROM UNNEST($2::uuid[], $3::uuid[], $4::text[]) AS w
         ON CONFLICT (saga_id, command_id, home) DO NOTHING",
    )
    .bind(home)
    .bind(each(&strays, |stray| stray.saga_id))
    .bind(each(&strays, |stray| stray.command_id))
    .bind(each(&strays, |stray| stray.reply.get()))
    .execute(pool)
    .await
    .map_err(error::of)?;
    Ok(())
}
