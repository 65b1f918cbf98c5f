//! The broker is away for ten minutes while orders continue to arrive. None of them is cancelled for it once the broker
//! is back, and those with the nearest promise are served first.

use std::{path::Path, time::Duration};

use tokio::time::sleep;

use super::{
    Check, Error, Finding,
    load::{PlacementAnswer, one, steadily},
    quantile,
    stage::Stage,
};

/// Orders per second, while the broker is away and after it is back.
const RATE: f64 = 100.0;
const AWAY: Duration = Duration::from_secs(600);
const AFTER: Duration = Duration::from_secs(60);
/// The first order's time in PENDING ends five minutes after the broker is back. All must have stock well before.
const MOST: Duration = Duration::from_secs(240);
/// Share of the backlog within which 99 of 100 orders are served in their order: they go to six partitions at once.
const ASTRAY: f64 = 0.1;

/// When stock was reserved for each order of the backlog, compared with when it was placed. Orders of the last seconds
/// are in the queue of the api's client, which delivers them itself.
const PLACES: &str = "
    SELECT abs(place - age)::float8 FROM (
        SELECT row_number() OVER (ORDER BY t.position) AS place, row_number() OVER (ORDER BY s.born_at, s.id) AS age
        FROM timeline AS t JOIN sagas AS s ON s.id = t.saga_id
        WHERE t.body::jsonb -> 'did' ->> 'label' = 'CONFIRMED' AND s.born_at < to_timestamp($1) - interval '15 seconds') AS reserved";

pub(super) async fn measure(program: &Path, size: f64) -> Result<Finding, Error> {
    let mut stage = Stage::set(program, &[("pending_timeout", "15m")]).await?;
    let away = AWAY.mul_f64(size);
    stage.deployment.kafka.kill();
    let placed = steadily(&stage.shop, RATE, away, &one("card_approved"), "unsent").await;
    stage.deployment.kafka.restart().await?;
    let back_at: f64 = sqlx::query_scalar("SELECT extract(epoch FROM clock_timestamp())::float8")
        .fetch_one(&stage.engine)
        .await?;
    let shop = stage.shop.clone();
    let coming = tokio::spawn(async move {
        steadily(&shop, RATE, AFTER.mul_f64(size), &one("card_approved"), "after").await
    });
    let backlog = "SELECT count(*) FROM sagas WHERE live AND label = 'PENDING'";
    let took = stage.until_none(backlog, MOST + AFTER).await?;
    let after = coming.await.map_err(|e| Error::NotReached(e.to_string()))?;
    stage.until_none("SELECT count(*) FROM sagas WHERE live", MOST).await?;
    sleep(Duration::from_secs(1)).await;

    let orders = placed.iter().chain(&after);
    let accepted = orders.filter(|(_, answer)| matches!(answer, PlacementAnswer::Placed(_))).count();
    let fulfilled = stage.count("SELECT count(*) FROM sagas WHERE label = 'FULFILLED'").await?;
    let cancelled = stage.count("SELECT count(*) FROM sagas WHERE label = 'CANCELLED'").await?;
    let mut astray: Vec<f64> = sqlx::query_scalar(PLACES).bind(back_at).fetch_all(&stage.engine).await?;
    astray.sort_by(f64::total_cmp);
    let entries = stage.count("SELECT count(*) FROM timeline WHERE body::jsonb ->> 'event' = 'woke'").await?;
    stage.end().await;

    let astray_most = quantile(&astray, 0.99);
    let mut check = Check::default();
    check.that(accepted == placed.len() + after.len(), || {
        format!("of {} orders {accepted} were taken", placed.len() + after.len())
    });
    check.that(cancelled == 0 && fulfilled == accepted as i64, || {
        format!("{cancelled} were cancelled and {fulfilled} fulfilled of {accepted}")
    });
    check.that(took <= MOST, || format!("the last had its stock after {} s", took.as_secs()));
    check.that(astray_most <= ASTRAY * astray.len() as f64, || {
        format!("one of a hundred was {astray_most:.0} places from its own")
    });
    Ok(Finding {
        asked: "the broker away for ten minutes at 100 orders/s: none is cancelled for it, all have their stock ≤ 240 s after it is back, the oldest promise first",
        measured: format!(
            "away for {} s, {} orders meanwhile; {} s after it was back all had their stock, {cancelled} cancelled, {fulfilled} fulfilled of {accepted}; 99 of 100 within {astray_most:.0} places of their own, worst {:.0}; {entries} times was a saga woken",
            away.as_secs(),
            astray.len(),
            took.as_secs(),
            astray.last().copied().unwrap_or_default(),
        ),
        broken: check.0,
    })
}
