//! Sessions that cannot write, statements that take too long, transactions that are not ended.

mod support;

use std::time::Duration;

use amends_pool::{Bounds, Connection, Pool, Unwritable, WriteCheck, sqlstate};
use amends_testkit::{TestDatabase, eventually};
use support::{BOUNDS, acquired, connect, insert, owner, world};

const SOON: Duration = Duration::from_secs(60);

/// Waits until the check says so: a busy machine may be slower than its bound.
async fn says(check: &WriteCheck, expected: Result<(), Unwritable>) {
    eventually("readiness", SOON, || async { (check.run().await == expected).then_some(()) }).await;
}

/// Ends the service's sessions.
async fn terminate(database: &TestDatabase) {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND usename = 'amends_pool'";
    owner(database, sql).await;
}

async fn set_for_role(database: &TestDatabase, what: &str) {
    owner(database, &format!("ALTER ROLE amends_pool IN DATABASE {} {what}", database.name())).await;
}

#[tokio::test]
async fn sessions_that_were_read_only_are_not_kept() {
    let database = world().await;
    let pool = connect(&database.role_url("amends_pool"), 4);
    let check = WriteCheck::of(&pool);
    insert(&pool, 1).await.unwrap();
    says(&check, Ok(())).await;

    set_for_role(&database, "SET default_transaction_read_only = on").await;
    terminate(&database).await;
    // New sessions are read-only, and their writes fail.
    let error = eventually("a refusal", SOON, || async {
        insert(&pool, 2).await.err().filter(sqlstate::is_read_only)
    })
    .await;
    assert!(sqlstate::ends_connection(&error));
    let held = futures::future::join_all((0..4).map(|_| acquired(&pool))).await;
    drop(held);
    says(&check, Err(Unwritable::ReadOnly)).await;

    set_for_role(&database, "RESET default_transaction_read_only").await;
    // The first refusal closes the other sessions too.
    let mut refused = 0;
    while insert(&pool, 3).await.is_err() {
        refused += 1;
    }
    assert!(refused <= 1, "{refused} sessions were kept");
    says(&check, Ok(())).await;
}

#[tokio::test]
async fn once_a_database_takes_writes_again_no_session_is_left_that_cannot() {
    let database = world().await;
    let pool = connect(&database.role_url("amends_pool"), 4);
    let check = WriteCheck::of(&pool);
    set_for_role(&database, "SET default_transaction_read_only = on").await;
    says(&check, Err(Unwritable::ReadOnly)).await;
    // They begin after the last session that was found to be read-only, and nothing is written on them.
    let held = futures::future::join_all((0..4).map(|_| acquired(&pool))).await;
    drop(held);
    set_for_role(&database, "RESET default_transaction_read_only").await;
    says(&check, Ok(())).await;
    for written in futures::future::join_all((0..4).map(|n| insert(&pool, n))).await {
        written.unwrap();
    }
}

async fn pid(connection: &mut Connection) -> i32 {
    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn the_server_ends_a_statement_that_takes_too_long_and_the_session_goes_on() {
    let database = world().await;
    // The server's limit is reached long before the client's.
    let bounds = Bounds { call: SOON, ..BOUNDS };
    let pool = Pool::connect(&database.role_url("amends_pool"), 1, "test", bounds).unwrap();
    let mut connection = acquired(&pool).await;
    let before = pid(&mut connection).await;
    let error = sqlx::query("SELECT pg_sleep(300)").execute(&mut connection).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().unwrap(), "57014");
    assert_eq!(pid(&mut connection).await, before);
}

#[tokio::test]
async fn an_error_about_another_nodes_connection_leaves_the_session_open() {
    let database = world().await;
    let pool = connect(&database.role_url("amends_pool"), 1);
    let mut connection = acquired(&pool).await;
    let before = pid(&mut connection).await;
    let away = "DO $$ BEGIN RAISE EXCEPTION 'node 2 is away' USING ERRCODE = '08006'; END $$";
    let error = sqlx::query(away).execute(&mut connection).await.unwrap_err();
    assert!(sqlstate::leaves_open(&error), "what that node did is not known");
    assert!(!sqlstate::ends_connection(&error));
    drop(connection);
    let mut after = eventually("the session is free", SOON, || async { pool.acquire().await.ok() }).await;
    assert_eq!(pid(&mut after).await, before);
}

#[tokio::test]
async fn a_statement_that_the_database_can_never_execute_is_reported_once_it_was_tried() {
    let database = world().await;
    let pool = connect(&database.role_url("amends_pool"), 1);
    let unsupported = "DO $$ BEGIN RAISE EXCEPTION 'not here' USING ERRCODE = '0A000'; END $$";
    for never in [unsupported, "SELECT FROM nothing_of_that_name", "SELEC"] {
        let fault = pool.program_fault();
        let tried = async {
            tokio::task::yield_now().await;
            sqlx::query(never).execute(&pool).await.unwrap_err()
        };
        let (fault, error) = tokio::join!(fault, tried);
        assert!(sqlstate::is_program_fault(&error), "{error}");
        assert_eq!(fault, error.to_string());
    }
}

#[tokio::test]
async fn a_transaction_that_is_dropped_leaves_nothing_and_its_connection_is_used_again() {
    let database = world().await;
    let pool = connect(&database.role_url("amends_pool"), 1);
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("INSERT INTO things VALUES (1)").execute(&mut *tx).await.unwrap();
    let pid = pid(&mut tx).await;
    drop(tx);
    let (count, same): (i64, bool) = sqlx::query_as("SELECT count(*), pg_backend_pid() = $1 FROM things")
        .bind(pid)
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!((count, same), (0, true));
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("INSERT INTO things VALUES (2)").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM things").fetch_one(&pool).await.unwrap();
    assert_eq!(count, 1);
}

#[tokio::test]
async fn a_call_that_is_dropped_half_way_does_not_hold_its_place() {
    let database = world().await;
    let pool = connect(&database.role_url("amends_pool"), 1);
    let slow = async { sqlx::query("SELECT pg_sleep(1)").execute(&pool).await };
    tokio::time::timeout(Duration::from_millis(100), slow).await.unwrap_err();
    eventually("the connection", SOON, || async { insert(&pool, 1).await.ok() }).await;
}

#[tokio::test]
async fn a_server_without_room_for_files_is_not_ready() {
    let database = world().await;
    set_for_role(&database, "SET temp_file_limit = 0").await;
    let pool = connect(&database.role_url("amends_pool"), 1);
    says(&WriteCheck::of(&pool), Err(Unwritable::Full)).await;
    set_for_role(&database, "RESET temp_file_limit").await;
    says(&WriteCheck::of(&pool), Ok(())).await;
}

#[tokio::test]
async fn readiness_does_not_wait_for_a_pool_that_is_used_up() {
    let database = world().await;
    let pool = connect(&database.role_url("amends_pool"), 1);
    let held = acquired(&pool).await;
    says(&WriteCheck::of(&pool), Ok(())).await;
    drop(held);
}
