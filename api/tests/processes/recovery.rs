//! Nothing is lost: processes, brokers and databases die while orders run, and afterwards the books balance.

use std::{
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures::future::join;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    books,
    support::{
        Broker, Stack, clients,
        load::{self, every_order_is_there, place_all, reaches},
        on_the_best_broker,
    },
};

on_the_best_broker!(
    kill_9_at_random_while_2000_orders_run_loses_and_doubles_nothing,
    a_restart_of_postgres_delays_orders_and_loses_none,
);

async fn kill_9_at_random_while_2000_orders_run_loses_and_doubles_nothing(broker: Broker) {
    const ORDERS: usize = 2000;
    let stack = Stack::new(broker).await;
    books::note_events(&stack).await;
    let mut all = stack.start_all().await;
    if stack.broker.real().is_none() {
        // There are always two of each of these roles, so that one is available.
        for role in [&["engine"][..], &["api"], &["worker", "payment"]] {
            all.push(stack.start(role).await);
        }
    }
    load::stock(&stack).await;
    let clients = clients(&all);
    let placed = AtomicUsize::new(0);
    let mut random = StdRng::seed_from_u64(7);
    let killing = async {
        let mut kills = 0;
        // One kill for every few dozen accepted orders.
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
    let stack = Stack::embedded().await;
    books::note_events(&stack).await;
    let all = stack.start_all().await;
    load::stock(&stack).await;
    let placed = AtomicUsize::new(0);
    let forgetting = async {
        for share in [ORDERS / 4, ORDERS / 2, ORDERS - 1] {
            reaches(&placed, share).await;
            stack.broker.forget();
        }
    };
    let clients = clients(&all);
    let (ids, ()) = join(place_all(&clients, ORDERS, &placed), forgetting).await;
    books::settle(&stack).await;
    every_order_is_there(&stack, &ids).await;
    books::balance(&stack).await;
}

async fn a_restart_of_postgres_delays_orders_and_loses_none(broker: Broker) {
    const ORDERS: usize = 300;
    let data = tempfile::tempdir().unwrap();
    let stack = Stack::on_own_server(broker, data.path()).await;
    let all = stack.start_all().await;
    load::stock(&stack).await;
    let placed = AtomicUsize::new(0);
    let restarting = async {
        reaches(&placed, ORDERS / 2).await;
        // Like `pg_ctl -m immediate`: no checkpoint, and recovery at the next start, which is automatic.
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
    let clients = clients(&all);
    let (ids, ()) = join(place_all(&clients, ORDERS, &placed), restarting).await;
    books::settle(&stack).await;
    every_order_is_there(&stack, &ids).await;
    books::balance(&stack).await;
}
