//! Lists of orders: each once, whatever arrives meanwhile.

mod customers;
#[path = "../../postgres/tests/support/mod.rs"]
mod support;

use std::collections::BTreeSet;

use amends_engine::port::SagaStore;
use amends_orders::{OrderFilter, OrderPage, OrderStore, Placed, Sort};
use amends_postgres::{
    conformance::{World, moved},
    homes::Homes,
};
use chrono::{DateTime, TimeDelta, Utc};
use customers::{ids, place};
use support::{Postgres, citus, world, world_with};
use uuid::Uuid;

async fn orders() -> (Postgres, OrderStore) {
    let world = world().await;
    let store = OrderStore::new(world.pool());
    (world, store)
}

fn limited(limit: u32) -> OrderFilter {
    OrderFilter { limit, ..OrderFilter::default() }
}

fn listed(page: &OrderPage) -> Vec<Uuid> {
    page.items.iter().map(|view| view.order.id).collect()
}

/// Reads all pages, the first of them given by the filter.
async fn walk(store: &OrderStore, mut filter: OrderFilter) -> (Vec<Uuid>, usize) {
    let (mut met, mut pages) = (Vec::new(), 0);
    loop {
        let page = store.list(&filter).await.unwrap();
        met.extend(listed(&page));
        pages += 1;
        filter.after = page.next;
        if filter.after.is_none() {
            return (met, pages);
        }
    }
}

#[tokio::test]
async fn a_walk_meets_every_order_once_however_many_arrive_meanwhile() {
    let (_world, store) = orders().await;
    let before = ids(&place(&store, "c-1", 100).await);
    let (met, others) = tokio::join!(walk(&store, limited(7)), async {
        let mut others = BTreeSet::new();
        for _ in 0..10 {
            others.extend(ids(&place(&store, "c-2", 20).await));
        }
        others
    });
    let (met, pages) = met;
    let once: BTreeSet<Uuid> = met.iter().copied().collect();
    assert_eq!(once.len(), met.len(), "none twice");
    assert!(once.is_superset(&before), "none skipped");
    assert!(once.is_subset(&(&before | &others)));
    assert!(pages >= 15, "{pages}");
    assert!(met.is_sorted_by(|newer, older| newer > older), "newest first");
}

#[tokio::test]
async fn oldest_first_the_past_is_walked_page_by_page_and_the_present_is_on_the_last_one() {
    let (world, store) = orders().await;
    let template = world.errand(3).await;
    world.past(&template, 2, 25, "live = false").await;
    let oldest = |limit| OrderFilter { sort: Sort::OldestFirst, ..limited(limit) };
    let (met, pages) = walk(&store, oldest(10)).await;
    assert_eq!((met.len(), pages), (25, 3));
    let present = ids(&place(&store, "c-1", 3).await);
    let (met, _) = walk(&store, oldest(10)).await;
    assert!(met.is_sorted_by(|older, newer| older < newer));
    assert_eq!(
        met[25..].iter().copied().collect::<BTreeSet<_>>(),
        present,
        "a customer reads what was placed"
    );
    // Births of the last seconds may still be committed between those that are there: the walk does not pass them.
    let page = store.list(&OrderFilter { after: Some(met[24]), ..oldest(2) }).await.unwrap();
    assert_eq!((page.items, page.next), (vec![], Some(met[24])));
}

#[tokio::test]
async fn a_customers_orders_and_those_of_a_period_are_listed_alone() {
    let (_world, store) = orders().await;
    let first = place(&store, "c-1", 5).await;
    let between = store.now().await.unwrap() + TimeDelta::milliseconds(2);
    until(&store, between + TimeDelta::milliseconds(2)).await;
    let (second, other) = (place(&store, "c-1", 4).await, place(&store, "c-2", 3).await);
    let of = |customer: &str| OrderFilter { customer_id: Some(customer.into()), ..limited(50) };
    let all = async |filter: OrderFilter| -> BTreeSet<Uuid> {
        listed(&store.list(&filter).await.unwrap()).into_iter().collect()
    };
    assert_eq!(all(of("c-1")).await, &ids(&first) | &ids(&second));
    assert_eq!(all(of("c-2")).await, ids(&other));
    assert_eq!(all(of("nobody")).await, BTreeSet::new());
    assert_eq!(all(OrderFilter { created_before: Some(between), ..of("c-1") }).await, ids(&first));
    assert_eq!(all(OrderFilter { created_after: Some(between), ..of("c-1") }).await, ids(&second));
}

