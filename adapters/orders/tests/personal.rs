//! Personal data of customers: exported whole, erased whole or not at all. With `AMENDS_TEST_CITUS` also on a Citus.

mod customers;
#[path = "../../postgres/tests/support/mod.rs"]
mod support;

use amends_engine::core::{Actor, Did, Entry, Event, Occurrence};
use amends_orders::{Erasure, OrderStore, PersonalData};
use amends_postgres::Homes;
use chrono::DateTime;
use customers::{ids, place};
use support::{Postgres, citus, world, world_with};
use uuid::Uuid;

const SETTLED: [&str; 1] = ["SETTLED"];

/// Places as many orders of a customer; returns their ids, the oldest first.
async fn placed(store: &OrderStore, customer: &str, count: u16) -> Vec<Uuid> {
    ids(&place(store, customer, count).await).into_iter().collect()
}

/// Changes the newest sagas of these orders.
async fn change(world: &Postgres, orders: &[Uuid], to: &'static str) {
    let sql = format!("UPDATE sagas SET {to} WHERE id IN (SELECT saga_id FROM orders WHERE id = ANY($1))");
    sqlx::query(sqlx::AssertSqlSafe(sql)).bind(orders).execute(world.owner()).await.unwrap();
}

/// Reads all pages of a customer.
async fn all(store: &OrderStore, customer: &str, limit: u32) -> Vec<PersonalData> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = store.personal_data(customer, after, limit).await.unwrap();
        assert!(page.items.len() <= limit as usize);
        all.extend(page.items);
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}

async fn erasures(world: &Postgres) -> Vec<(String, String, bool, i64)> {
    sqlx::query_as(
        "SELECT customer_id, erased_by, ended_at >= began_at, orders FROM personal_data_erasures ORDER BY id",
    )
    .fetch_all(world.owner())
    .await
    .unwrap()
}

/// Adds a cancellation to the timeline of an order.
async fn cancel(world: &Postgres, order: Uuid, by: Actor) {
    let occurrence = Occurrence { event: Event::CancelRequested(by), at: DateTime::UNIX_EPOCH, jitter: 7 };
    let entry = Entry { revision: 9, core_version: 1, epoch: 0, occurrence, did: Did::default() };
    sqlx::query(
        "INSERT INTO timeline (home, saga_id, slot, position, revision, at, batch, body)
         SELECT t.home, t.saga_id, t.slot, t.position + 1000, 9, t.at, t.batch, $2
         FROM timeline AS t JOIN orders AS o ON o.home = t.home AND o.saga_id = t.saga_id
         WHERE o.id = $1 AND t.revision = 1",
    )
    .bind(order)
    .bind(entry.body(0))
    .execute(world.owner())
    .await
    .unwrap();
}

/// Returns who cancelled an order, and why.
async fn cancellations(store: &OrderStore, order: Uuid) -> Vec<Actor> {
    let entries = store.timeline(order).await.unwrap().unwrap();
    let by = |event| if let Event::CancelRequested(by) = event { Some(by) } else { None };
    entries.into_iter().filter_map(|of| by(of.entry.occurrence.event)).collect()
}

