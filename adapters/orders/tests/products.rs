//! Products and their prices: set, replaced only as seen, and read for many lines at once.

#[path = "../../postgres/tests/support/mod.rs"]
mod support;

use amends_orders::products::{NewProduct, Price, ProductPage, ProductStore};
use support::{Postgres, world};

fn product(id: &str, unit_price: i64) -> NewProduct {
    NewProduct {
        product_id: id.to_owned(),
        name: format!("The {id}"),
        unit_price,
        currency: "EUR".to_owned(),
    }
}

async fn products() -> (Postgres, ProductStore) {
    let world = world().await;
    let store = ProductStore::new(world.pool());
    (world, store)
}

#[tokio::test]
async fn a_product_is_replaced_as_a_whole_and_counts_its_revisions() {
    let (_world, store) = products().await;
    assert_eq!(store.get("mug").await.unwrap(), None);
    let first = store.put(&product("mug", 1250)).await.unwrap();
    assert_eq!((first.revision, first.unit_price, first.name.as_str()), (1, 1250, "The mug"));
    let second = store.put(&NewProduct { currency: "USD".into(), ..product("mug", 1300) }).await.unwrap();
    assert_eq!((second.revision, second.unit_price, second.currency.as_str()), (2, 1300, "USD"));
    assert!(second.updated_at > first.updated_at);
    assert_eq!(store.get("mug").await.unwrap(), Some(second));
}

#[tokio::test]
async fn of_two_who_replace_the_same_revision_one_does() {
    let (_world, store) = products().await;
    assert_eq!(store.replace(&product("mug", 1), 1).await.unwrap(), None, "it does not exist");
    store.put(&product("mug", 1250)).await.unwrap();
    let (one, other) = (product("mug", 1), product("mug", 2));
    let (one, other) = tokio::join!(store.replace(&one, 1), store.replace(&other, 1));
    let replaced: Vec<_> = [one, other].into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(replaced.len(), 1);
    assert_eq!(store.get("mug").await.unwrap().as_ref(), replaced.first());
}

#[tokio::test]
async fn prices_of_many_products_are_read_at_once_and_those_without_one_are_left_out() {
    let (_world, store) = products().await;
    for (id, unit_price) in [("mug", 1250), ("hat", 0), ("cup", i64::MAX)] {
        store.put(&product(id, unit_price)).await.unwrap();
    }
    let mut prices: Vec<_> = store.prices(&["mug", "nothing", "hat"]).await.unwrap().into_iter().collect();
    prices.sort_by(|a, b| a.0.cmp(&b.0));
    let euros = |unit_price| Price { unit_price, currency: "EUR".to_owned() };
    assert_eq!(prices, [("hat".to_owned(), euros(0)), ("mug".to_owned(), euros(1250))]);
}

#[tokio::test]
async fn a_walk_through_the_pages_meets_each_product_once_in_the_order_of_ids() {
    let (_world, store) = products().await;
    let ids = ["A", "B-1", "B.1", "a", "b_2"];
    for id in ids.iter().rev() {
        store.put(&product(id, 1)).await.unwrap();
    }
    let (mut met, mut after) = (Vec::new(), String::new());
    loop {
        let ProductPage { items, next } = store.list(&after, 2).await.unwrap();
        met.extend(items.into_iter().map(|product| product.product_id));
        let Some(next) = next else { break };
        after = next;
    }
    assert_eq!(met, ids);
    assert_eq!(store.list("", 5).await.unwrap().next, None, "a full last page leads nowhere");
}
