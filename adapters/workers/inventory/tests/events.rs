//! `inventory.updated`: the ledger as events, over a real Postgres.

use std::sync::Mutex;

use amends_inventory::{MIGRATOR, cache::StockCache, events::Publisher, router};
use amends_protocol::transport::{Error, Inbound, Outbound, Sink};
use axum::{body::Body, http::Request};
use serde_json::{Value, json};
use sqlx::PgPool;
use tower::ServiceExt;

/// Keeps the messages sent, unless it is set to fail.
#[derive(Default)]
struct Told {
    away: Mutex<bool>,
    messages: Mutex<Vec<Outbound>>,
}

impl Sink for &Told {
    async fn send(&self, messages: Vec<Outbound>) -> Result<(), Error> {
        if *self.away.lock().unwrap() {
            return Err(Error("away".to_owned()));
        }
        self.messages.lock().unwrap().extend(messages);
        Ok(())
    }
    async fn dead_letter(&self, _: &Inbound, _: &str) -> Result<(), Error> {
        Ok(())
    }
}

impl Told {
    /// Returns product, quantity and sequence of each event.
    fn events(&self) -> Vec<(String, i64, i64)> {
        let messages = self.messages.lock().unwrap();
        let read = messages.iter().map(|message| {
            assert_eq!(message.topic, "inventory.updated");
            let event: Value = serde_json::from_slice(&message.bytes).unwrap();
            assert_eq!((&event["specversion"], &event["type"]), (&json!("1.0"), &json!("inventory.updated")));
            let sequence = event["sequence"].as_str().unwrap().parse().unwrap();
            let product = event["data"]["productId"].as_str().unwrap().to_owned();
            assert_eq!(event["subject"], product);
            (product, event["data"]["quantity"].as_i64().unwrap(), sequence)
        });
        read.collect()
    }
}

async fn put(pool: &PgPool, product: &str, on_hand: i64) {
    let body = Body::from(json!({ "onHand": on_hand }).to_string());
    let put =
        Request::put(format!("/api/inventory/{product}/stock")).header("content-type", "application/json");
    let request = put.body(body).unwrap();
    assert!(router(pool.clone(), 2, StockCache::Off).oneshot(request).await.unwrap().status().is_success());
}

#[tokio::test]
async fn every_move_is_told_once_acknowledged_and_told_again_if_it_was_not() {
    let database = amends_testkit::database(&MIGRATOR, "inventory").await;
    let service = PgPool::connect(&database.role_url("amends_inventory")).await.unwrap();
    let told = Told::default();
    let publisher = Publisher::new(service.clone(), &told);
    assert_eq!(publisher.run_once().await.unwrap(), 0);
    put(&service, "mug", 10).await;
    put(&service, "cup", 4).await;
    put(&service, "mug", 7).await;

    *told.away.lock().unwrap() = true;
    publisher.run_once().await.unwrap_err();
    *told.away.lock().unwrap() = false;
    assert_eq!(publisher.run_once().await.unwrap(), 3);
    assert_eq!(publisher.run_once().await.unwrap(), 0);
    let events = told.events();
    let what: Vec<_> = events.iter().map(|(product, quantity, _)| (product.as_str(), *quantity)).collect();
    assert_eq!(what, [("mug", 10), ("cup", 4), ("mug", -3)]);
    assert!(events.is_sorted_by_key(|(.., sequence)| *sequence));
    let placements: Vec<_> = told.messages.lock().unwrap().iter().map(|m| m.placement).collect();
    assert!(placements[0] == placements[2], "a product's events stay in order");
}

#[tokio::test]
async fn a_move_whose_transaction_is_slow_is_not_skipped() {
    let database = amends_testkit::database(&MIGRATOR, "inventory").await;
    let service = PgPool::connect(&database.role_url("amends_inventory")).await.unwrap();
    let told = Told::default();
    let publisher = Publisher::new(service.clone(), &told);
    put(&service, "mug", 1).await;
    // Like a worker that is paused between its append and its commit.
    let mut slow = service.begin().await.unwrap();
    sqlx::query(
        "WITH locked AS MATERIALIZED (SELECT pg_advisory_xact_lock($1))
         INSERT INTO moves (product_id, kind, quantity) SELECT 'slow', 'adjusted', 0 FROM (SELECT count(*) FROM locked) AS held",
    )
    .bind(0x6c65_6467_6572_i64)
    .execute(&mut *slow)
    .await
    .unwrap();
    let quick = tokio::spawn({
        let service = service.clone();
        async move { put(&service, "cup", 2).await }
    });
    assert_eq!(publisher.run_once().await.unwrap(), 1, "what is committed is told");
    amends_testkit::eventually(
        "the other waits for its number",
        std::time::Duration::from_secs(60),
        || async {
            let waiting: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            )
            .fetch_one(&database.pool)
            .await
            .unwrap();
            (waiting > 0).then_some(())
        },
    )
    .await;
    slow.commit().await.unwrap();
    quick.await.unwrap();
    assert_eq!(publisher.run_once().await.unwrap(), 2);
    let products: Vec<_> = told.events().into_iter().map(|(product, ..)| product).collect();
    assert_eq!(products, ["mug", "slow", "cup"]);
}