async fn is_exported_and_erased(world: Postgres) {
    let store = OrderStore::new(world.store.database().clone());
    let orders = placed(&store, "c-1", 25).await;
    let others = placed(&store, "c-2", 3).await;
    let before = all(&store, "c-1", 10).await;
    assert_eq!(before.iter().map(|item| item.order_id).collect::<Vec<_>>(), orders);
    assert!(before.iter().all(|item| item.data.is_some()));

    // While one is under way, nothing is erased, and the refusal names it.
    change(&world, &orders, "live = false, outcome = 'completed'").await;
    change(&world, &orders[4..5], "live = true").await;
    change(&world, &orders[9..10], "parked = true").await;
    // It waits for a signal, without a timer.
    change(&world, &orders[14..15], "outcome = NULL").await;
    change(&world, &others, "live = false, outcome = 'completed'").await;
    let refused = store.erase_personal_data("c-1", "ada", &SETTLED).await.unwrap();
    assert_eq!(refused, Erasure::UnderWay(vec![orders[4], orders[9], orders[14]]));
    assert!(all(&store, "c-1", 10).await.iter().all(|item| item.data.is_some()));
    assert_eq!(erasures(&world).await, []);

    // A settled order may have a step to go.
    change(&world, &orders[4..5], "label = 'SETTLED'").await;
    change(&world, &orders[9..10], "parked = false").await;
    change(&world, &orders[14..15], "outcome = 'completed'").await;
    let erased = store.erase_personal_data("c-1", "ada", &SETTLED).await.unwrap();
    assert!(matches!(erased, Erasure::Erased { orders: 25, .. }), "{erased:?}");
    let after = all(&store, "c-1", 10).await;
    assert!(after.len() == 25 && after.iter().all(|item| item.data.is_none()), "orders stay");
    assert!(all(&store, "c-2", 10).await.iter().all(|item| item.data.is_some()), "others are not concerned");

    // Once more is no harm, and recorded as well.
    let again = store.erase_personal_data("c-1", "eve", &SETTLED).await.unwrap();
    assert!(matches!(again, Erasure::Erased { orders: 0, .. }), "{again:?}");
    let record = |by: &str, orders| ("c-1".to_owned(), by.to_owned(), true, orders);
    assert_eq!(erasures(&world).await, [record("ada", 25), record("eve", 0)]);

    // The words of a return that came later go too, once it is settled, and nothing else of it.
    for (order, reason) in [(orders[0], "it is for my son Max"), (others[0], "damaged")] {
        sqlx::query(
            "INSERT INTO order_sagas (home, order_id, saga_id, created_at, amount, workflow, lines, reason)
             SELECT home, id, gen_random_uuid(), now(), 7, 'order_return', '[1]', $2 FROM orders WHERE id = $1",
        )
        .bind(order)
        .bind(reason)
        .execute(world.owner())
        .await
        .unwrap();
    }
    let erased = store.erase_personal_data("c-1", "ada", &SETTLED).await.unwrap();
    assert!(matches!(erased, Erasure::Erased { orders: 1, .. }), "{erased:?}");
    let ledger = "SELECT reason, lines, amount FROM order_sagas ORDER BY reason";
    let left: Vec<(String, String, i64)> = sqlx::query_as(ledger).fetch_all(world.owner()).await.unwrap();
    assert_eq!(left, [(String::new(), "[1]".into(), 7), ("damaged".into(), "[1]".into(), 7)]);

    // So do the words of a cancellation, whatever they are; who cancelled stays, and the rest of the timeline.
    let words = "Max said \"no\", \"why\":\"x\" \\";
    for (order, customer) in [(orders[1], "c-1"), (others[1], "c-2")] {
        cancel(&world, order, Actor::new(customer, words)).await;
    }
    let before = store.timeline(orders[1]).await.unwrap().unwrap();
    let erased = store.erase_personal_data("c-1", "ada", &SETTLED).await.unwrap();
    assert!(matches!(erased, Erasure::Erased { orders: 1, .. }), "{erased:?}");
    assert_eq!(cancellations(&store, orders[1]).await, [Actor::new("c-1", "")]);
    assert_eq!(cancellations(&store, others[1]).await, [Actor::new("c-2", words)]);
    let after = store.timeline(orders[1]).await.unwrap().unwrap();
    assert_eq!((after.len(), &after[0]), (before.len(), &before[0]));
}

#[tokio::test]
async fn what_a_customer_has_is_exported_whole_and_erased_once_nothing_is_under_way() {
    is_exported_and_erased(world().await).await;
}

#[tokio::test]
async fn the_same_with_many_homes() {
    is_exported_and_erased(world_with(Homes::new(5).unwrap()).await).await;
}

#[tokio::test]
async fn the_same_on_a_citus() {
    let Some(world) = citus().await else { return };
    is_exported_and_erased(world).await;
}

#[tokio::test]
async fn more_orders_than_a_statement_takes_are_erased_as_well() {
    let world = world().await;
    let store = OrderStore::new(world.pool());
    let mut orders = Vec::new();
    for _ in 0..6 {
        orders.extend(placed(&store, "c-1", 400).await);
    }
    change(&world, &orders, "live = false, outcome = 'completed'").await;
    let erased = store.erase_personal_data("c-1", "ada", &SETTLED).await.unwrap();
    assert!(matches!(erased, Erasure::Erased { orders: 2_400, .. }), "{erased:?}");
}
