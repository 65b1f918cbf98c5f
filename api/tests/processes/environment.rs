//! A process' environment that must not change its behaviour: a broker that is away, variables of other programs.

use serde_json::json;

use crate::support::{Broker, Stack, client::order};

#[tokio::test(flavor = "multi_thread")]
async fn an_api_starts_while_the_broker_is_away_and_its_orders_go_on_once_it_is_there() {
    let stack = Stack::embedded().await;
    let Broker::Embedded(broker) = &stack.broker else { unreachable!("it was made so") };
    let _inventory = stack.start(&["worker", "inventory"]).await;
    stack.stock("mug", 5).await;
    broker.set_reachable(false);
    let api = stack.start(&["api"]).await;
    let client = api.client();
    let id = client.place(&order("mug", 1, "card_approved", "AT")).await;

    broker.set_reachable(true);
    let mut running = Vec::new();
    for role in [&["worker", "payment"][..], &["worker", "shipment"], &["engine"]] {
        running.push(stack.start(role).await);
    }
    client.becomes(&id, "FULFILLED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_of_the_environment_is_not_asked_between_roles() {
    let mut stack = Stack::embedded().await;
    // No process listens there.
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        stack.set(name, "http://127.0.0.1:9");
    }
    let _inventory = stack.start(&["worker", "inventory"]).await;
    let api = stack.start(&["api"]).await;
    let (status, body) = api.client().put("/api/inventory/mug/stock", &json!({ "onHand": 5 })).await;
    assert_eq!(status, 200, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_of_libpq_change_no_connection() {
    let mut stack = Stack::embedded().await;
    for (name, value) in [
        ("PGOPTIONS", "-c search_path=nowhere -c default_transaction_read_only=on"),
        ("PGSSLMODE", "verify-full"),
        ("PGHOST", "nowhere.invalid"),
        ("PGPORT", "1"),
        ("PGUSER", "nobody"),
        ("PGDATABASE", "nowhere"),
    ] {
        stack.set(name, value);
    }
    let api = stack.start(&["api"]).await;
    api.client().place(&order("mug", 1, "card_approved", "AT")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_whose_database_can_never_do_what_it_asks_ends_with_a_status() {
    let stack = Stack::embedded().await;
    let mut api = stack.start(&["api"]).await;
    let mut engine = stack.start(&["engine"]).await;
    let mut payment = stack.start(&["worker", "payment"]).await;
    for (name, sql) in [
        ("engine", "REVOKE INSERT, SELECT ON sagas FROM amends_engine"),
        ("payment", "REVOKE SELECT ON commands FROM amends_payment"),
    ] {
        sqlx::query(sql).execute(stack.pool(name)).await.unwrap();
    }
    let refused = api.client().try_place(&order("mug", 1, "card_approved", "AT"), None).await;
    assert!(refused.is_none_or(|answer| answer.status == 503), "it is not taken for an outage");
    for process in [&mut api, &mut engine, &mut payment] {
        assert_eq!(process.ended().await.code(), Some(1));
    }
}
