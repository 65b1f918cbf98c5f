//! A participant is away, and very many sagas wait for it. Timers of all others, and the promises to customers, are
//! still on time.

use std::{path::Path, time::Duration};

use super::{
    Check, Error, Finding,
    load::{PlacementAnswer, one, steadily},
    quantile,
    stage::Stage,
};

const WAITING: f64 = 300_000.0;
/// Orders whose time in PENDING ends while the engine processes those.
const PROMISED: f64 = 3_000.0;
/// Seconds over which these times are spread, from the engine's start.
const PROMISES_END_FOR: f64 = 60.0;
/// How late the engine may be for a promise that ends after its start: 99 of 100, and the maximum.
const LATE: f64 = 2.0;
const LATE_WORST: f64 = 10.0;
/// New orders per second, and those whose payment fails twice: two backoffs, of 0.5 s and 1 s, before they are paid.
const RATE: f64 = 10.0;
const RATE_OF_FAILING: f64 = 2.0;
const NEW_FOR: Duration = Duration::from_secs(60);
const NEW_MOST: f64 = 5.0;
/// What is due when the engine starts is late by the duration of the start.
const STARTING: &str = "interval '10 seconds'";
const PATIENCE: Duration = Duration::from_secs(60);

/// Copies of an order at a step: not changed for an hour, and due for a while.
const COPY: &str = "
    CREATE TABLE copies_of_$LABEL AS
        SELECT n, gen_random_uuid() AS order_id, $WAKE AS wake_at,
               (lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::int8), 12, '0') || '7'
                || substr(md5('$LABEL' || n), 1, 3) || '8' || substr(md5('$LABEL' || n), 4, 15))::uuid AS saga_id
        FROM generate_series(1, $N) AS n ORDER BY md5(n::text);
    CREATE UNIQUE INDEX ON copies_of_$LABEL (saga_id);
    CREATE TEMP TABLE of_$LABEL AS SELECT * FROM sagas WHERE label = '$LABEL';
    INSERT INTO orders (home, id, saga_id, created_at, cancels_at, total, subject, customer_id, currency, lines)
        SELECT 0, c.order_id, c.saga_id, created_at, cancels_at, total, subject, customer_id, currency, lines
        FROM orders AS o JOIN of_$LABEL AS s ON s.id = o.saga_id, copies_of_$LABEL AS c;
    INSERT INTO personal (home, saga_id, data)
        SELECT 0, c.saga_id, data FROM personal AS p JOIN of_$LABEL AS s ON s.id = p.saga_id, copies_of_$LABEL AS c;
    INSERT INTO timeline (home, saga_id, at, batch, revision, slot, body)
        SELECT 0, c.saga_id, t.at, t.batch, t.revision, c.n % 1024, t.body
        FROM timeline AS t JOIN of_$LABEL AS s ON s.id = t.saga_id, copies_of_$LABEL AS c;
    INSERT INTO sagas (home, id, born_at, workflow_version, slot, workflow, business_key, core_version, state_version,
                       revision, wake_at, since, updated_at, live, parked, step, label, state)
        SELECT 0, c.saga_id, born_at, workflow_version, c.n % 1024, workflow, c.order_id::text, core_version,
               state_version, revision, c.wake_at, since, updated_at - interval '1 hour', live, parked, step, label,
               regexp_replace(state, '\"timeoutAt\":[0-9]+',
                              '\"timeoutAt\":' || (extract(epoch FROM c.wake_at) * 1000000)::int8)
        FROM of_$LABEL, copies_of_$LABEL AS c;
    ANALYZE sagas; ANALYZE timeline; ANALYZE orders";

