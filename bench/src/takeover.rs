//! When sagas move again after their engine was killed, or stopped, at full load.
//!
//! Two engines share the slots. At an instant one is killed (or stopped). Of every order that was under way then, or
//! was born within the next half second, the database says how long it waited until it was decided about. Those under way
//! at one instant are at home in a few partitions, which may all be the other engine's; in half a second births come to
//! all of them.

use std::time::Duration;

use amends_proof::deployment::Process;
use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgPool;

use crate::{
    args::{Bench, Mix, Mode},
    books,
    load::{Running, pace::Pace, shop::Shop},
    report::say,
    row,
    stage::{self, Stage},
};

/// The session timeout that the roles ask for; the broker is configured to allow it.
const SESSION: Duration = Duration::from_millis(1_200);
/// How long the sagas under way may take to end.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long two engines share the load before one of them goes, and after.
const CALM: Duration = Duration::from_secs(10);

/// The result of one takeover.
#[derive(Debug, Clone, Serialize)]
pub struct Takeover {
    /// `killed` or `stopped`.
    pub how: &'static str,
    /// The session timeout, in seconds.
    pub session_timeout_ms: u128,
    /// Orders that were under way, or born within half a second.
    pub orders: i64,
    /// Time until half of them moved again.
    pub p50_ms: f64,
    /// Time until 99 of 100 moved again; about half of them are the victim's.
    pub p99_ms: f64,
    /// Time until all of them moved again.
    pub worst_ms: f64,
    /// Time from the signal to the process's end, for an engine that is stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_ms: Option<f64>,
}

/// Of every order that was under way at `$1`, or was born in the half second after it: how long from then, or from its
/// birth, until it was decided about.
const MOVED: &str = "
    WITH waited AS (
        SELECT extract(epoch FROM min(t.at) - greatest($1, s.born_at))::float8 * 1000 AS ms
        FROM sagas AS s JOIN timeline AS t ON t.saga_id = s.id AND t.revision > 1 AND t.at > $1
        WHERE s.born_at < $1 + interval '500 milliseconds'
        GROUP BY s.id, s.born_at
    )
    SELECT count(*), COALESCE(percentile_disc(0.5) WITHIN GROUP (ORDER BY ms), 0),
           COALESCE(percentile_disc(0.99) WITHIN GROUP (ORDER BY ms), 0), COALESCE(max(ms), 0)
    FROM waited";

/// Kills one engine and later stops one; returns the result of each.
pub async fn measure(args: &Bench) -> Result<Vec<Takeover>> {
    let mut args = args.clone();
    args.engines = 2;
    args.set.push(("session_timeout".to_owned(), format!("{}ms", SESSION.as_millis())));
    let in_flight = args.in_flight.first().copied().unwrap_or(512);
    say("takeover: starting servers and roles");
    let deployment = stage::servers(&args, Mix::Fulfilled).await?;
    let mut stage = Stage::set(deployment, &args, Mode::Orders, Mix::Fulfilled).await?;
    row::warm_up(&stage, &args).await.context("before it begins")?;
    let mut measured = Vec::new();
    for how in ["killed", "stopped"] {
        let running = Running::start(
            &stage.entrance,
            Shop::new(stage.mix, args.lines),
            Pace::Closed(in_flight),
            &stage.ledger,
        );
        tokio::time::sleep(CALM).await;
        let victim = take_engine(&mut stage)?;
        let engine = stage.deployment.pool("engine");
        let at = now(&engine).await?;
        let stop_ms = if how == "killed" {
            drop(victim);
            None
        } else {
            Some(victim.stop().await.as_secs_f64() * 1_000.0)
        };
        tokio::time::sleep(CALM).await;
        running.stop().await?;
        let left = stage.ledger.drained(PATIENCE).await;
        ensure!(left == 0, "{left} orders did not end within {} s", PATIENCE.as_secs());
        let failures = stage.ledger.take().failures;
        ensure!(failures.is_empty(), "requests failed: {failures:?}");
        let books = books::check(&stage, PATIENCE).await?;
        ensure!(books.violations.is_empty(), "the books do not balance: {}", books.violations.join("; "));
        let (orders, p50_ms, p99_ms, worst_ms) = sqlx::query_as(MOVED).bind(at).fetch_one(&engine).await?;
        let takeover = Takeover {
            how,
            session_timeout_ms: SESSION.as_millis(),
            orders,
            p50_ms,
            p99_ms,
            worst_ms,
            stop_ms,
        };
        say(&summary(&takeover));
        measured.push(takeover);
        let mut another = stage.deployment.spawn(&["engine"], &[])?;
        another.ready().await?;
        stage.roles.push(("engine", another));
    }
    stage.clear().await;
    Ok(measured)
}

fn take_engine(stage: &mut Stage) -> Result<Process> {
    match stage.roles.iter().position(|(group, _)| *group == "engine") {
        Some(at) => Ok(stage.roles.remove(at).1),
        None => bail!("there is no engine"),
    }
}

async fn now(pool: &PgPool) -> Result<DateTime<Utc>> {
    Ok(sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(pool).await?)
}

/// `one of two engines killed: 512 orders that were under way, or came at once, moved again after …`
pub fn summary(takeover: &Takeover) -> String {
    let stop = takeover.stop_ms.map(|ms| format!("; it ended after {ms:.0} ms")).unwrap_or_default();
    format!(
        "  one of two engines {}: {} orders that were under way, or came at once, moved again after {:.0} ms (p50), {:.0} ms (p99), {:.0} ms \
         (the last){stop}",
        takeover.how, takeover.orders, takeover.p50_ms, takeover.p99_ms, takeover.worst_ms
    )
}
