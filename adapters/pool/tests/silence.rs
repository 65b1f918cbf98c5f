//! The connection to the database goes silent: no packets pass, and neither side gets an error.

mod support;

use std::time::{Duration, Instant};

use amends_pool::{Bounds, Pool, Unwritable, WriteCheck, sqlstate};
use amends_testkit::{eventually, proxy};
use support::{BOUNDS, acquired, connect, insert, world};
use tokio::time::timeout;

/// A call's bound, plus what a busy machine may need. A call without a bound would wait for ever.
const SOON: Duration = Duration::from_secs(60);
/// Number of connections that are idle at once.
const IDLE: u32 = 30;

/// Fails a test that would wait for ever.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(SOON * 2, work).await.expect("it ends by itself")
}

/// Waits until the pool's only place holds a new connection.
async fn until_used_again(pool: &Pool) {
    soon(eventually("another connection", SOON, || async { one(pool).await.ok() })).await;
}

async fn one(pool: &Pool) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("SELECT 1").fetch_one(pool).await
}

#[tokio::test]
async fn a_call_that_nobody_answers_ends_within_its_bound_as_a_lost_answer() {
    let database = world().await;
    let proxy = proxy::faithful(&database.role_url("amends_pool")).await;
    let pool = connect(&proxy.url, 1);
    let mut connection = acquired(&pool).await;
    sqlx::query("SELECT 1").execute(&mut connection).await.unwrap();
    proxy.silence();
    let begun = Instant::now();
    let insert = sqlx::query("INSERT INTO things VALUES (1)").execute(&mut connection);
    let error = soon(insert).await.unwrap_err();
    assert!(begun.elapsed() >= BOUNDS.call && begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert!(sqlstate::leaves_open(&error), "{error}");
    drop(connection);
    until_used_again(&pool).await;
}

#[tokio::test]
async fn an_answer_that_stops_half_way_ends_within_the_bound() {
    let database = world().await;
    let proxy = proxy::faithful(&database.role_url("amends_pool")).await;
    // The rows come for a minute, and the server does not end them.
    let bounds = Bounds { statement: SOON * 2, ..BOUNDS };
    let pool = Pool::connect(&proxy.url, 1, "test", bounds).unwrap();
    let mut connection = acquired(&pool).await;
    let rows = async {
        sqlx::query("SELECT repeat('x', 1000), pg_sleep(0.001) FROM generate_series(1, 60000)")
            .fetch_all(&mut connection)
            .await
    };
    let silence = async {
        let half_way = "SELECT 1 FROM pg_stat_activity
                        WHERE datname = current_database() AND query LIKE '%repeat%' AND wait_event = 'PgSleep'";
        eventually("rows are on their way", SOON, || async {
            sqlx::query(half_way).fetch_optional(&database.pool).await.unwrap()
        })
        .await;
        proxy.silence();
    };
    let (rows, ()) = soon(async { tokio::join!(rows, silence) }).await;
    assert!(sqlstate::leaves_open(&rows.unwrap_err()));
    drop(connection);
    until_used_again(&pool).await;
}

#[tokio::test]
async fn connections_that_were_idle_when_it_went_silent_are_not_tried_one_after_the_other() {
    let database = world().await;
    let proxy = proxy::faithful(&database.role_url("amends_pool")).await;
    let pool = connect(&proxy.url, IDLE);
    let held = futures::future::join_all((0..IDLE).map(|_| acquired(&pool))).await;
    drop(held);
    let are_idle = async || (pool.unbounded().num_idle() == IDLE as usize).then_some(());
    eventually("all are idle", SOON, are_idle).await;
    proxy.silence();
    let begun = Instant::now();
    soon(eventually("an answer", SOON, || async { insert(&pool, 1).await.ok() })).await;
    // One of them costs its bound; trying all of them would cost as many times that.
    assert!(begun.elapsed() < BOUNDS.call * IDLE / 2, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_connection_that_goes_silent_on_its_way_back_leaves_its_place_to_another() {
    let database = world().await;
    let proxy = proxy::faithful(&database.role_url("amends_pool")).await;
    let pool = connect(&proxy.url, 1);
    let connection = acquired(&pool).await;
    proxy.silence();
    drop(connection);
    until_used_again(&pool).await;
}

#[tokio::test]
async fn a_transaction_that_is_dropped_on_a_silent_connection_leaves_its_place_to_another() {
    let database = world().await;
    let proxy = proxy::faithful(&database.role_url("amends_pool")).await;
    let pool = connect(&proxy.url, 1);
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("INSERT INTO things VALUES (1)").execute(&mut *tx).await.unwrap();
    proxy.silence();
    drop(tx);
    until_used_again(&pool).await;
}

#[tokio::test]
async fn readiness_says_silent_as_long_as_calls_wait_in_vain() {
    let database = world().await;
    let proxy = proxy::faithful(&database.role_url("amends_pool")).await;
    // The call waits longer than the check takes to see it, however busy the machine is.
    let bounds = Bounds { statement: SOON * 2, call: SOON * 2 };
    let pool = Pool::connect(&proxy.url, 2, "test", bounds).unwrap();
    let check = WriteCheck::of(&pool);
    eventually("ready", SOON, || async { check.run().await.ok() }).await;
    let mut connection = acquired(&pool).await;
    proxy.silence();
    let seen = eventually("silence", SOON, || async {
        (check.run().await == Err(Unwritable::Silent)).then_some(())
    });
    tokio::select! {
        lost = sqlx::query("SELECT 1").execute(&mut connection) => panic!("{lost:?}"),
        () = seen => {}
    }
    drop(connection);
    eventually("ready again", SOON, || async { check.run().await.ok() }).await;
}
