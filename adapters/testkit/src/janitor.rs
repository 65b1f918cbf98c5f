//! Drops databases in the background.
//!
//! It does not run in the test's own thread: that runs its runtime, and DROP DATABASE waits for every session of the
//! server, including one that a task of that runtime is just opening.
//!
//! On a server that outlives this process some databases may be left behind. Their names contain the number of an
//! advisory lock that their process held: the next process drops those whose lock is free.

use std::{
    sync::{LazyLock, OnceLock, mpsc},
    thread,
};

use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};

/// This process' advisory lock.
static LOCK: LazyLock<u32> = LazyLock::new(rand::random);

static QUEUE: OnceLock<mpsc::Sender<String>> = OnceLock::new();

/// Returns the suffix of this process' database names.
pub(crate) fn mark() -> String {
    format!("_test_{}", *LOCK)
}

/// Starts the janitor; called once, before the first database is created. Returns when the lock is held.
pub(crate) fn start(server: PgConnectOptions) {
    let (names, queue) = mpsc::channel();
    let (started, starting) = mpsc::channel();
    QUEUE.set(names).expect("there is one server a process");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    thread::spawn(move || {
        let mut lock = runtime.block_on(lock(&server)).expect("the test server can be reached");
        let _ = started.send(());
        let _ = runtime.block_on(drop_abandoned(&mut lock, &server));
        for name in queue {
            // If a test has stopped the server, the database cannot be dropped: that is no failure.
            let _ = runtime.block_on(drop_one(&server, &name));
        }
        drop(lock);
    });
    let _ = starting.recv();
}

/// Drops a database soon.
pub(crate) fn drop_database(name: String) {
    if let Some(queue) = QUEUE.get() {
        let _ = queue.send(name);
    }
}

async fn lock(server: &PgConnectOptions) -> sqlx::Result<PgConnection> {
    let mut connection = PgConnection::connect_with(server).await?;
    sqlx::query("SELECT pg_advisory_lock($1)").bind(i64::from(*LOCK)).execute(&mut connection).await?;
    Ok(connection)
}

/// Drops the databases of processes that no longer hold their lock.
async fn drop_abandoned(connection: &mut PgConnection, server: &PgConnectOptions) -> sqlx::Result<()> {
    let abandoned: Vec<String> = sqlx::query_scalar(
        "SELECT datname FROM pg_database
         WHERE datname ~ '_test_[0-9]+$' AND NOT EXISTS (
             SELECT FROM pg_locks
             WHERE locktype = 'advisory' AND objid::bigint = substring(datname FROM '[0-9]+$')::bigint)",
    )
    .fetch_all(connection)
    .await?;
    for name in abandoned {
        let _ = drop_one(server, &name).await;
    }
    Ok(())
}

async fn drop_one(server: &PgConnectOptions, name: &str) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect_with(server).await?;
    let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
    connection.close().await
}
