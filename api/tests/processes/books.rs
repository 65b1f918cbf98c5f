//! The books of a quiet deployment: RELIABILITY's invariants, by `amends-proof`.

use amends_proof::books::{self, Ledger};
use amends_testkit::eventually;
use sqlx::PgPool;

use crate::support::{LONG, Stack};

/// Waits until nothing is under way: no saga has a timer or a command outstanding, no worker a call.
pub async fn settle(stack: &Stack) {
    eventually("everything has ended", LONG * 2, || async {
        let mut busy = count(stack.pool("engine"), "SELECT count(*) FROM sagas WHERE live").await;
        for worker in ["payment", "shipment"] {
            busy += count(stack.pool(worker), "SELECT count(*) FROM commands WHERE live").await;
        }
        (busy == 0).then_some(())
    })
    .await;
}

async fn count(pool: &PgPool, sql: &'static str) -> i64 {
    // A database that is just restarting has not settled.
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap_or(1)
}

/// Domain events: the embedded broker may have been made to forget some.
const DOMAIN_EVENTS: i32 = 18;

/// Checks the books of a deployment that has settled and in which nothing is parked.
pub async fn balance(stack: &Stack) {
    let report = books::report(&stack.sources(), &Ledger::default()).await.expect("the books can be read");
    let violations: i64 =
        report.lines.iter().filter(|line| line.number != DOMAIN_EVENTS).map(|line| line.violations).sum();
    assert_eq!(violations, 0, "{report}");
    assert_eq!(
        count(stack.pool("engine"), "SELECT count(*) FROM sagas WHERE parked").await,
        0,
        "parked sagas"
    );
}
