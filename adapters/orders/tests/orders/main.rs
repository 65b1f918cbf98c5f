//! Placing orders: many at once, each key once.

mod keys;
#[path = "../../../postgres/tests/support/mod.rs"]
mod support;

use amends_engine::core::{Change, NewSaga, start};
use amends_orders::{NewOrder, OrderRow, OrderStore, Placed};
use amends_postgres::{
    Database, Error, Homes,
    conformance::{World, errand, moved},
    timeline::SagaEntry,
};
use amends_protocol::{Json, Reason, id};
use chrono::{DateTime, Utc};
use futures::future::join_all;
use serde_json::json;
use sqlx::PgPool;
use support::{Postgres, connect, world};
use uuid::Uuid;

fn order(key: Option<(&str, u8)>) -> NewOrder {
    let [id, saga] = [(); 2].map(|()| id::at_slot(Uuid::now_v7(), 5));
    NewOrder {
        id,
        saga: NewSaga { id: saga, business_key: id.to_string(), trace: None },
        subject: "storefront".into(),
        idempotency: key.map(|(key, body)| (key.into(), [body; 32])),
        customer_id: "c-1".into(),
        currency: "EUR".into(),
        total: 2500,
        lines: Json::from(json!([{"quantity": 2, "productId": "mug", "a": 1}])),
        data: Json::from(json!({"total": 2500})),
        personal: Json::from(json!({"shippingAddress": {"name": "Test"}})),
    }
}

fn birth(order: &NewOrder, now: DateTime<Utc>) -> Change {
    let mut change = start(&errand(), order.saga.clone(), &order.data, now);
    change.saga.state.timeout_at = Some(now + chrono::TimeDelta::minutes(15));
    change
}

async fn place(store: &OrderStore, orders: &[NewOrder]) -> Vec<Placed> {
    store.place(store.now().await.unwrap(), orders, birth).await.unwrap()
}

fn new(placed: &Placed) -> &OrderRow {
    match placed {
        Placed::New { order, .. } => order,
        other => panic!("not placed: {other:?}"),
    }
}

