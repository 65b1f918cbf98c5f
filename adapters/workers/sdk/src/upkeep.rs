//! What a worker's role does now and then: the end of its rows.
//!
//! A row goes `retention` after its saga's birth, unless something outside is still to be done for it: with its month,
//! as one partition, and never by a look at the whole table.

use std::time::Duration;

use amends_pool::Pool;
use uuid::Uuid;

use crate::{postgres::PgRows, store::Error};

/// How many rows go in one statement, or are looked at by it.
const PAGE: i64 = 1_000;

/// Makes the partitions of this month's rows and of so many months to come. Returns how many were missing.
///
/// # Errors
/// What the database says.
pub async fn ensure_partitions(rows: &PgRows, months: u16) -> Result<u32, Error> {
    let made: i32 = sqlx::query_scalar("SELECT ensure_partitions($1)")
        .bind(i32::from(months))
        .fetch_one(rows.pool())
        .await?;
    Ok(made.unsigned_abs())
}

/// Removes the rows of sagas that were born longer than `retention` ago: whole months, and then what had moved out of
/// such a month before because something was still to be done for it. Returns how many months and how many such rows.
///
/// # Errors
/// What the database says; what went before stays gone.
pub async fn expire_rows(rows: &PgRows, retention: Duration) -> Result<(u64, u64), Error> {
    let mut months = 0;
    loop {
        let month: Option<String> =
            sqlx::query_scalar("SELECT expire_partition($1 * interval '1 millisecond')")
                .bind(millis(retention))
                .fetch_one(rows.pool())
                .await?;
        let Some(month) = month else { break };
        tracing::info!(month, "forgot a month of rows");
        months += 1;
    }
    // Rows without a month of their own: few.
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

/// Removes what is old from a table whose keys begin with the millisecond of a saga's birth, page by page in the order
/// of its keys. Of `statement` `$1` is the key that the page comes after, `$2` the retention in milliseconds, and `$3`
/// the page's size; it returns the page's last key, if it has any, and how many rows went.
///
/// # Errors
/// What the database says; what went before stays gone.
pub async fn expire_pages(pool: &Pool, retention: Duration, statement: &'static str) -> Result<u64, Error> {
    let (mut after, mut gone) = (Uuid::nil(), 0);
    loop {
        let (last, went): (Option<Uuid>, i64) =
            sqlx::query_as(statement).bind(after).bind(millis(retention)).bind(PAGE).fetch_one(pool).await?;
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