/// Waits until the database's clock has reached this time.
async fn until(store: &OrderStore, at: DateTime<Utc>) {
    amends_testkit::eventually("the clock goes on", std::time::Duration::from_secs(60), || async {
        (store.now().await.unwrap() >= at).then_some(())
    })
    .await;
}

#[tokio::test]
async fn orders_are_listed_by_their_present_status_and_show_no_personal_field() {
    are_listed_by_status(world().await).await;
}

#[tokio::test]
async fn the_same_with_many_homes() {
    are_listed_by_status(world_with(Homes::new(5).unwrap()).await).await;
}

#[tokio::test]
async fn the_same_on_a_citus() {
    let Some(world) = citus().await else { return };
    are_listed_by_status(world).await;
}

async fn are_listed_by_status(world: Postgres) {
    let store = OrderStore::new(world.store.database().clone());
    let placed = place(&store, "c-1", 6).await;
    let Placed::New { order, change } = &placed[2] else { panic!("{placed:?}") };
    let mut write = moved(&change.saga, 1, order.created_at + TimeDelta::seconds(1));
    write.saga.label = "SHIPPED".into();
    world.store().commit(&[write]).await.unwrap();
    let with = |statuses: &[&str]| OrderFilter {
        statuses: statuses.iter().map(|&status| status.to_owned()).collect(),
        ..limited(10)
    };
    let page = store.list(&with(&["SHIPPED"])).await.unwrap();
    assert_eq!((listed(&page), page.next), (vec![order.id], None));
    assert_eq!((page.items[0].label.as_str(), &page.items[0].sagas), ("SHIPPED", &None));
    assert!(!format!("{:?}", page.items[0]).contains("shippingAddress"));
    assert_eq!(store.list(&with(&["NEW"])).await.unwrap().items.len(), 5);
    assert_eq!(store.list(&with(&["NEW", "SHIPPED"])).await.unwrap().items.len(), 6);
    assert_eq!(store.list(&with(&["LOST"])).await.unwrap(), OrderPage::default());
    for sort in [Sort::NewestFirst, Sort::OldestFirst] {
        let page_by_page = OrderFilter { limit: 2, sort, ..with(&["NEW"]) };
        let others = &ids(&placed) - &BTreeSet::from([order.id]);
        let (met, _) = walk(&store, page_by_page).await;
        assert!(met.len() == 5 && met.into_iter().collect::<BTreeSet<_>>() == others);
    }
}

#[tokio::test]
async fn a_page_of_a_customer_among_many_orders_reads_no_others() {
    let (world, store) = orders().await;
    let template = world.errand(3).await;
    world.past(&template, 1, 20_000, "live = false").await;
    let own = ids(&place(&store, "c-1", 20).await);
    let of = |customer: &str| OrderFilter { customer_id: Some(customer.into()), ..limited(50) };
    let page = store.list(&of("c-1")).await.unwrap();
    assert_eq!(listed(&page).into_iter().collect::<BTreeSet<_>>(), own);
    let page = store.list(&limited(50)).await.unwrap();
    assert_eq!(page.items.len(), 50);
    // Rows of the tables of orders that all these lists together have read.
    let read = world.counted("idx_tup_fetch + seq_tup_read", "orders").await;
    assert!(read < 500, "{read}");
}

#[tokio::test]
async fn a_walk_by_status_goes_on_behind_orders_whose_sagas_are_gone() {
    let (world, store) = orders().await;
    let template = world.errand(3).await;
    world.past(&template, 1, 1_100, "live = false").await;
    let oldest: Uuid = sqlx::query_scalar("SELECT id FROM orders ORDER BY id LIMIT 1")
        .fetch_one(world.owner())
        .await
        .unwrap();
    // History is kept longer of orders than of their sagas.
    let gone =
        "DELETE FROM sagas WHERE id IN (SELECT saga_id FROM orders ORDER BY id DESC OFFSET 10 LIMIT 5)";
    sqlx::query(gone).execute(world.owner()).await.unwrap();
    let rare = "UPDATE sagas SET label = 'RARE' WHERE id = (SELECT saga_id FROM orders WHERE id = $1)";
    sqlx::query(rare).bind(oldest).execute(world.owner()).await.unwrap();
    let rare = OrderFilter { statuses: vec!["RARE".into()], ..limited(50) };
    assert_eq!(walk(&store, rare).await, (vec![oldest], 2));
}