/// Returns the number of rows in each table that an order writes to.
async fn rows(pool: &PgPool) -> Vec<i64> {
    sqlx::query_scalar(
        "SELECT count(*) FROM orders UNION ALL SELECT count(*) FROM sagas
         UNION ALL SELECT count(*) FROM personal UNION ALL SELECT count(*) FROM timeline
         UNION ALL SELECT count(*) FROM idempotency_keys",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

async fn orders() -> (Postgres, OrderStore) {
    let world = world().await;
    let store = OrderStore::new(world.pool());
    (world, store)
}

#[tokio::test]
async fn an_order_is_read_as_it_was_placed_with_its_sagas_label() {
    let (world, store) = orders().await;
    let order = order(None);
    let placed = place(&store, std::slice::from_ref(&order)).await;
    let Placed::New { order: row, change } = &placed[0] else { panic!("{placed:?}") };
    assert_eq!((row.id, row.saga_id, row.created_at), (order.id, order.saga.id, change.saga.born_at));
    assert_eq!(row.cancels_at, change.saga.state.timeout_at);

    let view = store.get(order.id).await.unwrap().unwrap();
    assert_eq!(view.order, **row);
    assert_eq!(view.order.lines.get(), order.lines.get(), "as they came, in their order");
    assert_eq!((view.label.as_str(), view.heading_for, view.reason), ("NEW", None, None));
    assert_eq!((view.updated_at, view.sagas), (row.created_at, None));
    assert_eq!(store.sagas_of(order.id).await.unwrap(), [order.saga.id]);
    let first = SagaEntry { saga_id: order.saga.id, entry: change.entry.clone() };
    let view = store.get(order.id).await.unwrap().unwrap();
    assert_eq!(store.timeline_of(&view).await.unwrap(), std::slice::from_ref(&first));
    assert_eq!(store.timeline(order.id).await.unwrap().unwrap(), [first]);

    let at = row.created_at + chrono::TimeDelta::seconds(1);
    let mut write = moved(&change.saga, 1, at);
    write.saga.label = "UNDOING".into();
    write.saga.heading_for = Some("FAILED".into());
    write.saga.reason = Some(Reason::new("out_of_stock", ""));
    amends_engine::port::SagaStore::commit(world.store(), &[write]).await.unwrap();
    let view = store.get(order.id).await.unwrap().unwrap();
    assert_eq!((view.label.as_str(), view.heading_for.as_deref()), ("UNDOING", Some("FAILED")));
    assert_eq!((view.reason.unwrap().code.as_str(), view.updated_at), ("out_of_stock", at));
    assert_eq!(store.timeline(order.id).await.unwrap().unwrap().len(), 2);
}

#[tokio::test]
async fn a_statement_that_arrives_after_its_caller_has_read_back_places_nothing_and_takes_no_key() {
    let (world, store) = orders().await;
    let given_up = i64::try_from(amends_pool::Bounds::default().call.as_secs()).unwrap();
    let issued = |seconds_ago: i64| {
        move |order: &NewOrder, now: DateTime<Utc>| {
            birth(order, now - chrono::TimeDelta::seconds(seconds_ago))
        }
    };
    let batch = [order(Some(("k", 1))), order(None)];
    let late = store.place(store.now().await.unwrap(), &batch, issued(given_up + 1)).await;
    assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
    assert_eq!(rows(world.owner()).await, [0; 5]);
    let placed = store.place(store.now().await.unwrap(), &batch, issued(given_up - 1)).await.unwrap();
    assert!(placed.iter().all(|placed| matches!(placed, Placed::New { .. })));
}

#[tokio::test]
async fn an_order_that_was_never_placed_is_not_there() {
    let (_world, store) = orders().await;
    let nobody = Uuid::now_v7();
    assert_eq!(store.get(nobody).await.unwrap(), None);
    assert_eq!(store.sagas_of(nobody).await.unwrap(), [] as [Uuid; 0]);
    assert_eq!(store.timeline(nobody).await.unwrap(), None);
    assert_eq!(place(&store, &[]).await, []);
}

#[tokio::test]
async fn twenty_at_once_with_one_key_are_one_order() {
    let (world, store) = orders().await;
    let requests: Vec<NewOrder> = (0..20).map(|_| order(Some(("k", 1)))).collect();
    let answers = join_all(requests.iter().map(|order| place(&store, std::slice::from_ref(order)))).await;
    let placed: Vec<&OrderRow> = answers
        .iter()
        .filter_map(|answer| if let Placed::New { order, .. } = &answer[0] { Some(&**order) } else { None })
        .collect();
    assert_eq!(placed.len(), 1);
    for answer in &answers {
        match &answer[0] {
            Placed::New { .. } => {}
            Placed::Replayed(order) => assert_eq!(&**order, placed[0]),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(rows(world.owner()).await, [1; 5]);
}

#[tokio::test]
async fn of_equal_keys_in_one_batch_the_first_is_placed() {
    let (world, store) = orders().await;
    let elsewhere = NewOrder { subject: "another".into(), ..order(Some(("k", 2))) };
    let batch = [order(Some(("k", 1))), order(Some(("k", 1))), order(Some(("k", 2))), order(None), elsewhere];
    let answers = place(&store, &batch).await;
    let first = new(&answers[0]).clone();
    assert_eq!(first.id, batch[0].id);
    assert_eq!(answers[1], Placed::Replayed(Box::new(first.clone())));
    assert_eq!(answers[2], Placed::KeyReused);
    assert_eq!((new(&answers[3]).id, new(&answers[4]).id), (batch[3].id, batch[4].id));
    assert_eq!(rows(world.owner()).await, [3, 3, 3, 3, 2]);

    let later = place(&store, &[order(Some(("k", 2))), order(Some(("k", 1)))]).await;
    assert_eq!(later, [Placed::KeyReused, Placed::Replayed(Box::new(first))]);
    assert_eq!(rows(world.owner()).await, [3, 3, 3, 3, 2]);
}

#[tokio::test]
async fn two_doors_with_crossed_keys_do_not_deadlock() {
    let (world, _) = orders().await;
    let url = world.database.role_url("amends_engine");
    let (one, two) = (OrderStore::new(connect(&url)), OrderStore::new(connect(&url)));
    for round in 0..50 {
        let keys: Vec<String> = (0..10).map(|n| format!("{round}/{n}")).collect();
        let forth: Vec<NewOrder> = keys.iter().map(|key| order(Some((key, 1)))).collect();
        let back: Vec<NewOrder> = keys.iter().rev().map(|key| order(Some((key, 1)))).collect();
        let (forth, back) = tokio::join!(place(&one, &forth), place(&two, &back));
        let placed = forth.iter().chain(&back).filter(|placed| matches!(placed, Placed::New { .. })).count();
        assert_eq!(placed, 10, "each key once");
    }
    assert_eq!(rows(world.owner()).await, [500; 5]);
}

#[tokio::test]
async fn what_cannot_be_stored_does_not_stop_the_others() {
    let (world, store) = orders().await;
    let mut batch: Vec<NewOrder> = (0..9).map(|_| order(None)).collect();
    batch[4].customer_id = "NUL \0".into();
    batch[7].currency = "\0".into();
    let answers = place(&store, &batch).await;
    for (n, (order, answer)) in batch.iter().zip(&answers).enumerate() {
        match answer {
            Placed::Unstorable(_) => assert!(n == 4 || n == 7, "{n}"),
            placed => assert_eq!(new(placed).id, order.id),
        }
    }
    assert_eq!(rows(world.owner()).await, [7, 7, 7, 7, 0]);
}

#[tokio::test]
async fn what_cannot_be_stored_in_one_home_leaves_the_answers_of_the_others_true() {
    let (world, _) = orders().await;
    let store = OrderStore::new(Database { homes: Homes::new(2).unwrap(), ..world.pool().into() });
    let now = store.now().await.unwrap();
    let mut batch: Vec<NewOrder> = (0..8).map(|_| order(None)).collect();
    for (n, order) in batch.iter_mut().enumerate() {
        order.born(n as u16, now);
    }
    batch[5].customer_id = "NUL \0".into();
    for (n, answer) in place(&store, &batch).await.iter().enumerate() {
        assert_eq!(matches!(answer, Placed::New { .. }), n != 5, "{n}: {answer:?}");
    }
    assert_eq!(rows(world.owner()).await, [7, 7, 7, 7, 0]);
}

#[tokio::test]
async fn what_cannot_be_stored_leaves_its_key_free() {
    let (_world, store) = orders().await;
    let poison = NewOrder { customer_id: "NUL \0".into(), ..order(Some(("k", 1))) };
    assert!(matches!(place(&store, &[poison]).await[0], Placed::Unstorable(_)));
    new(&place(&store, &[order(Some(("k", 1)))]).await[0]);
}

#[tokio::test]
async fn orders_that_meet_a_held_slot_after_others_of_their_batch_were_placed_fail_without_those() {
    let (world, store) = orders().await;
    let now = store.now().await.unwrap();
    let mut batch = [order(Some(("k", 1))), order(Some(("l", 1))), order(None)];
    for order in &mut batch[1..] {
        order.born(6, now);
    }
    // The batch is halved for its sake: the first order is placed, and then the second one waits in vain.
    batch[2].customer_id = "NUL \0".into();
    let mut held = world.owner().begin().await.unwrap();
    sqlx::query("SELECT lock_slots(0::int2, ARRAY[6::int2])").execute(&mut *held).await.unwrap();
    let answers = place(&store, &batch).await;
    let failed = |placed: &Placed| matches!(placed, Placed::Failed(Error::Locked(_)));
    assert!(answers.len() == 3 && answers[1..].iter().all(failed), "{answers:?}");
    let first = new(&answers[0]).clone();
    held.rollback().await.unwrap();
    assert_eq!(rows(world.owner()).await, [1; 5]);
    let again = place(&store, &[order(Some(("k", 1))), order(Some(("l", 1)))]).await;
    assert_eq!(again[0], Placed::Replayed(Box::new(first)));
    new(&again[1]);
}

#[tokio::test]
async fn a_batch_of_which_nothing_was_placed_is_refused_whole_if_its_slot_is_held() {
    let (world, store) = orders().await;
    let poison = || NewOrder { customer_id: "NUL \0".into(), ..order(None) };
    let batch = [poison(), order(None), poison()];
    let mut held = world.owner().begin().await.unwrap();
    sqlx::query("SELECT lock_slots(0::int2, ARRAY[5::int2])").execute(&mut *held).await.unwrap();
    let refused = store.place(store.now().await.unwrap(), &batch, birth).await;
    assert!(matches!(refused, Err(Error::Locked(_))), "{refused:?}");
    held.rollback().await.unwrap();
    assert_eq!(rows(world.owner()).await, [0; 5]);
}

#[tokio::test]
async fn births_are_dated_by_the_database() {
    let (world, store) = orders().await;
    let now = || async {
        let now: DateTime<Utc> =
            sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(world.owner()).await.unwrap();
        now
    };
    let before = now().await;
    let placed = place(&store, &[order(None)]).await;
    let after = now().await;
    let born = new(&placed[0]).created_at;
    assert!(before < born && born < after, "{before} {born} {after}");
}

#[tokio::test]
async fn orders_whose_commits_answer_is_lost_are_answered_as_if_nothing_had_been_wrong() {
    let (world, direct) = orders().await;
    let proxy = support::proxy::losing_the_answer_to("LOST", &world.database.role_url("amends_engine")).await;
    let store = OrderStore::new(connect(&proxy.url));
    let known = place(&direct, &[order(Some(("known", 1)))]).await;
    let lost = NewOrder { customer_id: "LOST".into(), ..order(Some(("k", 1))) };
    let batch = [lost, order(None), order(Some(("known", 1)))];
    let answers = place(&store, &batch).await;
    assert_eq!((new(&answers[0]).id, new(&answers[1]).id), (batch[0].id, batch[1].id));
    assert_eq!(answers[2], Placed::Replayed(Box::new(new(&known[0]).clone())));
    assert_eq!(rows(world.owner()).await, [3, 3, 3, 3, 2]);
}

#[tokio::test]
async fn orders_that_the_server_gave_up_on_are_not_there_at_all() {
    let (world, store) = orders().await;
    let batch = [order(Some(("k", 1)))];
    let paused = world.pause_before_commit(batch[0].saga.id).await;
    let placing = async { store.place(store.now().await.unwrap(), &batch, birth).await };
    let meanwhile = async {
        world.until_waiting("advisory", 1).await;
        sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        )
        .execute(world.owner())
        .await
        .unwrap();
        paused.end().await;
    };
    let (refused, ()) = tokio::join!(placing, meanwhile);
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    assert_eq!(rows(world.owner()).await, [0; 5]);
    new(&place(&store, &batch).await[0]);
}

#[tokio::test]
async fn without_a_database_nothing_is_placed_and_it_is_said_soon() {
    let store = OrderStore::new(connect("postgres://nobody@127.0.0.1:1/nowhere"));
    let begun = std::time::Instant::now();
    let (time, refused) =
        tokio::join!(store.now(), async { store.place(Utc::now(), &[order(None)], birth).await });
    assert!(matches!(time, Err(Error::Unavailable(_))), "{time:?}");
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    // By itself the library would try for half a minute.
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
}
