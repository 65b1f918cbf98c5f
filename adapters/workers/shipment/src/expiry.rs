//! Deletion of the built-in carrier's old books.

use std::time::Duration;

use amends_pool::Pool;
use amends_worker::{expire_pages, store::Error};

/// Deletes the built-in carrier's books of sagas that were born longer than `retention` ago, unless the worker still
/// has a row for them. It reads only old rows. Returns the number of rows deleted.
///
/// # Errors
/// The database's error; earlier deletions remain.
pub async fn expire_books(pool: &Pool, retention: Duration) -> Result<u64, Error> {
    let cancellations = expire_pages(
        pool,
        retention,
        "WITH page AS (SELECT booking_key AS key FROM carrier_cancellations
                       WHERE booking_key > $1 AND booking_key < least_id(now() - $2 * interval '1 millisecond')
                       ORDER BY booking_key LIMIT $3),
              gone AS (DELETE FROM carrier_cancellations AS x USING page WHERE x.booking_key = page.key
                       AND NOT EXISTS (SELECT FROM commands AS c WHERE c.command_id = x.booking_key) RETURNING 1)
         SELECT (SELECT key FROM page ORDER BY key DESC LIMIT 1), (SELECT count(*) FROM gone)",
    )
    .await?;
    let bookings = expire_pages(
        pool,
        retention,
        "WITH page AS (SELECT key FROM carrier_bookings
                       WHERE key > $1 AND key < least_id(now() - $2 * interval '1 millisecond')
                       ORDER BY key LIMIT $3),
              gone AS (DELETE FROM carrier_bookings AS b USING page WHERE b.key = page.key
                       AND NOT EXISTS (SELECT FROM commands AS c WHERE c.command_id = b.key)
                       AND NOT EXISTS (SELECT FROM carrier_cancellations AS x WHERE x.booking_key = b.key) RETURNING 1)
         SELECT (SELECT key FROM page ORDER BY key DESC LIMIT 1), (SELECT count(*) FROM gone)",
    )
    .await?;
    Ok(cancellations + bookings)
}
