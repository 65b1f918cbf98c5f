//! Table `strays`: successes that no saga ordered.

use amends_engine::port::Stray;
use amends_pool::Pool;

use crate::{Error, columns::each, error};

/// Stores each stray once.
pub(crate) async fn keep(pool: &Pool, strays: &[Stray]) -> Result<(), Error> {
    let mut strays: Vec<&Stray> = strays.iter().collect();
    strays.sort_by_key(|stray| (stray.saga_id, stray.command_id));
    sqlx::query(
        "INSERT INTO strays (saga_id, command_id, reply)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::text[])
         ON CONFLICT (saga_id, command_id) DO NOTHING",
    )
    .bind(each(&strays, |stray| stray.saga_id))
    .bind(each(&strays, |stray| stray.command_id))
    .bind(each(&strays, |stray| stray.reply.get()))
    .execute(pool)
    .await
    .map_err(error::of)?;
    Ok(())
}
