//! Finds out whether a COMMIT happened after its answer was lost. It asks on another connection and never guesses.

use amends_pool::Connection;
use std::time::Duration;

use crate::Error;

/// Maximum number of tries, and the timeout of each.
const ANSWER_ASKS: u32 = 5;

/// Waits until no other transaction is writing in these slots of a home. Call it within a transaction.
///
/// # Errors
/// The database's, including a timeout if a transaction still holds a slot after two seconds.
pub async fn wait_for_slots(
    connection: &mut Connection,
    home: i16,
    slots: &[i16],
) -> Result<(), sqlx::Error> {
    sqlx::query("SET LOCAL lock_timeout = '2s'").execute(&mut *connection).await?;
    sqlx::query("SELECT lock_slots($1, $2)").bind(home).bind(slots).execute(connection).await?;
    Ok(())
}

/// Repeats the question until it is answered, up to a bound.
///
/// # Errors
/// The error of the last try.
pub async fn ask_again<T, F>(mut ask: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut asked = 1;
    loop {
        match ask().await {
            Err(Error::Unavailable(_) | Error::Locked(_)) if asked < ANSWER_ASKS => {
                tokio::time::sleep(Duration::from_millis(50 << asked)).await;
                asked += 1;
            }
            answer => return answer,
        }
    }
}
