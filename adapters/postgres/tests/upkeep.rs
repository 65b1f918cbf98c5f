//! Periodic upkeep.

mod support;

use std::time::Duration;

use amends_engine::port::{DueScan, SagaStore};
use amends_postgres::{
    conformance::{World, scan},
    upkeep::{COUNT_LOOK, MISSED_WAKES, STUCK_MARKS, Survey, Upkeep, Walk},
};
use support::{Postgres, world};
use uuid::Uuid;

/// The tables with a partition a month.
const TABLES: [&str; 7] = ["sagas", "timeline", "personal", "odd_replies", "strays", "orders", "order_sagas"];
const MONTHLY: u64 = TABLES.len() as u64;

async fn partitions(world: &Postgres, table: &str) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = $1::text::regclass ORDER BY 1",
    )
    .bind(table)
    .fetch_all(world.owner())
    .await
    .unwrap()
}

#[tokio::test]
async fn partitions_are_made_ahead_by_the_role_that_may_not_make_tables() {
    let world = world().await;
    let upkeep = Upkeep::new(world.pool());
    assert_eq!(upkeep.ensure_partitions(3).await.unwrap(), 0, "the migration made them");
    assert_eq!(upkeep.ensure_partitions(14).await.unwrap(), 11 * MONTHLY);
    for table in TABLES {
        assert_eq!(partitions(&world, table).await.len(), 1 + 15, "{table}");
    }
    let refused = sqlx::query("CREATE TABLE mine ()").execute(&world.pool()).await;
    assert!(refused.unwrap_err().to_string().contains("permission denied"));
}

#[tokio::test]
async fn new_sagas_live_in_this_months_partition() {
    let world = world().await;
    let saga = world.errand(1).await;
    for (table, key) in [("sagas", "id"), ("timeline", "saga_id")] {
        let sql = format!("SELECT tableoid::regclass::text FROM {table} WHERE {key} = $1");
        let found: String = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .bind(saga.id)
            .fetch_one(world.owner())
            .await
            .unwrap();
        assert_eq!(found, format!("{table}_{}", saga.born_at.format("%Y%m")));
    }
}

#[tokio::test]
async fn rows_that_came_before_their_partition_move_into_it() {
    let world = world().await;
    let upkeep = Upkeep::new(world.pool());
    let saga = world.errand(1).await;
    // As if no upkeep had run: a saga of the month after the last partition.
    let late: Uuid = sqlx::query_scalar(
        "UPDATE sagas SET id = least_id(now() + interval '4 months 2 days') WHERE id = $1 RETURNING id",
    )
    .bind(saga.id)
    .fetch_one(world.owner())
    .await
    .unwrap();
    let home = || async {
        let sql = "SELECT tableoid::regclass::text FROM sagas WHERE id = $1";
        let table: String = sqlx::query_scalar(sql).bind(late).fetch_one(world.owner()).await.unwrap();
        table
    };
    assert_eq!(home().await, "sagas_default");
    assert!(upkeep.ensure_partitions(6).await.unwrap() > 0);
    assert_ne!(home().await, "sagas_default");
    assert_eq!(world.store().load(&[late]).await.unwrap().sagas.len(), 1);
}

#[tokio::test]
async fn so_many_rows_that_others_would_wait_for_them_stay_where_they_are() {
    let world = world().await;
    let upkeep = Upkeep::new(world.pool());
    let saga = world.errand(1).await;
    world
        .copies(&saga, 10_001, "id = (left(least_id(now() + interval '4 months 2 days')::text, 13) || right(id::text, 23))::uuid")
        .await;
    assert_eq!(upkeep.ensure_partitions(6).await.unwrap(), 3 * MONTHLY - 1, "all but the one of sagas");
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sagas_default").fetch_one(world.owner()).await.unwrap();
    assert_eq!(left, 10_001);
}

#[tokio::test]
async fn partitions_are_made_while_sagas_are_born() {
    let world = world().await;
    let upkeep = Upkeep::new(world.pool());
    let births = async {
        for _ in 0..20 {
            world.errand(1).await;
        }
    };
    let (made, ()) = tokio::join!(upkeep.ensure_partitions(10), births);
    assert_eq!(made.unwrap(), 7 * MONTHLY);
}

