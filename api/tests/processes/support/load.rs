//! Orders of every outcome, placed whatever dies meanwhile.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use futures::{StreamExt, stream};
use serde_json::Value;

use super::{
    Stack,
    client::{Client, order},
};

/// Adds the stock for [`place_all`] and [`place_until`].
pub async fn stock(stack: &Stack) {
    stack.stock("mug", 1_000_000).await;
    stack.stock("none-left", 0).await;
}

/// Returns orders of every outcome, by number.
fn mixed(n: usize) -> Value {
    match n % 20 {
        3 => order("mug", 1, "card_declined", "AT"),
        7 => order("mug", 2, "card_approved", "AQ"),
        11 => order("none-left", 1, "card_approved", "AT"),
        13 => order("mug", 1, "card_error_twice", "AT"),
        17 => order("unheard-of", 1, "card_approved", "AT"),
        _ => order("mug", 1, "card_approved", "AT"),
    }
}

/// Places orders concurrently, each until it is accepted; returns their ids.
pub async fn place_all(clients: &[Client], count: usize, placed: &AtomicUsize) -> Vec<String> {
    stream::iter((0..count).map(|n| place(clients, n, placed))).buffer_unordered(24).collect().await
}

/// Places fifty orders per second until stopped; returns their ids.
pub async fn place_until(stop: &AtomicBool, clients: &[Client]) -> Vec<String> {
    let placed = AtomicUsize::new(0);
    let pace = tokio::time::interval(Duration::from_millis(20));
    let orders = stream::unfold((0, pace), |(n, mut pace)| async move {
        pace.tick().await;
        (!stop.load(Ordering::Relaxed)).then_some((n, (n + 1, pace)))
    });
    orders.map(|n| place(clients, n, &placed)).buffer_unordered(24).collect().await
}

/// A client without an answer repeats its request with the same key, at any available api.
async fn place(clients: &[Client], n: usize, placed: &AtomicUsize) -> String {
    let key = format!("order-{n}");
    for round in 0.. {
        let client = &clients[(n + round) % clients.len()];
        match client.try_place(&mixed(n), Some(&key)).await {
            Some(answer) if answer.status == 201 => {
                placed.fetch_add(1, Ordering::Relaxed);
                let id = answer.body["id"].as_str().unwrap().to_owned();
                if n % 10 == 9 {
                    // 202, 409, or no answer: all are possible, and none may unbalance the books.
                    let _ = client.try_delete(&format!("/api/orders/{id}")).await;
                }
                return id;
            }
            Some(answer) => assert_eq!(answer.status, 503, "{}", answer.body),
            None => tokio::task::yield_now().await,
        }
    }
    unreachable!("it asks until it is answered")
}

/// Waits until this many orders are placed.
pub async fn reaches(placed: &AtomicUsize, count: usize) {
    while placed.load(Ordering::Relaxed) < count {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Asserts that every acknowledged order exists, and that there is one for each key.
pub async fn every_order_is_there(stack: &Stack, ids: &[String]) {
    let rows: Vec<(uuid::Uuid,)> =
        sqlx::query_as("SELECT id FROM orders").fetch_all(stack.pool("engine")).await.unwrap();
    let there: HashSet<String> = rows.into_iter().map(|(id,)| id.to_string()).collect();
    assert_eq!(there.len(), ids.len(), "an order for each key");
    assert!(ids.iter().all(|id| there.contains(id)), "every 201 is in the books");
}
