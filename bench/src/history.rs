//! What lies in the engine's database before a row begins: sagas that are parked, or that wait for a timer. They are
//! taken away before the books are checked, which are about the orders of the row.

use amends_proof::deployment::Deployment;
use anyhow::{Context, Result};
use serde::Serialize;
use sqlx::PgPool;

use crate::args::Bench;

/// What they are about, so that they are known again.
const MARK: &str = "before the benchmark";

/// Sagas `first ..= last`. Each waits for the answer to its first command. Those with a timer wake, evenly spread, within
/// the next hour, find nothing due and are put off by ten days.
const WRITE: &str = "
    INSERT INTO sagas (id, born_at, workflow_version, slot, workflow, business_key, core_version, state_version, revision,
                       wake_at, since, updated_at, live, parked, step, label, heading_for, state)
    SELECT (lpad(to_hex((extract(epoch FROM now()) * 1000)::int8), 12, '0') || '7' || substr(hash, 1, 3) || '8'
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
    if parked + armed > 0 {
        sqlx::query("VACUUM ANALYZE sagas").execute(&pool).await?;
    }
    Ok(())
}

/// Takes it all away.
pub async fn remove(pool: &PgPool) -> Result<()> {
    sqlx::query("DELETE FROM sagas WHERE business_key = $1").bind(MARK).execute(pool).await?;
    Ok(())
}

/// How late timers fired: of all since the engine's start, by its own histogram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Lateness {
    /// So many fired.
    pub timers: u64,
    /// 99 of 100 were at most so late: the bucket's upper bound.
    pub p99_ms: f64,
}

impl Lateness {
    /// Reads an engine's `/metrics`.
    pub fn read(metrics: &str) -> Option<Self> {
        const BUCKET: &str = "amends_engine_timer_lateness_seconds_bucket{le=\"";
        let bucket = |line: &str| {
            let (bound, count) = line.strip_prefix(BUCKET)?.split_once("\"} ")?;
            Some((bound.replace("+Inf", "inf").parse::<f64>().ok()?, count.trim().parse::<u64>().ok()?))
        };
        let buckets: Vec<(f64, u64)> = metrics.lines().filter_map(bucket).collect();
        let timers = buckets.last()?.1;
        let enough = (timers as f64 * 0.99).ceil() as u64;
        let (bound, _) = buckets.into_iter().find(|(_, count)| *count >= enough)?;
        Some(Self { timers, p99_ms: bound * 1_000.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_that_99_of_100_fall_into_bounds_the_lateness() {
        let metrics = "amends_engine_timer_lateness_seconds_bucket{le=\"0.01\"} 60\n\
                       amends_engine_timer_lateness_seconds_bucket{le=\"0.025\"} 198\n\
                       amends_engine_timer_lateness_seconds_bucket{le=\"+Inf\"} 200\n";
        assert_eq!(Lateness::read(metrics), Some(Lateness { timers: 200, p99_ms: 25.0 }));
        assert_eq!(Lateness::read("amends_up 1"), None);
    }
}
