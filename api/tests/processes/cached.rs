//! Stock that is cached in a real Redis by two apis: no reader is behind its own write or a status that it has seen, and
//! Redis may be killed.

use std::fs;

use amends_testkit::{eventually, redis::RedisServer};
use serde_json::json;

use crate::support::{LONG, Process, Stack, client::order};

async fn stock(api: &Process) -> (i64, i64) {
    let shown = api.client().get("/api/inventory/mug").await;
    (shown["onHand"].as_i64().unwrap(), shown["reserved"].as_i64().unwrap())
}

/// Returns how often this api has served stock from the cache.
async fn cached_reads(api: &Process) -> u64 {
    let (_, metrics) = api.client().try_get_text("/metrics").await.unwrap();
    let line = metrics.lines().find(|line| line.starts_with("amends_api_stock_reads_total{from=\"cache\"}"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_is_never_older_than_a_write_or_a_status_that_was_shown_with_redis_and_without() {
    let mut redis = RedisServer::start();
    let mut stack = Stack::embedded().await;
    stack.set("REDIS_URL", &redis.url());
    // Without a payment worker each order stays CONFIRMED, and holds its pieces.
    let _roles = [stack.start(&["worker", "inventory"]).await, stack.start(&["engine"]).await];
    let apis = [stack.start(&["api"]).await, stack.start(&["api"]).await];
    let (mut on_hand, mut reserved) = (1_000, 0);
    for round in ["with Redis", "without", "with Redis again"] {
        match round {
            "without" => redis.kill(),
            "with Redis again" => redis.restart(),
            _ => {}
        }
        for n in 0..4 {
            let (one, other) = (&apis[n % 2], &apis[(n + 1) % 2]);
            on_hand += 10;
            let put = one.client().put("/api/inventory/mug/stock", &json!({ "onHand": on_hand })).await;
            assert_eq!(put.0, 200, "{round}: {}", put.1);
            for api in [one, other, one, other] {
                assert_eq!(stock(api).await, (on_hand, reserved), "{round}");
            }
            let id = one.client().place(&order("mug", 2, "card_approved", "AT")).await;
            one.client().becomes(&id, "CONFIRMED").await;
            reserved += 2;
            for api in [other, one] {
                assert_eq!(stock(api).await, (on_hand, reserved), "{round}: as the status says");
            }
        }
        if round != "without" {
            eventually("reads come from the cache", LONG, || async {
                stock(&apis[0]).await;
                (cached_reads(&apis[0]).await > 0).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_of_redis_in_its_file_counts_without_a_restart() {
    let mut redis = RedisServer::start();
    redis.require_password("first");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("redis-url");
    fs::write(&file, redis.url_with("first")).unwrap();
    let mut stack = Stack::embedded().await;
    stack.set("REDIS_URL_FILE", file.to_str().unwrap());
    let _worker = stack.start(&["worker", "inventory"]).await;
    let api = stack.start(&["api"]).await;
    let put = api.client().put("/api/inventory/mug/stock", &json!({ "onHand": 7 })).await;
    assert_eq!(put.0, 200, "{}", put.1);
    // Returns whether this read comes from the cache.
    let is_cached = async || {
        let before = cached_reads(&api).await;
        assert_eq!(stock(&api).await, (7, 0));
        cached_reads(&api).await > before
    };
    eventually("reads come from the cache", LONG, || async { is_cached().await.then_some(()) }).await;

    redis.require_password("another");
    redis.end_connections();
    eventually("the old password is refused", LONG, || async {
        // Two in a row: on a busy machine one may be late by itself.
        (!is_cached().await && !is_cached().await).then_some(())
    })
    .await;
    fs::write(&file, redis.url_with("another")).unwrap();
    eventually("the new one counts", LONG, || async { is_cached().await.then_some(()) }).await;
}
