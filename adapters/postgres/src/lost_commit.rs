//! The answer to a COMMIT was lost: did it happen? Asked on another connection, and never guessed.

use amends_pool::Connection;
use std::time::Duration;

use crate::{Error, timeline};

/// How often a lost answer is asked for, and how long each time.
const ASKS: u32 = 5;

/// Waits until nobody is writing in these slots any more. Within a transaction of the caller's.
///
/// # Errors
/// The database's; that somebody is still at it after two seconds is one.
pub async fn wait_for_slots(connection: &mut Connection, slots: &[i32]) -> Result<(), sqlx::Error> {
    sqlx::query("SET LOCAL lock_timeout = '2s'").execute(&mut *connection).await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1, slot) FROM UNNEST($2::int4[]) AS s (slot)")
        .bind(timeline::LOCK)
        .bind(slots)
        .execute(connection)
        .await?;
    Ok(())
}

/// Asks until there is an answer, within a bound.
///
/// # Errors
/// The last answer, if that is one.
pub async fn ask_again<T, F>(mut ask: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut asked = 1;
    loop {
        match ask().await {
            Err(Error::Unavailable(_) | Error::Locked(_)) if asked < ASKS => {
                tokio::time::sleep(Duration::from_millis(50 << asked)).await;
                asked += 1;
            }
            answer => return answer,
        }
    }
}
