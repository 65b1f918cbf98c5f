//! Orders of customers, for tests that place some.

use std::collections::BTreeSet;

use amends_engine::core::{NewSaga, start};
use amends_orders::{NewOrder, OrderStore, Placed};
use amends_postgres::conformance::errand;
use amends_protocol::Json;
use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;

fn order(customer: &str, slot: u16, now: DateTime<Utc>) -> NewOrder {
    let mut order = NewOrder {
        id: Uuid::now_v7(),
        saga: NewSaga { id: Uuid::now_v7(), business_key: String::new(), trace: None },
        subject: "storefront".into(),
        idempotency: None,
        customer_id: customer.into(),
        currency: "EUR".into(),
        total: 2500,
        lines: Json::from(json!([])),
        data: Json::from(json!({})),
        personal: Json::from(json!({"shippingAddress": {"name": "Test"}})),
    };
    order.born(slot, now);
    order
}

/// Places as many orders of a customer, in one batch; returns their births.
pub async fn place(store: &OrderStore, customer: &str, count: u16) -> Vec<Placed> {
    let now = store.now().await.unwrap();
    place_born(store, now, customer, count).await
}

/// The same of orders that were born at this time, a moment ago.
pub async fn place_born(store: &OrderStore, now: DateTime<Utc>, customer: &str, count: u16) -> Vec<Placed> {
    let batch: Vec<NewOrder> = (0..count).map(|n| order(customer, n % 7, now)).collect();
    let birth = |order: &NewOrder, now| start(&errand(), order.saga.clone(), &order.data, now);
    store.place(now, &batch, birth).await.unwrap()
}

/// Returns the ids of placed orders.
pub fn ids(placed: &[Placed]) -> BTreeSet<Uuid> {
    let id = |placed: &Placed| match placed {
        Placed::New { order, .. } => order.id,
        other => panic!("not placed: {other:?}"),
    };
    placed.iter().map(id).collect()
}
