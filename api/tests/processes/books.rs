//! The books of a deployment at rest: RELIABILITY's invariants, by `amends-proof`.

use std::cell::RefCell;

use amends_proof::books::{self, Ledger, NOTIFIED_LABELS, RECORDED_LABELS};
use amends_testkit::eventually;
use sqlx::PgPool;

use crate::support::{LONG, Stack};

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
        if stack.broker.real().is_some() {
            // Every label of which customers are notified was published, and is recorded.
            let told = count(stack.pool("engine"), NOTIFIED_LABELS).await;
            let recorded = count(stack.pool("notification"), RECORDED_LABELS).await;
            busy.push(("notifications", told - recorded));
        }
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

/// Domain events: a test may have made the embedded broker lose some.
const DOMAIN_EVENTS: i32 = 18;

/// Checks the books of a deployment that has settled and in which nothing is parked.
pub async fn balance(stack: &Stack) {
    balance_but(stack, &[]).await;
}

/// The same without some invariants: those that this build cannot check, because it cannot read what a newer one wrote.
pub async fn balance_but(stack: &Stack, without: &[i32]) {
    let report = books::report(&stack.sources(), &Ledger::default()).await.expect("the books can be read");
    let kept = |number: i32| {
        !without.contains(&number) && (number != DOMAIN_EVENTS || stack.broker.real().is_some())
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
