//! Deletion of old reservations, moves, and answers to requests.

use std::time::Duration;

use amends_pool::Pool;
use amends_worker::{expire_pages, store::Error};

use crate::requests;

/// Number of moves that one statement deletes.
const EXPIRY_PAGE: i64 = 1_000;

/// Deletes reservations of sagas that were born longer than `retention` ago, unless they still hold stock, and older
/// moves that have been published; and expired answers to requests. It reads only old rows. Returns the number of rows deleted.
///
/// # Errors
/// The database's error; earlier deletions remain.
pub async fn expire_books(pool: &Pool, retention: Duration) -> Result<u64, Error> {
    let reservations = expire_pages(
        pool,
        retention,
        "WITH page AS (SELECT DISTINCT command_id AS key FROM (
                           SELECT command_id FROM reservations
                           WHERE command_id > $1 AND command_id < least_id(now() - $2 * interval '1 millisecond')
                           ORDER BY command_id LIMIT $3) AS lines),
              gone AS (DELETE FROM reservations AS r USING page
                       WHERE r.command_id = page.key AND r.status <> 'held' RETURNING 1)
         SELECT (SELECT key FROM page ORDER BY key DESC LIMIT 1), (SELECT count(*) FROM gone)",
    )
    .await?;
    let restocks = expire_pages(
        pool,
        retention,
        "WITH page AS (SELECT DISTINCT reservation AS key FROM (
                           SELECT reservation FROM restocks
                           WHERE reservation > $1 AND reservation < least_id(now() - $2 * interval '1 millisecond')
                           ORDER BY reservation LIMIT $3) AS lines),
              gone AS (DELETE FROM restocks AS r USING page WHERE r.reservation = page.key
                       AND NOT EXISTS (SELECT FROM reservations AS o WHERE o.command_id = page.key) RETURNING 1)
         SELECT (SELECT key FROM page ORDER BY key DESC LIMIT 1), (SELECT count(*) FROM gone)",
    )
    .await?;
    let mut moves = 0;
    loop {
        // The order of their numbers is the order of their dates, except for a few milliseconds.
        let gone = sqlx::query(
            "DELETE FROM moves USING (
                 SELECT move_id FROM moves WHERE move_id <= (SELECT move_id FROM published)
                 ORDER BY move_id LIMIT $2) AS page
             WHERE moves.move_id = page.move_id AND moves.at < now() - $1 * interval '1 millisecond'",
        )
        .bind(retention.as_secs_f64() * 1000.0)
        .bind(EXPIRY_PAGE)
        .execute(pool)
        .await?
        .rows_affected();
        moves += gone;
        if gone == 0 {
            let requests = requests::forget_expired(pool).await?;
            return Ok(reservations + restocks + moves + requests);
        }
    }
}
