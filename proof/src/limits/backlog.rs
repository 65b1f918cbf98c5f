//! A worker is away until its oldest waiting command is three step deadlines old. Once it is back, the same orders are
//! fulfilled nearly as fast as if no probes had been sent meanwhile, and none was undone because of the delay.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    Check, Error, Finding,
    load::{at_once, one},
    median,
    stage::Stage,
};

/// Deadline of `pay`.
const DEADLINE: Duration = Duration::from_secs(10);
const ORDERS: usize = 6_000;
const TOGETHER: usize = 256;
/// Number of rounds with fresh and with old orders, in turn.
const ROUNDS: usize = 3;
/// Maximum loss of goodput.
const COST: f64 = 0.1;
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) async fn measure(program: &Path) -> Result<Finding, Error> {
    let mut stage = Stage::set(program, &[("database_connections", "6")]).await?;
    // A new deployment is slower: tables are small, files are created.
    goodput(&mut stage, "warm", Duration::ZERO).await?;
    let (mut fresh, mut old) = (Vec::new(), Vec::new());
    let mut again = 0;
    for round in 0..ROUNDS {
        fresh.push(goodput(&mut stage, &format!("fresh-{round}"), Duration::ZERO).await?);
        let before = stage.produced("payment.commands").await?;
        old.push(goodput(&mut stage, &format!("old-{round}"), 3 * DEADLINE).await?);
        again = stage.produced("payment.commands").await? - before;
    }
    let undone = stage
        .count("SELECT count(*) FROM timeline WHERE body::jsonb -> 'did' ->> 'headingFor' IS NOT NULL")
        .await?;
    let fulfilled = stage.count("SELECT count(*) FROM sagas WHERE label = 'FULFILLED'").await?;
    let charges: i64 = sqlx::query_scalar("SELECT count(*) FROM gateway_charges")
        .fetch_one(&stage.deployment.pool("payment"))
        .await?;
    stage.end().await;

    let in_all = ((2 * ROUNDS + 1) * ORDERS) as i64;
    let (fresh, old) = (median(fresh), median(old));
    let cost = 1.0 - old / fresh;
    let mut check = Check::default();
    check.that(cost < COST, || format!("it costs {:.0} %", cost * 100.0));
    check.that(undone == 0, || format!("{undone} were undone for it"));
    check.that(fulfilled == in_all && charges == in_all, || {
        format!("{fulfilled} fulfilled and {charges} charged of {in_all}")
    });
    Ok(Finding {
        asked: "a worker's backlog of three step deadlines costs < 10 % of goodput and undoes nothing",
        measured: format!(
            "{ORDERS} orders that waited for the payment worker: {fresh:.0} fulfilled a second where they are fresh, {old:.0} where the oldest is {} s old and {again} commands wait: {:.0} % less (medians of {ROUNDS}); {undone} undone",
            (3 * DEADLINE).as_secs(),
            cost * 100.0
        ),
        broken: check.0,
    })
}

/// Lets orders wait for the payment worker for this long, and starts it; returns how many per second are then
/// fulfilled.
async fn goodput(stage: &mut Stage, name: &str, age: Duration) -> Result<f64, Error> {
    stage.stop("payment").await;
    let begun = Instant::now();
    let placed = at_once(&stage.shop, ORDERS, TOGETHER, &one("card_approved"), name).await;
    if placed < ORDERS {
        return Err(Error::NotReached(format!("{placed} of {ORDERS} orders were placed")));
    }
    stage.until_none("SELECT count(*) FROM sagas WHERE live AND label = 'PENDING'", PATIENCE).await?;
    sleep(age.saturating_sub(begun.elapsed())).await;
    stage.start("payment").await?;
    // It counts from the first order served: a group takes some time to assign partitions to a new member.
    let waiting = "SELECT count(*) FROM sagas WHERE live AND label = 'CONFIRMED'";
    while stage.count(waiting).await? == ORDERS as i64 {
        sleep(Duration::from_millis(20)).await;
    }
    let served = Instant::now();
    stage.until_none("SELECT count(*) FROM sagas WHERE live", PATIENCE).await?;
    Ok(ORDERS as f64 / served.elapsed().as_secs_f64())
}
