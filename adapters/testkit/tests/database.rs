//! Databases of single tests.

use std::time::Duration;

use amends_testkit::{TestDatabase, database, eventually, login_role};
use sqlx::{Connection, PgConnection, migrate::Migrator};

static MIGRATOR: Migrator = sqlx::migrate!("tests/migrations");

async fn count(database: &TestDatabase) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM things").fetch_one(&database.pool).await.unwrap()
}

async fn nobody_sees_anothers_rows() {
    let (mine, theirs) = tokio::join!(database(&MIGRATOR, "things"), database(&MIGRATOR, "things"));
    sqlx::query("INSERT INTO things VALUES (2)").execute(&mine.pool).await.unwrap();
    assert_eq!((count(&mine).await, count(&theirs).await), (2, 1));
}

#[tokio::test]
async fn tests_have_databases_of_their_own() {
    nobody_sees_anothers_rows().await;
}

#[tokio::test]
async fn tests_have_databases_of_their_own_in_parallel() {
    tokio::join!(nobody_sees_anothers_rows(), nobody_sees_anothers_rows());
}

#[test]
fn a_second_runtime_of_the_process_is_served_like_the_first() {
    for _ in 0..2 {
        tokio::runtime::Runtime::new().unwrap().block_on(nobody_sees_anothers_rows());
    }
}

#[tokio::test]
async fn a_login_role_has_the_rights_that_the_migrations_gave_it_and_no_others() {
    let database = database(&MIGRATOR, "things").await;
    let mut service = PgConnection::connect(&database.role_url("amends_things")).await.unwrap();
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM things").fetch_one(&mut service).await.unwrap();
    assert_eq!(rows, 1);
    login_role("amends_payment").await;
    let mut payment = PgConnection::connect(&database.role_url("amends_payment")).await.unwrap();
    let refused = sqlx::query("SELECT FROM things").execute(&mut payment).await.unwrap_err();
    assert!(refused.to_string().contains("permission denied"), "{refused}");
}

#[tokio::test]
async fn a_database_is_gone_with_its_test() {
    let kept = database(&MIGRATOR, "things").await;
    let dropped = database(&MIGRATOR, "things").await;
    let name = dropped.name().to_owned();
    count(&dropped).await;
    drop(dropped);
    eventually("it is gone", Duration::from_secs(90), async || {
        let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
            .bind(&name)
            .fetch_one(&kept.pool)
            .await
            .unwrap();
        (!there).then_some(())
    })
    .await;
}

#[tokio::test]
#[should_panic(expected = "not within 10ms: pigs fly")]
async fn what_never_happens_fails_the_test_in_its_words() {
    eventually("pigs fly", Duration::from_millis(10), || async { None::<()> }).await;
}