pub(super) async fn measure(program: &Path, size: f64) -> Result<Finding, Error> {
    let mut stage = Stage::set(program, &[("pending_timeout", "15m")]).await?;
    let (waiting, promised) = ((WAITING * size) as i64, (PROMISED * size) as i64);
    stage.stop("shipment").await;
    order(&stage, "waits").await?;
    stage.until_none("SELECT 1 - count(*) FROM sagas WHERE label = 'PAID'", PATIENCE).await?;
    stage.stop("inventory").await;
    order(&stage, "promised").await?;
    stage.stop("engine").await;
    // Creating them takes a while; the promises count from then.
    copies(&stage, "PAID", waiting, "clock_timestamp() - n * interval '10 minutes' / $N").await?;
    let ends =
        format!("clock_timestamp() + interval '15 seconds' + n * interval '{PROMISES_END_FOR} seconds' / $N");
    copies(&stage, "PENDING", promised, &ends).await?;
    stage.start("inventory").await?;
    stage.start("engine").await?;
    let begun: f64 = sqlx::query_scalar("SELECT extract(epoch FROM clock_timestamp())::float8")
        .fetch_one(&stage.engine)
        .await?;

    let (approved, failing) = (one("card_approved"), one("card_error_twice"));
    let (mut new, failing) = tokio::join!(
        steadily(&stage.shop, RATE, NEW_FOR, &approved, "new"),
        steadily(&stage.shop, RATE_OF_FAILING, NEW_FOR, &failing, "failing")
    );
    new.extend(failing);
    let placed = new.iter().filter(|(_, answer)| matches!(answer, PlacementAnswer::Placed(_))).count();
    let pending = "SELECT count(*) FROM copies_of_PENDING AS c JOIN sagas AS s ON s.id = c.saga_id WHERE s.label = 'PENDING'";
    stage.until_none(pending, PATIENCE).await?;
    stage.until_none("SELECT count(*) FROM sagas WHERE live AND label = 'CONFIRMED'", PATIENCE).await?;

    let late = format!(
        "SELECT extract(epoch FROM t.at - c.wake_at)::float8 FROM timeline AS t JOIN copies_of_PENDING AS c USING (saga_id)
         WHERE t.revision = 2 AND c.wake_at > to_timestamp($1) + {STARTING}"
    );
    let mut late: Vec<f64> =
        sqlx::query_scalar(sqlx::AssertSqlSafe(late)).bind(begun).fetch_all(&stage.engine).await?;
    let mut took: Vec<f64> = sqlx::query_scalar(
        "SELECT extract(epoch FROM t.at - s.born_at)::float8 FROM sagas AS s JOIN timeline AS t ON t.saga_id = s.id
         WHERE s.born_at > to_timestamp($1) AND t.body::jsonb -> 'did' ->> 'label' = 'PAID'",
    )
    .bind(begun)
    .fetch_all(&stage.engine)
    .await?;
    late.sort_by(f64::total_cmp);
    took.sort_by(f64::total_cmp);
    let overdue = stage.count(
        "SELECT count(*) FROM sagas WHERE live AND wake_at < clock_timestamp() - interval '5 seconds'",
    );
    let overdue = overdue.await?;
    let put_off = stage.metric("engine", "amends_engine_repeats_put_off_total").await?;
    stage.end().await;

    let (late_most, late_worst) = (quantile(&late, 0.99), late.last().copied().unwrap_or(f64::INFINITY));
    let new_worst = took.last().copied().unwrap_or(f64::INFINITY);
    let mut check = Check::default();
    check.that(late_most <= LATE && late_worst <= LATE_WORST, || {
        format!("of promises one in a hundred was kept {late_most:.1} s late, one {late_worst:.1} s")
    });
    check.that(placed == new.len() && took.len() == placed, || {
        format!("of {} new orders {placed} were taken and {} paid", new.len(), took.len())
    });
    check.that(quantile(&took, 0.99) <= NEW_MOST, || format!("a new order was paid after {new_worst:.1} s"));
    check.that(overdue == 0, || format!("{overdue} are still overdue"));
    Ok(Finding {
        asked: "one participant away with 300,000 sagas waiting: the others' promises are kept within 2 s (99 of 100), new orders, a sixth of them with two backoffs, are paid within 5 s (99 of 100)",
        measured: format!(
            "{waiting} wait for the shipment worker, {put_off:.0} times one was put off; {} promises kept {late_most:.2} s late (99 of 100), worst {late_worst:.2} s; {} new orders paid after p50 {:.2} s, p99 {:.2} s, worst {new_worst:.2} s; {overdue} overdue in the end",
            late.len(),
            took.len(),
            quantile(&took, 0.5),
            quantile(&took, 0.99),
        ),
        broken: check.0,
    })
}

async fn order(stage: &Stage, name: &str) -> Result<(), Error> {
    match stage.shop.place(one("card_approved"), name.to_owned()).await {
        PlacementAnswer::Placed(_) => Ok(()),
        other => Err(Error::NotReached(format!("order {name}: {other:?}"))),
    }
}

/// Creates copies of the one order with this label.
async fn copies(stage: &Stage, label: &str, count: i64, wake: &str) -> Result<(), Error> {
    let sql = COPY.replace("$LABEL", label).replace("$WAKE", wake).replace("$N", &count.to_string());
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&stage.engine).await?;
    Ok(())
}
