//! One saga that cannot be judged stops no other: a forgotten transaction holds its row or its product's, or a newer
//! program wrote it.

use futures::future::{join, join_all};
use sqlx::{PgPool, Postgres, Transaction};
use uuid::Uuid;

use amends_testkit::eventually;

use crate::{
    books,
    support::{
        Broker, LONG, Stack,
        client::{Client, order},
        on_every_broker,
    },
};

on_every_broker!(
    a_saga_whose_row_is_held_stops_no_other_order_and_costs_its_own_requests_a_503,
    a_product_whose_stock_is_held_stops_no_order_of_another_product,
    a_saga_that_a_newer_program_wrote_is_503_and_its_replies_wait_for_an_engine_that_can_judge_them,
);

async fn saga_of(engine: &PgPool, order: &str) -> Uuid {
    sqlx::query_scalar("SELECT saga_id FROM orders WHERE id = $1")
        .bind(order.parse::<Uuid>().unwrap())
        .fetch_one(engine)
        .await
        .unwrap()
}

/// Places an order whose charge takes three seconds, and holds its saga's row while replies are still to come. Where the
/// machine was slower than the card, it does so with another order.
async fn held(client: &Client, engine: &PgPool) -> (String, Transaction<'static, Postgres>) {
    eventually("an order is held", LONG, || async {
        let placed = client.place(&order("mug", 1, "card_slow", "AT")).await;
        let mut forgotten = engine.begin().await.unwrap();
        let label: String = sqlx::query_scalar("SELECT label FROM sagas WHERE id = $1 FOR UPDATE")
            .bind(saga_of(engine, &placed).await)
            .fetch_one(&mut *forgotten)
            .await
            .unwrap();
        (label != "FULFILLED").then_some((placed, forgotten))
    })
    .await
}

async fn count(engine: &PgPool, table: &str) -> i64 {
    let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    sqlx::query_scalar(sql).fetch_one(engine).await.unwrap()
}

async fn a_saga_whose_row_is_held_stops_no_other_order_and_costs_its_own_requests_a_503(broker: Broker) {
    let stack = Stack::new(broker).await;
    let mut all = stack.start_all().await;
    all.push(stack.start(&["engine"]).await);
    stack.stock("mug", 1000).await;
    let (client, engine) = (all[5].client(), stack.pool("engine"));
    let (held, forgotten) = held(&client, engine).await;
    let sound = order("mug", 1, "card_approved", "AT");
    let others = join_all((0..30).map(|_| client.place(&sound))).await;
    for id in &others {
        client.becomes(id, "FULFILLED").await;
    }
    let path = format!("/api/orders/{held}");
    let cancellations = join_all((0..6).map(|_| client.delete(&path)));
    let places = join_all((0..6).map(|_| client.place(&sound)));
    let (cancellations, placed) = join(cancellations, places).await;
    assert!(cancellations.iter().all(|(status, _)| *status == 503), "{cancellations:?}");
    client.get(&path).await;
    for id in &placed {
        client.becomes(id, "FULFILLED").await;
    }
    eventually("its reply is kept", LONG, || async {
        (count(engine, "deferred_replies").await > 0).then_some(())
    })
    .await;
    forgotten.rollback().await.unwrap();
    client.becomes(&held, "FULFILLED").await;
    books::settle(&stack).await;
    eventually("no reply is left", LONG, || async {
        (count(engine, "deferred_replies").await == 0).then_some(())
    })
    .await;
    books::balance(&stack).await;
}

/// Two engines and two inventory workers.
async fn a_product_whose_stock_is_held_stops_no_order_of_another_product(broker: Broker) {
    let stack = Stack::new(broker).await;
    let mut all = stack.start_all().await;
    all.push(stack.start(&["engine"]).await);
    all.push(stack.start(&["worker", "inventory"]).await);
    for product in ["mug", "pen"] {
        stack.stock(product, 1000).await;
    }
    let (client, inventory) = (all[5].client(), stack.pool("inventory"));
    let mut forgotten = inventory.begin().await.unwrap();
    sqlx::query("SELECT FROM stock WHERE product_id = 'mug' FOR UPDATE")
        .execute(&mut *forgotten)
        .await
        .unwrap();
    let [mug, pen] = ["mug", "pen"].map(|product| order(product, 1, "card_approved", "AT"));
    // They arrive together, so that batches contain both.
    let (held, others) =
        join(join_all((0..6).map(|_| client.place(&mug))), join_all((0..30).map(|_| client.place(&pen))))
            .await;
    for id in &others {
        client.becomes(id, "FULFILLED").await;
    }
    for id in &held {
        assert_eq!(client.get(&format!("/api/orders/{id}")).await["status"], "PENDING");
    }
    let (cancelled, kept) = held.split_first().unwrap();
    assert_eq!(client.delete(&format!("/api/orders/{cancelled}")).await.0, 202);
    let more = client.place(&pen).await;
    client.becomes(&more, "FULFILLED").await;
    forgotten.rollback().await.unwrap();
    for id in kept {
        client.becomes(id, "FULFILLED").await;
    }
    client.becomes(cancelled, "CANCELLED").await;
    books::settle(&stack).await;
    books::balance(&stack).await;
}

async fn a_saga_that_a_newer_program_wrote_is_503_and_its_replies_wait_for_an_engine_that_can_judge_them(
    broker: Broker,
) {
    let stack = Stack::new(broker).await;
    let all = stack.start_all().await;
    stack.stock("mug", 1000).await;
    let (client, engine) = (all[5].client(), stack.pool("engine"));
    let (newer, mut holds) = held(&client, engine).await;
    let saga = saga_of(engine, &newer).await;
    sqlx::query("UPDATE sagas SET core_version = 99 WHERE id = $1")
        .bind(saga)
        .execute(&mut *holds)
        .await
        .unwrap();
    holds.commit().await.unwrap();
    let rewrite = async |version: i16| {
        sqlx::query("UPDATE sagas SET core_version = $2 WHERE id = $1")
            .bind(saga)
            .bind(version)
            .execute(engine)
            .await
            .unwrap();
    };
    let path = format!("/api/orders/{newer}");
    client.get(&path).await;
    assert_eq!(client.delete(&path).await.0, 503);
    assert_eq!(client.try_get(&format!("/admin/sagas/{saga}")).await.unwrap().0, 503);
    eventually("its reply is kept", LONG, || async {
        (count(engine, "deferred_replies").await > 0).then_some(())
    })
    .await;
    let other = client.place(&order("mug", 1, "card_approved", "AT")).await;
    client.becomes(&other, "FULFILLED").await;
    assert_eq!(count(engine, "strays").await, 0);
    // As if an engine had started that knows it.
    rewrite(1).await;
    sqlx::query("UPDATE deferred_replies SET core_version = 1").execute(engine).await.unwrap();
    client.becomes(&newer, "FULFILLED").await;
    books::settle(&stack).await;
    assert_eq!(count(engine, "strays").await, 0);
    books::balance(&stack).await;
}
