//! Deletion of the built-in gateway's old books.

use std::time::Duration;

use amends_pool::Pool;
use amends_worker::{expire_pages, store::Error};

/// Deletes the built-in gateway's books of sagas that were born longer than `retention` ago, unless the worker still
/// has a row for them: a charge lives as long as its row. It reads only old rows. Returns the number of rows deleted.
///
/// # Errors
/// The database's error; earlier deletions remain.
pub async fn expire_books(pool: &Pool, retention: Duration) -> Result<u64, Error> {
    let refunds = expire_pages(
        pool,
        retention,
        "WITH page AS (SELECT charge_key AS key FROM gateway_refunds
                       WHERE charge_key > $1 AND charge_key < least_id(now() - $2 * interval '1 millisecond')
                       ORDER BY charge_key LIMIT $3),
              gone AS (DELETE FROM gateway_refunds AS r USING page WHERE r.charge_key = page.key
                       AND NOT EXISTS (SELECT FROM commands AS c WHERE c.command_id = r.charge_key) RETURNING 1)
         SELECT (SELECT key FROM page ORDER BY key DESC LIMIT 1), (SELECT count(*) FROM gone)",
    )
    .await?;
    let faults = expire_pages(
        pool,
        retention,
        "WITH page AS (SELECT key FROM gateway_faults
                       WHERE key > $1 AND key < least_id(now() - $2 * interval '1 millisecond')
                       ORDER BY key LIMIT $3),
              gone AS (DELETE FROM gateway_faults AS f USING page WHERE f.key = page.key RETURNING 1)
         SELECT (SELECT key FROM page ORDER BY key DESC LIMIT 1), (SELECT count(*) FROM gone)",
    )
    .await?;
    let charges = expire_pages(
        pool,
        retention,
        "WITH page AS (SELECT key FROM gateway_charges
                       WHERE key > $1 AND key < least_id(now() - $2 * interval '1 millisecond')
                       ORDER BY key LIMIT $3),
              gone AS (DELETE FROM gateway_charges AS g USING page WHERE g.key = page.key
                       AND NOT EXISTS (SELECT FROM commands AS c WHERE c.command_id = g.key)
                       AND NOT EXISTS (SELECT FROM gateway_refunds AS r WHERE r.charge_key = g.key) RETURNING 1)
         SELECT (SELECT key FROM page ORDER BY key DESC LIMIT 1), (SELECT count(*) FROM gone)",
    )
    .await?;
    Ok(refunds + faults + charges)
}
