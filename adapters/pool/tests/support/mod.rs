//! A database with one table, accessed as a service's role.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{borrow::Cow, time::Duration};

use amends_pool::{Bounds, Connection, Pool};
use amends_testkit::{TestDatabase, database, eventually};
use sqlx::{AssertSqlSafe, migrate::Migrator};

/// Short, so that a test need not wait long; the server's is the shorter one.
pub const BOUNDS: Bounds =
    Bounds { statement: Duration::from_millis(1500), call: Duration::from_millis(2000) };

static NO_MIGRATIONS: Migrator = Migrator { migrations: Cow::Borrowed(&[]), ..Migrator::DEFAULT };

pub async fn world() -> TestDatabase {
    let database = database(&NO_MIGRATIONS, "pool").await;
    owner(&database, "CREATE TABLE things (id int PRIMARY KEY)").await;
    owner(&database, "GRANT ALL ON things TO amends_pool").await;
    database
}

pub async fn owner(database: &TestDatabase, sql: &str) {
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&database.pool).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

pub fn connect(url: &str, connections: u32) -> Pool {
    Pool::connect(url, connections, "test", BOUNDS).unwrap()
}

/// Waits for a connection: a busy machine may take longer than a caller waits.
pub async fn acquired(pool: &Pool) -> Connection {
    eventually("a connection", Duration::from_secs(60), || async { pool.acquire().await.ok() }).await
}

pub async fn insert(pool: &Pool, id: i32) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO things VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(id)
        .execute(pool)
        .await
        .map(drop)
}
