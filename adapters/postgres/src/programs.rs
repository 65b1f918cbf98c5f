//! Table `programs`: the live programs of the deployment, and what they know.

use std::time::Duration;

use amends_engine::core::Known;
use uuid::Uuid;

use crate::{Database, Error, columns::int, error};

/// Records that a program is live, if it was started in the present epoch; returns what the others know that have
/// announced themselves within `live`. Deletes programs that have been silent for ten minutes.
pub(crate) async fn announce(
    Database { pool, epoch, .. }: &Database,
    program: Uuid,
    known: &Known,
    live: Duration,
) -> Result<Vec<Known>, Error> {
    let own = serde_json::to_string(known).expect("what is known has string keys and integers only");
    let others: Vec<String> = sqlx::query_scalar(
        "WITH own AS (
             INSERT INTO programs (id, seen_at, known) SELECT $1, clock_timestamp(), $2 WHERE is_epoch($4)
             ON CONFLICT (id) DO UPDATE SET seen_at = EXCLUDED.seen_at, known = EXCLUDED.known
         ), gone AS (
             DELETE FROM programs WHERE seen_at < now() - interval '10 minutes' AND id <> $1
         )
         SELECT known FROM programs WHERE id <> $1 AND seen_at > clock_timestamp() - make_interval(secs => $3)",
    )
    .bind(program)
    .bind(own)
    .bind(live.as_secs_f64())
    .bind(int(*epoch))
    .fetch_all(pool)
    .await
    .map_err(error::of)?;
    // An unreadable announcement comes from a program that has nothing in common with this one.
    Ok(others.iter().map(|text| serde_json::from_str(text).unwrap_or_default()).collect())
}
