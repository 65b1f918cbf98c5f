//! Deletion of rows by month, except for those with work left to do.

use std::time::Duration;

use amends_protocol::{Command, id};
use amends_worker::{PgRows, ensure_partitions, expire_rows};
use chrono::{DateTime, Months, TimeDelta, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    books::{books, status},
    messages::execute,
};

const RETENTION: Duration = Duration::from_hours(400 * 24);

/// Creates the execute of a saga that was born then.
fn born(at: DateTime<Utc>) -> Command {
    let millis = u128::try_from(at.timestamp_millis()).unwrap();
    let saga_id = Uuid::from_u128(millis << 80 | (Uuid::now_v7().as_u128() & ((1 << 80) - 1)));
    let command_id = id::execute(saga_id, "pay", 0, 1);
    Command { saga_id, command_id, issued_at: at, deadline: at, ..execute("order") }
}

async fn put(pool: &PgPool, command: &Command, status: &str) {
    let live = matches!(status, "accepted" | "started" | "undoing");
    sqlx::query(
        "INSERT INTO commands (command_id, saga_id, status, attempt, epoch, issued_at, live, lease_until)
         VALUES ($1, $2, $3, 1, 0, $4, $5, $4)",
    )
    .bind(command.command_id)
    .bind(command.saga_id)
    .bind(status)
    .bind(command.issued_at)
    .bind(live)
    .execute(pool)
    .await
    .unwrap();
}

async fn change(pool: &PgPool, command: &Command, set: &'static str) {
    let sql = sqlx::AssertSqlSafe(format!("UPDATE commands SET {set} WHERE command_id = $1"));
    sqlx::query(sql).bind(command.command_id).execute(pool).await.unwrap();
}

#[tokio::test]
async fn a_row_goes_with_its_month_unless_something_is_still_to_be_done_for_it() {
    let books = books().await;
    let (pool, rows) = (&books.pool, PgRows::new(books.pool.clone()));
    let now = Utc::now();
    let long_ago = now - TimeDelta::days(400) - Months::new(2);
    let made: i32 =
        sqlx::query_scalar("SELECT ensure_partitions(2, $1)").bind(long_ago).fetch_one(pool).await.unwrap();
    assert_eq!(made, 3);
    let [done, undone, accepted, unsure, undoing, settled] = [(); 6].map(|()| born(long_ago));
    for (command, status) in [
        (&done, "succeeded"),
        (&undone, "undone"),
        (&accepted, "accepted"),
        (&unsure, "started"),
        (&undoing, "undoing"),
        (&settled, "started"),
    ] {
        put(pool, command, status).await;
    }
    change(pool, &unsure, "unsure = true").await;
    change(pool, &settled, "unsure = true, resolved = 'notDone'").await;
    let (recent, young) = (born(now - TimeDelta::days(399)), born(now));
    put(pool, &recent, "tombstone").await;
    put(pool, &young, "refused").await;

    let (months, gone) = expire_rows(&rows, RETENTION).await.unwrap();
    assert!((1..=2).contains(&months), "{months}");
    assert_eq!(gone, 0);
    for command in [&done, &undone, &settled] {
        assert_eq!(status(pool, command.command_id).await, None);
    }
    for command in [&accepted, &unsure, &undoing, &recent, &young] {
        assert!(status(pool, command.command_id).await.is_some(), "{command:?}");
    }
    // A row that was moved is deleted once it is settled.
    change(pool, &unsure, "status = 'refused', live = false, unsure = false").await;
    assert_eq!(expire_rows(&rows, RETENTION).await.unwrap(), (0, 1));
    assert_eq!(status(pool, unsure.command_id).await, None);
    assert!(status(pool, accepted.command_id).await.is_some());
}

#[tokio::test]
async fn a_month_of_which_very_many_rows_are_not_settled_stays_until_fewer_are() {
    let books = books().await;
    let (pool, rows) = (&books.pool, PgRows::new(books.pool.clone()));
    let long_ago = Utc::now() - TimeDelta::days(400) - Months::new(2);
    sqlx::query("SELECT ensure_partitions(0, $1)").bind(long_ago).execute(pool).await.unwrap();
    let done = born(long_ago);
    put(pool, &done, "succeeded").await;
    sqlx::query(
        "INSERT INTO commands (command_id, saga_id, status, attempt, epoch, issued_at, live, unsure, lease_until)
         SELECT id, id, 'started', 1, 0, $1, true, n % 2 = 0, $1
         FROM generate_series(1, 2001) AS n, CAST(left(least_id($1)::text, 24) || lpad(n::text, 12, '0') AS uuid) AS id",
    )
    .bind(long_ago)
    .execute(pool)
    .await
    .unwrap();
    assert_eq!(
        expire_rows(&rows, RETENTION).await.unwrap(),
        (0, 0),
        "it would hold up all commands for long"
    );
    assert!(status(pool, done.command_id).await.is_some());
    // An operator settles one of them.
    sqlx::query("UPDATE commands SET resolved = 'done' WHERE command_id::text LIKE '%000000000001'")
        .execute(pool)
        .await
        .unwrap();
    assert_eq!(expire_rows(&rows, RETENTION).await.unwrap(), (1, 0));
    assert_eq!(status(pool, done.command_id).await, None);
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM commands_default").fetch_one(pool).await.unwrap();
    assert_eq!(left, 2000);
}

#[tokio::test]
async fn rows_are_kept_for_sixty_days_at_least() {
    let books = books().await;
    let rows = PgRows::new(books.pool.clone());
    let refused = expire_rows(&rows, Duration::from_hours(59 * 24)).await.unwrap_err();
    assert!(refused.to_string().contains("22023"), "{refused}");
    assert_eq!(expire_rows(&rows, Duration::from_hours(60 * 24)).await.unwrap(), (0, 0));
}

#[tokio::test]
async fn a_month_is_there_before_it_begins_and_takes_in_the_rows_that_were_earlier() {
    let books = books().await;
    let (pool, rows) = (&books.pool, PgRows::new(books.pool.clone()));
    let ahead = born(Utc::now() + Months::new(5));
    put(pool, &ahead, "succeeded").await;
    assert_eq!(ensure_partitions(&rows, 3).await.unwrap(), 0, "the migration has made them");
    assert_eq!(ensure_partitions(&rows, 6).await.unwrap(), 3);
    let home: String =
        sqlx::query_scalar("SELECT tableoid::regclass::text FROM commands WHERE command_id = $1")
            .bind(ahead.command_id)
            .fetch_one(pool)
            .await
            .unwrap();
    assert!(home.starts_with("commands_2"), "{home}");
}
