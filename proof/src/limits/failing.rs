//! A payment gateway that is out of order for every call: the worker gets hardly more commands than when it works.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    Check, Error, Finding,
    load::{PlacementAnswer, one, steadily},
    stage::Stage,
};
use crate::books::Ledger;

const RATE: f64 = 100.0;
const LASTS: Duration = Duration::from_secs(20);
/// Maximum number of commands per command that a healthy worker would get.
const MOST: f64 = 1.2;
/// What was put off is tried again within a minute.
const WELL_AGAIN: Duration = Duration::from_secs(90);
const TOPIC: &str = "payment.commands";

/// The gateway is out of order for the first two calls of `card_error_twice`, by its own count. This resets the count.
const BREAK: &str = "
    CREATE FUNCTION lose_count() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.calls := 1; RETURN NEW; END $$;
    CREATE TRIGGER lose_count BEFORE UPDATE ON gateway_faults FOR EACH ROW EXECUTE FUNCTION lose_count()";
const MEND: &str = "DROP TRIGGER lose_count ON gateway_faults; UPDATE gateway_faults SET calls = 100";

pub(super) async fn measure(program: &Path) -> Result<Finding, Error> {
    let stage = Stage::set(program, &[]).await?;
    let payment = stage.deployment.pool("payment");
    sqlx::raw_sql(BREAK).execute(&payment).await?;
    let answers = steadily(&stage.shop, RATE, LASTS, &one("card_error_twice"), "failing").await;
    // Time for the last order's first attempt, and those that follow it.
    sleep(Duration::from_secs(5)).await;
    let commands = stage.produced(TOPIC).await?;
    let asked = stage
        .count("SELECT count(*) FROM timeline AS t WHERE t.body::jsonb -> 'did' -> 'sent' ? 'pay execute'")
        .await?;
    let given_up = stage
        .count("SELECT count(*) FROM sagas WHERE heading_for IS NOT NULL OR outcome IS NOT NULL")
        .await?;
    let put_off = stage.metric("engine", "amends_engine_repeats_put_off_total").await?;

    sqlx::raw_sql(MEND).execute(&payment).await?;
    let mended = Instant::now();
    while stage.count("SELECT count(*) FROM sagas WHERE live").await? > 0 && mended.elapsed() < WELL_AGAIN {
        sleep(Duration::from_millis(250)).await;
    }
    let well = mended.elapsed();
    let in_all = stage.produced(TOPIC).await?;
    let fulfilled = stage.count("SELECT count(*) FROM sagas WHERE label = 'FULFILLED'").await?;
    let placed = answers.iter().filter_map(|(key, answer)| match answer {
        PlacementAnswer::Placed(id) => Some((Some(key.clone()), *id)),
        _ => None,
    });
    let ledger = Ledger { told: placed.collect(), ..Ledger::default() };
    let report = stage.books(&ledger).await?;
    stage.end().await;

    let each = commands as f64 / asked as f64;
    let told = ledger.told.len() as i64;
    let mut check = Check::default();
    check
        .that(told >= (0.9 * RATE * LASTS.as_secs_f64()) as i64, || format!("only {told} orders were taken"));
    check.that(asked == told, || format!("{asked} of {told} orders got as far as their payment"));
    check.that(each <= MOST, || format!("{each:.2} commands for each"));
    check.that(well < WELL_AGAIN, || "what was put off did not come back".to_owned());
    check.that(fulfilled + given_up >= told, || {
        format!("of {told} orders {fulfilled} were fulfilled and {given_up} given up")
    });
    check.that(report.violations() == 0, || format!("the books: {report}"));
    Ok(Finding {
        asked: "a worker that fails every call gets ≤ 1.2 commands for each that it would get if it were well",
        measured: format!(
            "{commands} commands for {asked} payments in {:.0} s: {each:.2}; {put_off:.0} attempts put off, {given_up} orders given up; once well, {fulfilled} fulfilled within {:.0} s by {} commands more, {} violations",
            LASTS.as_secs_f64(),
            well.as_secs_f64(),
            in_all - commands,
            report.violations()
        ),
        broken: check.0,
    })
}
