//! One saga that cannot be judged stops no other: a forgotten transaction holds its row, or a newer program wrote it.

use futures::future::{join, join_all};
use sqlx::PgPool;
use uuid::Uuid;

use amends_testkit::eventually;

use crate::{
    books,
    support::{Broker, LONG, Stack, client::order, on_every_broker},
};

on_every_broker!(
    a_saga_whose_row_is_held_stops_no_other_order_and_costs_its_own_requests_a_503,
    a_saga_that_a_newer_program_wrote_is_503_and_its_replies_wait_for_an_engine_that_can_judge_them,
);

async fn saga_of(engine: &PgPool, order: &str) -> Uuid {
    sqlx::query_scalar("SELECT saga_id FROM orders WHERE id = $1")
        .bind(order.parse::<Uuid>().unwrap())
        .fetch_one(engine)
        .await
        .unwrap()
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
    let held = client.place(&order("mug", 1, "card_slow", "AT")).await;
    let mut forgotten = engine.begin().await.unwrap();
    sqlx::query("SELECT FROM sagas WHERE id = $1 FOR UPDATE")
        .bind(saga_of(engine, &held).await)
        .execute(&mut *forgotten)
        .await
        .unwrap();
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

async fn a_saga_that_a_newer_program_wrote_is_503_and_its_replies_wait_for_an_engine_that_can_judge_them(
    broker: Broker,
) {
    let stack = Stack::new(broker).await;
    let all = stack.start_all().await;
    stack.stock("mug", 1000).await;
    let (client, engine) = (all[5].client(), stack.pool("engine"));
    let newer = client.place(&order("mug", 1, "card_slow", "AT")).await;
    let saga = saga_of(engine, &newer).await;
    let rewrite = async |version: i16| {
        sqlx::query("UPDATE sagas SET core_version = $2 WHERE id = $1")
            .bind(saga)
            .bind(version)
            .execute(engine)
            .await
            .unwrap();
    };
    rewrite(99).await;
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
