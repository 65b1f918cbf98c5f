//! Keys in a database with several homes: whichever slot an order is born in, a key is one order's, and a process that
//! dies between taking a key and placing its order leaves neither two orders nor a key that stays taken.

#[path = "../../postgres/tests/support/mod.rs"]
mod support;

use std::time::Duration;

use amends_engine::core::{Change, NewSaga, start};
use amends_orders::{CLAIM_SETTLES, NewOrder, OrderStore, Placed};
use amends_pool::Bounds;
use amends_postgres::{Database, Error, Homes, conformance::errand};
use amends_protocol::{Json, id};
use amends_testkit::eventually;
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use serde_json::json;
use sqlx::AssertSqlSafe;
use support::{Postgres, citus, world_with};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(60);

/// Returns a database with many homes on an ordinary Postgres and, where there is one, on a Citus.
async fn worlds() -> Vec<(Postgres, OrderStore)> {
    let ordinary = world_with(Homes::new(48).unwrap()).await;
    let all = [Some(ordinary), citus().await].into_iter().flatten();
    all.map(|world| {
        let store = OrderStore::new(world.store.database().clone());
        (world, store)
    })
    .collect()
}

/// Creates an order with this key and body, in this slot.
fn order(key: &str, body: u8, slot: u16) -> NewOrder {
    let [id, saga] = [(); 2].map(|()| id::at_slot(Uuid::now_v7(), slot));
    NewOrder {
        id,
        saga: NewSaga { id: saga, business_key: id.to_string(), trace: None },
        subject: "storefront".into(),
        idempotency: Some((key.into(), [body; 32])),
        customer_id: "c-1".into(),
        currency: "EUR".into(),
        total: 2500,
        lines: Json::from(json!([])),
        data: Json::from(json!({"total": 2500})),
        personal: Json::from(json!({})),
    }
}

fn birth(order: &NewOrder, now: DateTime<Utc>) -> Change {
    start(&errand(), order.saga.clone(), &order.data, now)
}

async fn place(store: &OrderStore, order: NewOrder) -> Placed {
    store.place(store.now().await.unwrap(), &[order], birth).await.unwrap().remove(0)
}

async fn count(world: &Postgres, table: &str) -> i64 {
    let count = AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    sqlx::query_scalar(count).fetch_one(world.owner()).await.unwrap()
}

/// Keeps others from writing in a slot until the transaction ends.
async fn hold_slot(world: &Postgres, slot: i16) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut held = world.owner().begin().await.unwrap();
    let home = world.store.database().homes.of_slot(slot.unsigned_abs());
    sqlx::query("SELECT lock_slots($1, ARRAY[$2])").bind(home).bind(slot).execute(&mut *held).await.unwrap();
    held
}

/// A process takes the order's key, and dies before it has placed the order. Returns the store of another process.
async fn dies_after_the_claim(world: &Postgres, store: &OrderStore, order: NewOrder) -> OrderStore {
    let held = hold_slot(world, id::slot(order.id) as i16).await;
    let claimed = eventually("the key is taken", SOON, || async {
        (count(world, "idempotency_keys").await == 1).then_some(())
    });
    // It waits for the slot a second or so, in which a busy machine may not have seen the key: then it tries again.
    let tried = async {
        loop {
            let placed = store.place(store.now().await.unwrap(), std::slice::from_ref(&order), birth).await;
            assert!(matches!(placed, Err(Error::Locked(_))), "{placed:?}");
        }
    };
    tokio::select! {
        () = tried => {}
        () = claimed => {}
    }
    let die = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND usename = 'amends_engine'";
    let on_all_nodes = format!("SELECT run_command_on_all_nodes($$ {die} $$)");
    let die = if world.is_citus() { &on_all_nodes } else { die };
    sqlx::query(AssertSqlSafe(die.to_owned())).execute(world.owner()).await.unwrap();
    // The statement that waits for the slot ends with its session.
    held.rollback().await.unwrap();
    assert_eq!((count(world, "idempotency_keys").await, count(world, "orders").await), (1, 0));
    let (role, homes) = (world.database.role_url("amends_engine"), world.store.database().homes);
    OrderStore::new(Database::connect(&role, 5, "test", Bounds::default(), homes).unwrap())
}

#[tokio::test]
async fn a_key_is_known_in_every_slot() {
    for (world, store) in worlds().await {
        let first = order("k", 1, 5);
        let Placed::New { order: placed, .. } = place(&store, first).await else { panic!("not placed") };
        for slot in [5, 6, 900] {
            assert_eq!(place(&store, order("k", 1, slot)).await, Placed::Replayed(placed.clone()));
            assert_eq!(place(&store, order("k", 2, slot)).await, Placed::KeyReused);
        }
        assert_eq!(count(&world, "orders").await, 1);
    }
}

#[tokio::test]
async fn twenty_at_once_with_one_key_in_twenty_slots_are_one_order() {
    for (world, store) in worlds().await {
        let answers = join_all((0..20).map(|slot| place(&store, order("k", 1, slot)))).await;
        let new = answers.iter().filter(|answer| matches!(answer, Placed::New { .. })).count();
        assert_eq!((new, count(&world, "orders").await), (1, 1));
        for answer in answers {
            // One that has waited long enough does not know.
            assert!(
                matches!(
                    answer,
                    Placed::New { .. } | Placed::Replayed(_) | Placed::Failed(Error::Unavailable(_))
                ),
                "{answer:?}"
            );
        }
    }
}