#[tokio::test]
async fn a_return_changes_its_orders_row_and_no_index_of_it() {
    let world = world().await;
    let young = world.errand(1).await;
    world.past(&young, 1, 600, "live = false, outcome = 'completed', wake_at = NULL").await;
    let changed = "UPDATE orders SET saga_id = gen_random_uuid() WHERE id = ANY(ARRAY(
                       SELECT id FROM (SELECT id, row_number() OVER (ORDER BY ctid) AS n FROM orders) AS o WHERE n % 20 = 0))";
    let changed = sqlx::query(changed).execute(&world.pool()).await.unwrap().rows_affected();
    let unfilled = "SELECT count(*) FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid
                    WHERE inhparent = 'orders'::regclass AND NOT 'fillfactor=90' = ANY(COALESCE(reloptions, '{}'))";
    let unfilled: i64 = sqlx::query_scalar(unfilled).fetch_one(world.owner()).await.unwrap();
    assert_eq!((changed, unfilled), (30, 0));
    assert_eq!(world.counted("n_tup_hot_upd", "orders_").await, 30);
}

#[tokio::test]
async fn a_live_saga_without_a_time_to_wake_is_woken() {
    let world = world().await;
    let upkeep = Upkeep::new(world.pool());
    let (missed, ended) = (world.errand(1).await, world.errand(1).await);
    world.errand(1).await;
    world.store().reschedule(&[(missed.id, 1, None), (ended.id, 1, None)]).await.unwrap();
    sqlx::query("UPDATE sagas SET live = false WHERE id = $1")
        .bind(ended.id)
        .execute(world.owner())
        .await
        .unwrap();
    assert_eq!(upkeep.sweep_missed().await.unwrap(), [missed.id]);
    let due = world.store().due(&DueScan { limit: 9, ..scan(&[1]) }).await.unwrap().sagas;
    assert_eq!(due.iter().map(|saga| saga.id).collect::<Vec<_>>(), [missed.id]);
    assert_eq!(upkeep.sweep_missed().await.unwrap(), [] as [Uuid; 0]);
}

#[tokio::test]
async fn when_all_are_stuck_at_once_they_are_marked_some_at_a_time_and_each_once() {
    let world = world().await;
    let upkeep = Upkeep::new(world.pool());
    let saga = world.errand(1).await;
    world.copies(&saga, 2_499, "since = since - interval '1 hour'").await;
    let (mut walk, mut marked) = (Walk::default(), Vec::new());
    // One full round, and more.
    for _ in 0..12 {
        let some = upkeep.mark_stuck(Duration::from_secs(300), &mut walk).await.unwrap();
        assert!(some.len() <= STUCK_MARKS, "{}", some.len());
        marked.extend(some);
    }
    let all = marked.len();
    marked.sort_unstable();
    marked.dedup();
    assert_eq!((all, marked.len()), (2_499, 2_499));
    assert!(!marked.contains(&saga.id), "it has just come here");
}

#[tokio::test]
async fn a_locked_saga_keeps_no_other_from_being_marked() {
    let world = world().await;
    let upkeep = Upkeep::new(world.pool());
    let (locked, free) = (world.errand(1).await, world.errand(1).await);
    let mut forgotten = world.owner().begin().await.unwrap();
    sqlx::query("SELECT FROM sagas WHERE id = $1 FOR UPDATE")
        .bind(locked.id)
        .execute(&mut *forgotten)
        .await
        .unwrap();
    let mut walk = Walk::default();
    assert_eq!(upkeep.mark_stuck(Duration::ZERO, &mut walk).await.unwrap(), [free.id]);
    forgotten.rollback().await.unwrap();
    assert_eq!(upkeep.mark_stuck(Duration::ZERO, &mut walk).await.unwrap(), [locked.id]);
}

#[tokio::test]
async fn missed_wake_ups_are_swept_some_at_a_time() {
    let world = world().await;
    let upkeep = Upkeep::new(world.pool());
    let saga = world.errand(1).await;
    world.copies(&saga, 700, "wake_at = NULL").await;
    assert_eq!(upkeep.sweep_missed().await.unwrap().len(), MISSED_WAKES as usize);
    assert_eq!(upkeep.sweep_missed().await.unwrap().len(), 200);
}

#[tokio::test]
async fn what_is_counted_in_parts_comes_to_the_whole() {
    let world = world().await;
    let upkeep = Upkeep::new(world.pool());
    let saga = world.errand(1).await;
    let more = i32::try_from(COUNT_LOOK).unwrap();
    world.copies(&saga, more, "stuck_at = since").await;
    let mut survey = Survey::default();
    assert_eq!(upkeep.count_some(&mut survey).await.unwrap(), None, "there are more");
    let counts = upkeep.count_some(&mut survey).await.unwrap().unwrap();
    let count = counts.sagas.iter().map(|count| (count.sagas, count.stuck)).collect::<Vec<_>>();
    assert_eq!(count, [(u64::from(COUNT_LOOK) + 1, u64::from(COUNT_LOOK))]);
}
