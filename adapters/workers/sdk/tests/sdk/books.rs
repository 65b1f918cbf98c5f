//! A database with the rows' table and a table of effects that accepts duplicates, so that tests can count them.

use amends_testkit::TestDatabase;
use sqlx::PgPool;
use uuid::Uuid;

static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("../../../migrations/payment");

pub async fn books() -> TestDatabase {
    let database = amends_testkit::database(&MIGRATOR, "payment").await;
    sqlx::query("CREATE TABLE effects (key uuid NOT NULL, amount integer NOT NULL CHECK (amount < 1000000))")
        .execute(&database.pool)
        .await
        .unwrap();
    database
}

/// Connections with a role's settings: they have a lock timeout.
pub fn impatient(books: &TestDatabase) -> PgPool {
    amends_pool::connect(&books.url, 4, "test").unwrap().unbounded().clone()
}

/// Returns the number of effects under a key.
pub async fn effects(pool: &PgPool, key: Uuid) -> i64 {
    let count = sqlx::query_scalar("SELECT count(*) FROM effects WHERE key = $1").bind(key);
    count.fetch_one(pool).await.unwrap()
}

/// Returns the status of a row; `None` without a row.
pub async fn status(pool: &PgPool, key: Uuid) -> Option<String> {
    let status = sqlx::query_scalar("SELECT status FROM commands WHERE command_id = $1").bind(key);
    status.fetch_optional(pool).await.unwrap()
}

/// Returns the status of a row, and whether it is unsure.
pub async fn state(pool: &PgPool, key: Uuid) -> (String, bool) {
    let state = sqlx::query_as("SELECT status, unsure FROM commands WHERE command_id = $1").bind(key);
    state.fetch_one(pool).await.unwrap()
}

/// Makes time pass, by the database: all leases lapse, and all resting rows are due.
pub async fn time_passes(pool: &PgPool) {
    sqlx::query("UPDATE commands SET lease_until = now() - interval '1 second' WHERE live")
        .execute(pool)
        .await
        .unwrap();
}