#[tokio::test]
async fn while_an_order_may_yet_be_placed_nobody_gets_its_key() {
    for (world, store) in worlds().await {
        let other = dies_after_the_claim(&world, &store, order("k", 1, 7)).await;
        let again = place(&other, order("k", 1, 8)).await;
        assert!(
            matches!(&again, Placed::Failed(Error::Unavailable(why)) if why.contains("is just being placed")),
            "{again:?}"
        );
        assert_eq!(count(&world, "orders").await, 0);
    }
}

#[tokio::test]
async fn the_key_of_an_order_that_was_lost_goes_to_one_of_those_who_ask_again() {
    for (world, store) in worlds().await {
        let long_ago = Utc::now() - CLAIM_SETTLES - TimeDelta::seconds(1);
        let mut lost = order("k", 1, 7);
        lost.id = id::at_slot(id::dated(lost.id, long_ago), 7);
        let store = dies_after_the_claim(&world, &store, lost).await;
        let answers = join_all((10..15).map(|slot| place(&store, order("k", 1, slot)))).await;
        let new: Vec<_> = answers.iter().filter(|answer| matches!(answer, Placed::New { .. })).collect();
        assert_eq!((new.len(), count(&world, "orders").await), (1, 1), "{answers:?}");
        let later = place(&store, order("k", 1, 20)).await;
        assert!(matches!(later, Placed::Replayed(_)), "{later:?}");
        assert_eq!(place(&store, order("k", 2, 20)).await, Placed::KeyReused);
    }
}

#[tokio::test]
async fn an_order_that_was_refused_gives_its_key_back() {
    for (world, store) in worlds().await {
        let held = hold_slot(&world, 7).await;
        let refused = store.place(store.now().await.unwrap(), &[order("k", 1, 7)], birth).await;
        assert!(matches!(refused, Err(Error::Locked(_))), "{refused:?}");
        assert!(matches!(place(&store, order("k", 1, 8)).await, Placed::New { .. }));
        held.rollback().await.unwrap();

        let mut bad = order("other", 1, 9);
        bad.currency = "E\0R".into();
        let sound = NewOrder { idempotency: None, ..order("", 1, 10) };
        let now = store.now().await.unwrap();
        let placed = store.place(now, &[bad, sound], birth).await.unwrap();
        assert!(matches!(placed[..], [Placed::Unstorable(_), Placed::New { .. }]), "{placed:?}");
        assert!(matches!(place(&store, order("other", 2, 11)).await, Placed::New { .. }));
        assert_eq!(count(&world, "orders").await, 3);
    }
}

#[tokio::test]
async fn an_order_that_fails_after_others_of_its_batch_were_placed_gives_its_key_back_and_they_keep_theirs() {
    for (world, store) in worlds().await {
        // All in one home. The batch is halved for the sake of the last: the first is placed, and the second waits in vain.
        let mut batch = [order("k", 1, 5), order("l", 1, 53), order("m", 1, 53)];
        batch[2].currency = "E\0R".into();
        let held = hold_slot(&world, 53).await;
        let placed = store.place(store.now().await.unwrap(), &batch, birth).await.unwrap();
        let [
            Placed::New { order: first, .. },
            Placed::Failed(Error::Locked(_)),
            Placed::Failed(Error::Locked(_)),
        ] = &placed[..]
        else {
            panic!("{placed:?}")
        };
        assert_eq!(place(&store, order("k", 1, 8)).await, Placed::Replayed(first.clone()));
        assert!(matches!(place(&store, order("l", 1, 8)).await, Placed::New { .. }));
        assert!(matches!(place(&store, order("m", 1, 8)).await, Placed::New { .. }));
        held.rollback().await.unwrap();
        assert_eq!(count(&world, "orders").await, 3);
    }
}

#[tokio::test]
async fn a_home_whose_slot_is_held_lets_no_order_of_another_be_placed_twice() {
    for (world, store) in worlds().await {
        let batch = [order("k", 1, 5), order("l", 1, 6)];
        let held = hold_slot(&world, 5).await;
        let placed = store.place(store.now().await.unwrap(), &batch, birth).await.unwrap();
        let [Placed::Failed(Error::Locked(_)), Placed::New { order: second, .. }] = &placed[..] else {
            panic!("{placed:?}")
        };
        held.rollback().await.unwrap();
        assert_eq!(place(&store, order("l", 1, 8)).await, Placed::Replayed(second.clone()));
        assert!(matches!(place(&store, order("k", 1, 8)).await, Placed::New { .. }));
        assert_eq!(count(&world, "orders").await, 2);
    }
}

#[tokio::test]
async fn placing_orders_with_keys_is_no_two_phase_commit() {
    let Some(world) = citus().await else { return };
    let store = OrderStore::new(world.store.database().clone());
    let before = world.two_phase_commits().await;
    for slot in 0..8 {
        let keys = [0, 1, 2].map(|key| format!("{slot}/{key}"));
        let batch = keys.each_ref().map(|key| order(key, 1, slot));
        let placed = store.place(store.now().await.unwrap(), &batch, birth).await.unwrap();
        assert!(placed.iter().all(|placed| matches!(placed, Placed::New { .. })), "{placed:?}");
        assert!(matches!(place(&store, order(&keys[0], 1, slot + 1)).await, Placed::Replayed(_)));
    }
    world.assert_no_two_phase_commit_since(&before).await;
}
