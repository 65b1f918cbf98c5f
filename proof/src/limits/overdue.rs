//! 100,000 orders whose time in `PENDING` ended while there was no engine: all are cancelled within a minute, the
//! longest overdue first, and orders that arrive meanwhile do not wait for them.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    Check, Error, Finding,
    load::{PlacementAnswer, Shop, one, steadily},
    stage::Stage,
};

const OVERDUE: i64 = 100_000;
/// Maximum time until the last of them is cancelled.
const MOST: Duration = Duration::from_secs(60);
/// New orders per second, from the engine's start.
const RATE: f64 = 20.0;
const NEW_FOR: Duration = Duration::from_secs(25);
/// How long a new order may take to be fulfilled.
const NEW_MOST: f64 = 5.0;
/// A batch of the engine, within which sagas are ordered by id.
const BATCH: i64 = 500;

/// Copies of the one existing order, each due at some time of the last hour, and unchanged since before that.
const COPY: &str = "
    CREATE TABLE overdue AS
        SELECT n, gen_random_uuid() AS order_id, now() - n * (interval '1 hour' / $N) AS wake_at,
               (lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::int8), 12, '0') || '7'
                || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid AS saga_id
        FROM generate_series(1, $N) AS n ORDER BY md5(n::text);
    CREATE UNIQUE INDEX ON overdue (saga_id);
    INSERT INTO orders (home, id, saga_id, created_at, cancels_at, total, subject, customer_id, currency, lines)
        SELECT 0, c.order_id, c.saga_id, created_at, cancels_at, total, subject, customer_id, currency, lines
        FROM orders, overdue AS c;
    INSERT INTO personal (home, saga_id, data) SELECT 0, c.saga_id, data FROM personal, overdue AS c;
    INSERT INTO timeline (home, saga_id, at, batch, revision, slot, body)
        SELECT 0, c.saga_id, at, batch, revision, c.n % 1024, body FROM timeline, overdue AS c;
    INSERT INTO sagas (home, id, born_at, workflow_version, slot, workflow, business_key, core_version, state_version,
                       revision, wake_at, since, updated_at, live, parked, step, label, state)
        SELECT 0, c.saga_id, born_at, workflow_version, c.n % 1024, workflow, c.order_id::text, core_version,
               state_version, revision, c.wake_at, since, updated_at - interval '1 hour', live, parked, step, label, state
        FROM sagas, overdue AS c;
    ANALYZE sagas; ANALYZE timeline; ANALYZE orders; ANALYZE overdue";

pub(super) async fn measure(program: &Path) -> Result<Finding, Error> {
    let mut stage = Stage::set(program, &[]).await?;
    stage.stop("engine").await;
    template(&stage).await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(COPY.replace("$N", &OVERDUE.to_string())))
        .execute(&stage.engine)
        .await?;

    let begun = Instant::now();
    stage.start("engine").await?;
    let shop = stage.shop.clone();
    let coming =
        tokio::spawn(async move { steadily(&shop, RATE, NEW_FOR, &one("card_approved"), "new").await });
    let fired = drained(
        &stage,
        begun,
        "SELECT count(*) FROM overdue AS c JOIN sagas AS s ON s.id = c.saga_id WHERE s.revision = 1",
    )
    .await?;
    let undone = drained(
        &stage,
        begun,
        "SELECT count(*) FROM overdue AS c JOIN sagas AS s ON s.id = c.saga_id WHERE s.outcome IS NULL",
    )
    .await?;
    let answers = coming.await.map_err(|e| Error::NotReached(e.to_string()))?;
    stage.until_none("SELECT count(*) FROM sagas WHERE live", MOST).await?;

    let cancelled = stage
        .count(
            "SELECT count(*) FROM overdue AS c JOIN sagas AS s ON s.id = c.saga_id
        WHERE s.label = 'CANCELLED' AND s.outcome = 'undone'",
        )
        .await?;
    // The order in which they were taken, compared with the order in which they were due.
    let astray = stage
        .count(
            "SELECT max(abs(place - age)) FROM (
        SELECT row_number() OVER (ORDER BY t.position) AS place, row_number() OVER (ORDER BY c.wake_at) AS age
        FROM timeline AS t JOIN overdue AS c USING (saga_id) WHERE t.revision = 2) AS fired",
        )
        .await?;
    let mut took: Vec<f64> = sqlx::query_scalar(
        "SELECT extract(epoch FROM t.at - s.born_at)::float8 FROM sagas AS s JOIN timeline AS t ON t.saga_id = s.id
         WHERE s.label = 'FULFILLED' AND t.body::jsonb -> 'did' ->> 'label' = 'FULFILLED'")
        .fetch_all(&stage.engine).await?;
    took.sort_by(f64::total_cmp);
    let placed = answers.iter().filter(|(_, answer)| matches!(answer, PlacementAnswer::Placed(_))).count();
    stage.end().await;

    let worst = took.last().copied().unwrap_or(f64::INFINITY);
    let mut check = Check::default();
    check.that(undone <= MOST, || format!("{} s", undone.as_secs()));
    check.that(cancelled == OVERDUE, || format!("only {cancelled} are cancelled"));
    check.that(astray <= 2 * BATCH, || format!("one was {astray} places from its own"));
    check.that(placed == answers.len() && took.len() == placed, || {
        format!("of {} new orders {placed} were taken and {} fulfilled", answers.len(), took.len())
    });
    check.that(worst <= NEW_MOST, || format!("a new order took {worst:.1} s"));
    Ok(Finding {
        asked: "100,000 overdue timers are drained, oldest first, in ≤ 60 s; a new order takes ≤ 5 s meanwhile",
        measured: format!(
            "all taken after {:.1} s, all cancelled after {:.1} s, none further than {astray} places from its own; {} new orders: p50 {:.2} s, p99 {:.2} s, worst {worst:.2} s",
            fired.as_secs_f64(),
            undone.as_secs_f64(),
            took.len(),
            super::quantile(&took, 0.5),
            super::quantile(&took, 0.99)
        ),
        broken: check.0,
    })
}

/// Places one order, at an api that gives it one second.
async fn template(stage: &Stage) -> Result<(), Error> {
    let mut hasty = stage.deployment.spawn(&["api"], &[("pending_timeout", "1s")])?;
    hasty.ready().await?;
    let placed = Shop::new(hasty.address).place(one("card_approved"), "template".into()).await;
    hasty.stop().await;
    match placed {
        PlacementAnswer::Placed(_) => Ok(()),
        other => Err(Error::NotReached(format!("the first order: {other:?}"))),
    }
}

/// Returns how long after `begun` none is left.
async fn drained(stage: &Stage, begun: Instant, sql: &'static str) -> Result<Duration, Error> {
    loop {
        let left = stage.count(sql).await?;
        let took = begun.elapsed();
        if left == 0 || took > 2 * MOST {
            return Ok(took);
        }
        sleep(Duration::from_millis(500)).await;
    }
}
