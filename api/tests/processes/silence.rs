//! The connections to the databases go silent, or lead to sessions that may not write.

use std::time::{Duration, Instant};

use amends_testkit::eventually;
use futures::future::join_all;
use serde_json::Value;
use sqlx::AssertSqlSafe;

use crate::support::{LONG, Process, Stack, client::order, clients};

/// Every role must recover over another connection within this time.
const BACK: Duration = Duration::from_secs(30);

/// Waits until a process reports that it is not ready; returns the reported state of its database.
async fn not_ready(process: &Process) -> Value {
    let client = process.client();
    eventually("a process that says it is not ready", LONG, || async {
        let (status, said) = client.try_get("/health/ready").await?;
        (status == 503).then(|| said["checks"]["database"].clone())
    })
    .await
}

#[tokio::test]
async fn every_role_goes_on_within_thirty_seconds_when_its_connections_go_silent() {
    let mut stack = Stack::embedded().await;
    let proxies = stack.through_proxies().await;
    let all = stack.start_all().await;
    stack.stock("mug", 1000).await;
    let client = clients(&all).remove(0);
    let body = order("mug", 1, "card_approved", "AT");
    // All processes have connections, and have used them.
    let first = client.place(&body).await;
    client.becomes(&first, "FULFILLED").await;
    let recorded = |least: i64| {
        let notifications = stack.pool("notification");
        async move {
            let count: i64 = sqlx::query_scalar("SELECT count(*) FROM notifications")
                .fetch_one(notifications)
                .await
                .unwrap();
            (count >= least).then_some(count)
        }
    };
    let before = eventually("the first order's notifications", LONG, || recorded(4)).await;

    proxies.iter().for_each(|proxy| proxy.silence());
    let begun = Instant::now();
    let said = join_all(all.iter().map(not_ready)).await;
    assert!(said.iter().all(|said| said == "silent" || said == "down"), "{said:?}");
    let placed = eventually("an order is taken", LONG, || async {
        let answer = client.try_place(&body, Some("into-the-silence")).await?;
        (answer.status == 201).then(|| answer.body["id"].as_str().unwrap().to_owned())
    })
    .await;
    client.becomes(&placed, "FULFILLED").await;
    eventually("its notifications", LONG, || recorded(before + 4)).await;
    join_all(all.iter().map(Process::ready)).await;
    assert!(begun.elapsed() < BACK, "all went on after {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_role_whose_sessions_were_read_only_takes_orders_again_within_seconds() {
    let stack = Stack::embedded().await;
    let api = stack.start(&["api"]).await;
    let (client, body) = (api.client(), order("mug", 1, "card_approved", "AT"));
    client.place(&body).await;
    let owner = stack.pool("engine");
    let database: String =
        sqlx::query_scalar("SELECT current_database()::text").fetch_one(owner).await.unwrap();
    let role = |what: &str| AssertSqlSafe(format!("ALTER ROLE amends_engine IN DATABASE {database} {what}"));
    sqlx::raw_sql(role("SET default_transaction_read_only = on")).execute(owner).await.unwrap();
    let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE datname = current_database() AND usename = 'amends_engine'";
    sqlx::raw_sql(terminate).execute(owner).await.unwrap();

    eventually("an order is turned away", LONG, || async {
        (client.try_place(&body, None).await?.status == 503).then_some(())
    })
    .await;
    assert_eq!(not_ready(&api).await, "read-only");

    sqlx::raw_sql(role("RESET default_transaction_read_only")).execute(owner).await.unwrap();
    eventually("an order is taken", BACK, || async {
        (client.try_place(&body, None).await?.status == 201).then_some(())
    })
    .await;
    api.ready().await;
    let refused = join_all((0..20).map(|_| client.try_place(&body, None))).await;
    assert!(
        refused.iter().flatten().all(|answer| answer.status == 201),
        "no session is left that cannot write"
    );
}
