//! Two builds of the program side by side: a rolling upgrade, and back. The newer one knows one more version of the
//! workflow, and newer rules and rows (feature `next`); the older one is the program under test.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use amends_testkit::eventually;
use futures::future::join_all;
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    books,
    support::{
        LONG, Stack,
        client::{Client, order},
    },
};

/// Returns the newer build. It is built at first use, from the same sources and dependencies.
fn next() -> &'static Path {
    static NEXT: OnceLock<PathBuf> = OnceLock::new();
    NEXT.get_or_init(|| {
        let this = Path::new(env!("CARGO_BIN_EXE_amends"));
        let target = this.parent().and_then(Path::parent).expect("target/debug/amends");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "-q", "--workspace", "--features", "amends-api/next", "--bin", "amends-next"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        build.arg("--target-dir").arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(build.status().expect("cargo runs").success(), "the newer build cannot be made");
        this.with_file_name("amends-next")
    })
}

/// Returns the version of the workflow in which an order's saga was born, and the rules that it was last written by.
async fn versions(engine: &PgPool, order: &str) -> (i32, i16) {
    sqlx::query_as("SELECT workflow_version, core_version FROM sagas WHERE id = (SELECT saga_id FROM orders WHERE id = $1)")
        .bind(order.parse::<Uuid>().unwrap())
        .fetch_one(engine)
        .await
        .unwrap()
}

async fn place(client: &Client, count: usize, method: &str) -> Vec<String> {
    let body = order("mug", 1, method, "AT");
    join_all((0..count).map(|_| client.place(&body))).await
}

async fn fulfilled(client: &Client, orders: &[String]) {
    for id in orders {
        client.becomes(id, "FULFILLED").await;
    }
}

/// Places an order until one is born in this version.
async fn until_born_in(stack: &Stack, client: &Client, version: i32) {
    eventually(&format!("orders are born in version {version}"), LONG, || async {
        let id = client.place(&order("mug", 1, "card_approved", "AT")).await;
        (versions(stack.pool("engine"), &id).await.0 == version).then_some(())
    })
    .await;
}

/// What this build cannot check of a newer one's sagas: the replay of their timelines.
const UNREADABLE: [i32; 2] = [8, 10];

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_upgrade_and_back_stalls_no_order_where_the_older_engine_is_there_first() {
    a_rolling_upgrade_and_back(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_upgrade_and_back_stalls_no_order_where_the_newer_engine_is_there_first() {
    a_rolling_upgrade_and_back(false).await;
}

async fn a_rolling_upgrade_and_back(older_first: bool) {
    let next = next();
    let stack = Stack::embedded().await;
    let workers = [
        stack.start(&["worker", "inventory"]).await,
        stack.start(&["worker", "payment"]).await,
        stack.start(&["worker", "shipment"]).await,
    ];
    stack.stock("mug", 100_000).await;
    let engine = stack.pool("engine");

    // First only the older program; then both, in either order.
    let (older, older_api) = (stack.start(&["engine"]).await, stack.start(&["api"]).await);
    let older_client = older_api.client();
    let before = place(&older_client, 5, "card_approved").await;
    fulfilled(&older_client, &before).await;
    let mut under_way = place(&older_client, 5, "card_slow").await;
    let (older, newer) = if older_first {
        let newer = stack.start_of(next, &["engine"]).await;
        (older, newer)
    } else {
        older.stop().await;
        let newer = stack.start_of(next, &["engine"]).await;
        (stack.start(&["engine"]).await, newer)
    };
    let newer_api = stack.start_of(next, &["api"]).await;
    let newer_client = newer_api.client();
    under_way.extend(place(&newer_client, 5, "card_slow").await);
    under_way.extend(place(&older_client, 5, "card_slow").await);
    for id in &under_way {
        assert_eq!(versions(engine, id).await.0, 1, "not all programs know version 2");
    }
    fulfilled(&older_client, &under_way).await;

    // Only the newer program: orders are born in the new version.
    older.stop().await;
    older_api.stop().await;
    until_born_in(&stack, &newer_client, 2).await;
    let under_way = place(&newer_client, 12, "card_slow").await;

    // And back: sagas born meanwhile continue, whichever process owns their slots.
    let (older, older_api) = (stack.start(&["engine"]).await, stack.start(&["api"]).await);
    let older_client = older_api.client();
    for id in &under_way {
        assert_eq!(versions(engine, id).await, (2, 2));
        let path = format!("/api/orders/{id}");
        older_client.get(&path).await;
        assert_eq!(older_client.delete(&path).await.0, 503, "it cannot be judged there");
    }
    let newer = if older_first {
        newer
    } else {
        // The older program owns all slots of the newer one.
        newer.stop().await;
        stack.start_of(next, &["engine"]).await
    };
    until_born_in(&stack, &newer_client, 1).await;
    fulfilled(&newer_client, &under_way).await;
    // Sagas that only the newer program knows have ended before its last process ends.
    books::settle(&stack).await;
    until_none_is_left(engine).await;
    newer.stop().await;
    newer_api.stop().await;
    let after = place(&older_client, 5, "card_approved").await;
    fulfilled(&older_client, &after).await;
    books::settle(&stack).await;
    let strays: i64 = sqlx::query_scalar("SELECT count(*) FROM strays").fetch_one(engine).await.unwrap();
    assert_eq!(strays, 0);
    books::balance_but(&stack, &UNREADABLE).await;
    drop((older, older_api, workers));
}

async fn until_none_is_left(engine: &PgPool) {
    eventually("every reply is judged", LONG, || async {
        let left: i64 =
            sqlx::query_scalar("SELECT count(*) FROM deferred_replies").fetch_one(engine).await.unwrap();
        (left == 0).then_some(())
    })
    .await;
}
