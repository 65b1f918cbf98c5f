//! Periodic upkeep of a worker: the deletion of its rows.
//!
//! A row is deleted `retention` after its saga's birth, unless something external remains to be done for it. Rows are
//! dropped with their month, as one partition, and never by a scan of the whole table.

use std::time::Duration;

use amends_pool::Pool;
use uuid::Uuid;

use crate::{postgres::PgRows, store::Error};

/// Number of rows that one statement deletes or reads.
const EXPIRY_PAGE: i64 = 1_000;

/// Creates the partitions of this month's rows and of the following months. Returns how many were missing.
///
/// # Errors
/// The database's error.
pub async fn ensure_partitions(rows: &PgRows, months: u16) -> Result<u32, Error> {
    let made: i32 = sqlx::query_scalar("SELECT ensure_partitions($1)")
        .bind(i32::from(months))
        .fetch_one(rows.pool())
        .await?;
    Ok(made.unsigned_abs())
}

/// Deletes the rows of sagas that were born longer than `retention` ago: whole months, and then rows that had been
/// moved out of such a month because something remained to be done for them. Returns the number of months and of such
/// rows. A month of which very many rows would have to be moved stays.
///
/// # Errors
/// The database's error; earlier deletions remain. A retention below 60 days is refused.
pub async fn expire_rows(rows: &PgRows, retention: Duration) -> Result<(u64, u64), Error> {
    let mut months = 0;
    loop {
        let (month, moved, stays): (Option<String>, Option<i64>, Option<bool>) =
            sqlx::query_as("SELECT month, moved, stays FROM retire_month($1 * interval '1 millisecond')")
                .bind(millis(retention))
                .fetch_one(rows.pool())
                .await?;
        let Some(month) = month else { break };
        if stays == Some(true) {
            tracing::warn!(
                month,
                "a month of rows stays past its retention: too many of them are not settled"
            );
            break;
        }
        tracing::info!(month, moved, "dropped a month of rows");
        months += 1;
    }
    // Rows without a month of their own; there are few.
    let gone = expire_pages(
        rows.pool(),
        retention,
        "WITH page AS (SELECT command_id AS key FROM commands_default
                       WHERE command_id > $1 AND command_id < least_id(now() - $2 * interval '1 millisecond')
                       ORDER BY command_id LIMIT $3),
              gone AS (DELETE FROM commands_default AS c USING page
                       WHERE c.command_id = page.key AND (NOT c.live OR c.resolved IS NOT NULL) RETURNING 1)
         SELECT (SELECT key FROM page ORDER BY key DESC LIMIT 1), (SELECT count(*) FROM gone)",
    )
    .await?;
    Ok((months, gone))
}

/// Deletes old rows of a table whose keys begin with the millisecond of a saga's birth, page by page in the order of
/// the keys. In `statement`, `$1` is the key after which the page begins, `$2` the retention in milliseconds, and `$3`
/// the page size; it returns the page's last key, if there is one, and the number of rows deleted.
///
/// # Errors
/// The database's error; earlier deletions remain.
pub async fn expire_pages(pool: &Pool, retention: Duration, statement: &'static str) -> Result<u64, Error> {
    let (mut after, mut gone) = (Uuid::nil(), 0);
    loop {
        let (last, went): (Option<Uuid>, i64) = sqlx::query_as(statement)
            .bind(after)
            .bind(millis(retention))
            .bind(EXPIRY_PAGE)
            .fetch_one(pool)
            .await?;
        gone += went.unsigned_abs();
        match last {
            Some(last) => after = last,
            None => return Ok(gone),
        }
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
