//! The books of a deployment at rest: RELIABILITY's invariants, by `amends-proof`.

use std::cell::RefCell;

use amends_proof::books::{self, Ledger};
use amends_testkit::eventually;
use sqlx::PgPool;

use crate::support::{LONG, Stack};

/// Has every domain event noted, so that the books can tell whether one is missing.
pub async fn note_events(stack: &Stack) {
    books::note_events(stack.pool("engine")).await.unwrap();
}

/// Waits until nothing is in progress: no saga has a timer or an outstanding command, no worker a call.
pub async fn settle(stack: &Stack) {
    // Printed if the wait fails.
    let seen = RefCell::new(Vec::new());
    eventually("everything has ended", LONG * 2, || async {
        let mut busy =
            vec![("sagas", count(stack.pool("engine"), "SELECT count(*) FROM sagas WHERE live").await)];
        for worker in ["payment", "shipment"] {
            busy.push((worker, count(stack.pool(worker), "SELECT count(*) FROM commands WHERE live").await));
        }
        let (engine, notification) = (stack.pool("engine"), stack.pool("notification"));
        let recorded = match stack.broker.real() {
            // Every event of which customers are notified has arrived.
            Some(_) => books::are_events_recorded(engine, notification).await,
            None => books::are_events_published(engine).await,
        };
        busy.push(("events", i64::from(!matches!(recorded, Ok(true)))));
        if *seen.borrow() != busy {
            println!("under way: {busy:?}");
            seen.borrow_mut().clone_from(&busy);
        }
        busy.iter().all(|(_, count)| *count == 0).then_some(())
    })
    .await;
}

async fn count(pool: &PgPool, sql: &'static str) -> i64 {
    // A database that is just restarting has not settled.
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap_or(1)
}

/// Events that have arrived: a test may have made the embedded broker lose some.
const EVENTS_ARRIVED: i32 = 18;

/// Checks the books of a deployment that has settled and in which nothing is parked.
pub async fn balance(stack: &Stack) {
    balance_but(stack, &[]).await;
}

/// The same without some invariants: those that this build cannot check, because it cannot read what a newer one wrote.
pub async fn balance_but(stack: &Stack, without: &[i32]) {
    let report = books::report(&stack.sources(), &Ledger::default()).await.expect("the books can be read");
    let kept = |number: i32| {
        !without.contains(&number) && (number != EVENTS_ARRIVED || stack.broker.real().is_some())
    };
    let violations: i64 =
        report.lines.iter().filter(|line| kept(line.number)).map(|line| line.violations).sum();
    assert_eq!(violations, 0, "{report}");
    assert_eq!(
        count(stack.pool("engine"), "SELECT count(*) FROM sagas WHERE parked").await,
        0,
        "parked sagas"
    );
}
