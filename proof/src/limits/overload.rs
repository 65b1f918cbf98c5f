//! Five times as many orders arrive as are admitted: the rest is refused with the time to retry, nothing is half made,
//! and the api's memory does not grow.

use std::{path::Path, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    Check, Error, Finding,
    load::{PlacementAnswer, one, steadily},
    median,
    stage::Stage,
};
use crate::books::Ledger;

const ADMITTED: f64 = 1_000.0;
const TIMES: f64 = 5.0;
const WARM: Duration = Duration::from_secs(3);
const LASTS: Duration = Duration::from_secs(20);
/// Interval between readings of the api's memory; during the first readings it still grows to what the load needs.
const LOOK: Duration = Duration::from_millis(250);
const GROWING: usize = 20;
const COMPARED: usize = 12;
/// Maximum growth in MiB, between the sixth to eighth second and the last three.
const GROWTH: f64 = 8.0;

pub(super) async fn measure(program: &Path) -> Result<Finding, Error> {
    let stage = Stage::set(program, &[("admission", "1000"), ("database_connections", "6")]).await?;
    let body = one("card_approved");
    let mut answers = steadily(&stage.shop, 0.8 * ADMITTED, WARM, &body, "warm").await;
    let before = stage.resident_mib("api")?;
    let (ended, begun) = (CancellationToken::new(), Instant::now());
    let load = async {
        let answers = steadily(&stage.shop, TIMES * ADMITTED, LASTS, &body, "much").await;
        ended.cancel();
        (answers, begun.elapsed())
    };
    let memory = async {
        let mut seen = Vec::new();
        while !ended.is_cancelled() {
            seen.push(stage.resident_mib("api")?);
            sleep(LOOK).await;
        }
        Ok::<_, Error>(seen)
    };
    let ((much, took), memory) = tokio::join!(load, memory);
    let memory = memory?;
    let offered = much.len() as f64 / took.as_secs_f64();
    let admitted = much.iter().filter(|(_, answer)| matches!(answer, PlacementAnswer::Placed(_))).count();
    let turned_away =
        much.iter().filter(|(_, answer)| matches!(answer, PlacementAnswer::TurnedAway { .. })).count();
    let enough = memory.len() > GROWING + 2 * COMPARED;
    let early = median(memory.iter().skip(GROWING).take(COMPARED).copied().collect());
    let late = median(memory.iter().rev().take(COMPARED).copied().collect());

    answers.extend(much);
    let mut ledger = Ledger::default();
    let (mut silent, mut odd) = (0, Vec::new());
    for (key, answer) in &answers {
        match answer {
            PlacementAnswer::Placed(id) => ledger.told.push((Some(key.clone()), *id)),
            PlacementAnswer::TurnedAway { says_when: true, .. } => {}
            PlacementAnswer::TurnedAway { .. } => silent += 1,
            PlacementAnswer::Odd(what) | PlacementAnswer::Unanswered(what) => odd.push(what.clone()),
        }
    }
    let report = stage.books(&ledger).await?;
    let half_made = stage.count("SELECT
        (SELECT count(*) FROM orders AS o WHERE NOT EXISTS (SELECT FROM sagas AS s WHERE s.id = o.saga_id)
            OR NOT EXISTS (SELECT FROM timeline AS t WHERE t.saga_id = o.saga_id AND t.revision = 1)
            OR NOT EXISTS (SELECT FROM personal AS p WHERE p.saga_id = o.saga_id)
            OR NOT EXISTS (SELECT FROM idempotency_keys AS k WHERE k.order_id = o.id))
      + (SELECT count(*) FROM sagas AS s WHERE NOT EXISTS (SELECT FROM orders AS o WHERE o.saga_id = s.id))
      + (SELECT count(*) FROM idempotency_keys AS k WHERE NOT EXISTS (SELECT FROM orders AS o WHERE o.id = k.order_id))").await?;
    let orders = stage.count("SELECT count(*) FROM orders").await?;
    let fulfilled = stage.count("SELECT count(*) FROM sagas WHERE label = 'FULFILLED'").await?;
    stage.end().await;

    let told = ledger.told.len() as i64;
    let mut check = Check::default();
    check.that(offered >= 0.9 * TIMES * ADMITTED, || {
        format!("only {offered:.0} a second were offered: this machine is too slow or too busy")
    });
    check.that(turned_away > 0 && silent == 0, || {
        format!("{silent} of {turned_away} were not told when to ask again")
    });
    check.that(odd.is_empty(), || format!("{} got another answer or none, such as {:?}", odd.len(), odd[0]));
    check.that(half_made == 0, || format!("{half_made} half made"));
    check.that(orders == told && fulfilled == told, || {
        format!("{told} were answered 201, there are {orders} and {fulfilled} are fulfilled")
    });
    check.that(report.violations() == 0, || format!("the books: {report}"));
    check.that(enough && late - early <= GROWTH, || {
        format!("the api's memory went from {early:.1} to {late:.1} MiB")
    });
    Ok(Finding {
        asked: "at five times the 1,000 orders a second that are admitted: 429 or 503 with Retry-After, no half-made order, the api's memory does not grow (≤ 8 MiB in 12 s)",
        measured: format!(
            "{offered:.0} a second offered for {:.0} s, {admitted} admitted and fulfilled, {turned_away} turned away, {silent} of them not told when, {} without such an answer, {half_made} half made, {} violations; memory {before:.1} MiB before, {early:.1} early, {late:.1} late",
            took.as_secs_f64(),
            odd.len(),
            report.violations()
        ),
        broken: check.0,
    })
}
