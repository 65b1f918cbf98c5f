//! What lies in the engine's database before a row begins: sagas that are parked, that wait for a timer, or that have
//! ended. They are taken away before the books are checked, which are about the orders of the row.

use amends_proof::deployment::Deployment;
use anyhow::{Context, Result};
use serde::Serialize;
use sqlx::PgPool;

use crate::args::Bench;

/// Their business key, by which they are found again.
const MARK: &str = "before the benchmark";

/// Sagas `first ..= last`. Each waits for the answer to its first command. Those with a timer wake, evenly spread, within
/// the next hour, find nothing due and are put off by ten days.
const WRITE: &str = "
    INSERT INTO sagas (home, id, born_at, workflow_version, slot, workflow, business_key, core_version, state_version, revision,
                       wake_at, since, updated_at, live, parked, step, label, heading_for, state)
    SELECT 0, (lpad(to_hex((extract(epoch FROM now()) * 1000)::int8), 12, '0') || '7' || substr(hash, 1, 3) || '8'
            || substr(hash, 4, 15))::uuid,
           now() - interval '1 hour', 1, n % 1024, 'order_fulfilment', $3, 1, 1, 1,
           CASE WHEN $4 THEN NULL ELSE now() + random() * interval '1 hour' END, now(), now() - interval '1 hour',
           NOT $4, $4, 'reserve', 'PENDING', NULL,
           jsonb_build_object('direction', 'forward', 'commands', jsonb_build_array(
               jsonb_build_object('step', 0, 'issuedAt', micros, 'status', 'waiting')
               || CASE WHEN $4 THEN jsonb_build_object('parked', '{\"code\":\"outcome_unknown\",\"text\":\"\"}'::jsonb)
                       ELSE jsonb_build_object('dueAt', micros + 864000000000) END))::text
    FROM (SELECT n, md5(n::text) AS hash, (extract(epoch FROM now()) * 1000000)::int8 AS micros
          FROM generate_series($1::int8, $2::int8) AS n) AS each";

/// Orders that were fulfilled an hour ago, `first ..= last`, each with an input and four answers in its timeline.
const WRITE_ENDED: &str = "
    WITH written AS (
        INSERT INTO sagas (home, id, born_at, workflow_version, slot, workflow, business_key, core_version, state_version,
                           revision, since, updated_at, live, parked, outcome, step, label, state)
        SELECT 0, (lpad(to_hex((extract(epoch FROM now()) * 1000)::int8), 12, '0') || '7' || substr(hash, 1, 3) || '8'
                || substr(hash, 4, 15))::uuid,
               now() - interval '1 hour', 1, n % 1024, 'order_fulfilment', $3, 1, 1, 5, now(),
               now() - interval '1 hour', false, false, 'completed', 'take', 'FULFILLED', repeat('x', 700)
        FROM (SELECT n, md5('ended ' || n) AS hash FROM generate_series($1::int8, $2::int8) AS n) AS each
        RETURNING id, slot
    )
    INSERT INTO timeline (home, saga_id, at, batch, revision, slot, body)
    SELECT 0, id, now() - interval '1 hour', 0, revision, slot, repeat('x', CASE revision WHEN 1 THEN 330 ELSE 260 END)
    FROM written, generate_series(1, 5) AS revision";

/// Number of ended sagas that one statement writes.
const AT_ONCE: i64 = 100_000;

/// Writes what the command line asks for, and has the server take note of it.
pub async fn write(deployment: &Deployment, args: &Bench) -> Result<()> {
    let pool = deployment.pool("engine");
    let (parked, armed) = (args.parked.cast_signed(), args.armed.cast_signed());
    for (first, last, is_parked) in [(1, parked, true), (parked + 1, parked + armed, false)] {
        if last >= first {
            let written = sqlx::query(WRITE).bind(first).bind(last).bind(MARK).bind(is_parked).execute(&pool);
            written.await.context("writing sagas that were there before")?;
        }
    }
    let ended = args.ended.cast_signed();
    for first in (1..=ended).step_by(AT_ONCE as usize) {
        let last = ended.min(first + AT_ONCE - 1);
        let written = sqlx::query(WRITE_ENDED).bind(first).bind(last).bind(MARK).execute(&pool);
        written.await.context("writing sagas that have ended")?;
    }
    if ended > 0 {
        publish(&pool).await?;
    }
    if parked + armed + ended > 0 {
        sqlx::query("VACUUM ANALYZE sagas, timeline").execute(&pool).await?;
    }
    Ok(())
}

/// Their domain events were published long ago.
async fn publish(pool: &PgPool) -> Result<()> {
    let published = "INSERT INTO publisher_watermarks (home, slot, position)
                     SELECT 0, slot, max(position) FROM timeline GROUP BY slot
                     ON CONFLICT DO NOTHING";
    sqlx::query(published).execute(pool).await.context("marking them as published")?;
    Ok(())
}

/// Removes all of them.
pub async fn remove(pool: &PgPool) -> Result<()> {
    let entries =
        "DELETE FROM timeline WHERE batch = 0 AND saga_id IN (SELECT id FROM sagas WHERE business_key = $1)";
    sqlx::query(entries).bind(MARK).execute(pool).await?;
    sqlx::query("DELETE FROM sagas WHERE business_key = $1").bind(MARK).execute(pool).await?;
    Ok(())
}

/// How late timers fired in a window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Lateness {
    /// Number of timers that fired.
    pub timers: u64,
    /// The 99th percentile of the lateness: the bucket's upper bound.
    pub p99_ms: f64,
}

/// An engine's histogram of how late its timers fired since it started: how many, by bucket's upper bound in seconds.
pub type Timers = Vec<(f64, u64)>;

/// Reads an engine's `/metrics`.
pub fn timers(metrics: &str) -> Timers {
    const BUCKET: &str = "amends_engine_timer_lateness_seconds_bucket{le=\"";
    let bucket = |line: &str| {
        let (bound, count) = line.strip_prefix(BUCKET)?.split_once("\"} ")?;
        Some((bound.replace("+Inf", "inf").parse::<f64>().ok()?, count.trim().parse::<u64>().ok()?))
    };
    metrics.lines().filter_map(bucket).collect()
}

impl Lateness {
    /// The lateness of the timers that fired between two readings of the same engine; `None` if none did.
    pub fn between(before: &Timers, after: &Timers) -> Option<Self> {
        let earlier = |bound: f64| before.iter().find(|(b, _)| *b == bound).map_or(0, |(_, count)| *count);
        let fired: Timers = after.iter().map(|(bound, count)| (*bound, count - earlier(*bound))).collect();
        let timers = fired.last()?.1;
        if timers == 0 {
            return None;
        }
        let enough = (timers as f64 * 0.99).ceil() as u64;
        let (bound, _) = fired.into_iter().find(|(_, count)| *count >= enough)?;
        Some(Self { timers, p99_ms: bound * 1_000.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_that_99_of_100_in_the_window_fall_into_bounds_the_lateness() {
        let after = timers(
            "amends_engine_timer_lateness_seconds_bucket{le=\"0.01\"} 60\n\
             amends_engine_timer_lateness_seconds_bucket{le=\"0.025\"} 198\n\
             amends_engine_timer_lateness_seconds_bucket{le=\"+Inf\"} 1200\n",
        );
        let before = vec![(0.01, 0), (0.025, 0), (f64::INFINITY, 1000)];
        assert_eq!(Lateness::between(&before, &after), Some(Lateness { timers: 200, p99_ms: 25.0 }));
        assert_eq!(Lateness::between(&after, &after), None);
        assert_eq!(Lateness::between(&before, &timers("amends_up 1")), None);
    }
}
