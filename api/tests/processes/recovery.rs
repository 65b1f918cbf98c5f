//! Nothing is lost: processes, brokers and databases die while orders run, and afterwards the books balance.

use std::{
    collections::HashMap,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures::{StreamExt, future::join, stream};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;

use crate::{
    books,
    support::{
        Process, Stack,
        client::{Client, order},
    },
};

/// Orders of every outcome, by number.
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

/// Places orders side by side, each until it is taken; answers their ids. Every client that got no answer asks
/// again with its key, at whichever api is there.
async fn place_all(clients: &[Client], count: usize, placed: &AtomicUsize) -> Vec<String> {
    let order = |n: usize| async move {
        let key = format!("order-{n}");
        for round in 0.. {
            let client = &clients[(n + round) % clients.len()];
            match client.try_place(&mixed(n), Some(&key)).await {
                Some(answer) if answer.status == 201 => {
                    placed.fetch_add(1, Ordering::Relaxed);
                    let id = answer.body["id"].as_str().unwrap().to_owned();
                    if n % 10 == 9 {
                        // 202, 409, or no answer: all are possible, none may break the books.
                        let _ = client.try_delete(&format!("/api/orders/{id}")).await;
                    }
                    return id;
                }
                Some(answer) => assert_eq!(answer.status, 503, "{}", answer.body),
                None => tokio::task::yield_now().await,
            }
        }
        unreachable!("it asks until it is answered")
    };
    stream::iter((0..count).map(order)).buffer_unordered(24).collect().await
}

async fn every_order_is_there(stack: &Stack, ids: &[String]) {
    let rows: Vec<(uuid::Uuid,)> =
        sqlx::query_as("SELECT id FROM orders").fetch_all(stack.pool("engine")).await.unwrap();
    let there: HashMap<String, ()> = rows.into_iter().map(|(id,)| (id.to_string(), ())).collect();
    assert_eq!(there.len(), ids.len(), "an order for each key");
    assert!(ids.iter().all(|id| there.contains_key(id)), "every 201 is in the books");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_random_while_2000_orders_run_loses_and_doubles_nothing() {
    const ORDERS: usize = 2000;
    let stack = Stack::new().await;
    let mut all = stack.start_all().await;
    all.push(stack.start(&["engine"]).await);
    all.push(stack.start(&["api"]).await);
    all.push(stack.start(&["worker", "payment"]).await);
    stack.stock("mug", 1_000_000).await;
    stack.stock("none-left", 0).await;
    let clients = [all[5].client(), all[7].client()];
    let placed = AtomicUsize::new(0);
    let mut random = StdRng::seed_from_u64(7);
    let killing = async {
        let mut kills = 0;
        // A kill for every few dozen orders taken in.
        while placed.load(Ordering::Relaxed) < ORDERS {
            if placed.load(Ordering::Relaxed) >= kills * 50 {
                let victim = random.random_range(0..all.len());
                all[victim].kill_and_restart(&stack);
                kills += 1;
            }
            tokio::task::yield_now().await;
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        kills
    };
    let (ids, kills) = join(place_all(&clients, ORDERS, &placed), killing).await;
    assert!(kills >= 30, "{kills} kills");
    books::settle(&stack).await;
    every_order_is_there(&stack, &ids).await;
    books::balance(&stack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_forgets_everything_takes_no_saga_with_it() {
    const ORDERS: usize = 300;
    let stack = Stack::new().await;
    let all = stack.start_all().await;
    stack.stock("mug", 10_000).await;
    stack.stock("none-left", 0).await;
    let placed = AtomicUsize::new(0);
    let forgetting = async {
        for share in [ORDERS / 4, ORDERS / 2, ORDERS - 1] {
            while placed.load(Ordering::Relaxed) < share {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
            stack.broker.forget().unwrap();
            stack.create_topics();
        }
    };
    let clients = [all[5].client()];
    let (ids, ()) = join(place_all(&clients, ORDERS, &placed), forgetting).await;
    books::settle(&stack).await;
    every_order_is_there(&stack, &ids).await;
    books::balance(&stack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_postgres_delays_orders_and_loses_none() {
    const ORDERS: usize = 300;
    let data = tempfile::tempdir().unwrap();
    let stack = Stack::on_own_server(data.path()).await;
    let all: Vec<Process> = stack.start_all().await;
    stack.stock("mug", 10_000).await;
    stack.stock("none-left", 0).await;
    let placed = AtomicUsize::new(0);
    let restarting = async {
        while placed.load(Ordering::Relaxed) < ORDERS / 2 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        // As `pg_ctl -m immediate`: no checkpoint, recovery at the next start, which follows by itself.
        let pid = std::fs::read_to_string(
            stack.server.as_ref().unwrap().directory().join("cluster/postmaster.pid"),
        )
        .unwrap();
        let killed = Command::new("sh")
            .args(["-c", &format!("kill -QUIT {}", pid.lines().next().unwrap())])
            .status()
            .unwrap();
        assert!(killed.success());
    };
    let clients = [all[5].client()];
    let (ids, ()) = join(place_all(&clients, ORDERS, &placed), restarting).await;
    books::settle(&stack).await;
    every_order_is_there(&stack, &ids).await;
    books::balance(&stack).await;
}
