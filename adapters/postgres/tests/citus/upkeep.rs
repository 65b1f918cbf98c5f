//! Upkeep: months and keys, from whichever node, and what it does about locks on another one.

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use amends_engine::port::SagaStore;
use amends_pool::sqlstate;
use amends_postgres::{
    Database, Error,
    retention::History,
    upkeep::{Upkeep, Walk},
};
use amends_protocol::id;
use chrono::{DateTime, Utc};
use sqlx::{
    AssertSqlSafe, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use uuid::Uuid;

use crate::{
    nodes,
    support::{Postgres, citus},
};

/// The retention of history.
const RETENTION: Duration = Duration::from_secs(400 * 24 * 3600);
/// Age, in months, of the month that is retired.
const OLD_MONTHS: i32 = 17;

/// Connects to a node as the role, whose statements may have several tasks here.
async fn role_on(world: &Postgres, node: &PgPool) -> PgPool {
    let node = node.connect_options();
    let role = PgConnectOptions::from_str(&world.database.role_url("amends_engine")).unwrap();
    let role = role.host(node.get_host()).port(node.get_port());
    let role = role.options([("citus.multi_task_query_log_level", "off")]);
    PgPoolOptions::new().max_connections(1).connect_with(role).await.unwrap()
}

fn upkeep(world: &Postgres, role: &PgPool) -> Upkeep {
    Upkeep::new(Database { homes: world.store.database().homes, ..role.clone().into() })
}

/// Lets the class of keys be due for another generation.
async fn let_keys_age(world: &Postgres) {
    let aged = "UPDATE idempotency_key_classes SET began_at = now() - interval '60 days'";
    sqlx::query(aged).execute(world.owner()).await.unwrap();
}

async fn turn_keys(role: &PgPool) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT turn_keys(0::int2)").fetch_one(role).await
}

#[tokio::test]
async fn how_long_a_transaction_waits_for_a_lock_counts_on_every_node() {
    let Some(world) = citus().await else { return };
    let lock = "SELECT FROM slot_positions WHERE home = 3 AND slot = 7 FOR UPDATE";
    let mut held = world.owner().begin().await.unwrap();
    sqlx::query(lock).execute(&mut *held).await.unwrap();
    let begun = Instant::now();
    let mut waits = world.pool().begin().await.unwrap();
    sqlx::query("SET LOCAL lock_timeout = '3s'").execute(&mut *waits).await.unwrap();
    let waited = sqlx::query(lock).execute(&mut *waits).await.unwrap_err();
    assert!(sqlstate::is_locked(&waited), "{waited}");
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
    held.rollback().await.unwrap();
}

#[tokio::test]
async fn upkeep_that_meets_a_lock_on_another_node_gives_way_instead_of_making_others_wait() {
    let Some(world) = citus().await else { return };
    let nodes = nodes(&world).await;
    let role = role_on(&world, &nodes[0]).await;
    let upkeep = upkeep(&world, &role);

    // A request takes a key in some home for long.
    let_keys_age(&world).await;
    let mut held = world.owner().begin().await.unwrap();
    let share = "SELECT FROM key_generations WHERE home = 3 FOR SHARE";
    sqlx::query(share).execute(&mut *held).await.unwrap();
    let turned = turn_keys(&role).await.unwrap_err();
    assert!(sqlstate::is_locked(&turned), "{turned}");
    held.rollback().await.unwrap();
    assert!(turn_keys(&role).await.unwrap());

    // A long read on a node.
    let ensured = sqlx::query("SELECT ensure_month(now() - make_interval(months => $1))").bind(OLD_MONTHS);
    ensured.execute(world.owner()).await.unwrap();
    let mut held = nodes[1].begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM sagas").execute(&mut *held).await.unwrap();
    let retired = upkeep.retire_month(History::Sagas, RETENTION).await;
    assert!(matches!(retired, Err(Error::Locked(_))), "{retired:?}");
    held.rollback().await.unwrap();
    assert!(upkeep.retire_month(History::Sagas, RETENTION).await.unwrap().is_some());
}

/// Number of tables with a partition a month.
const MONTHLY: u64 = 7;

/// Creates a saga of a month that is past its retention.
async fn old_errand(world: &Postgres, slot: u16) -> Uuid {
    let saga = world.errand(slot).await;
    let old: DateTime<Utc> = sqlx::query_scalar("SELECT now() - make_interval(months => $1)")
        .bind(OLD_MONTHS)
        .fetch_one(world.owner())
        .await
        .unwrap();
    let id = id::dated(saga.id, old);
    for (table, key) in [("sagas", "id"), ("timeline", "saga_id"), ("personal", "saga_id")] {
        let moved = format!("UPDATE {table} SET {key} = $3 WHERE home = $1 AND {key} = $2");
        let homes = world.store.database().homes;
        let moved = sqlx::query(AssertSqlSafe(moved)).bind(homes.of_slot(slot)).bind(saga.id).bind(id);
        assert_eq!(moved.execute(world.owner()).await.unwrap().rows_affected(), 1, "{table}");
    }
    id
}

#[tokio::test]
async fn the_role_makes_months_drops_old_ones_and_turns_keys_whichever_node_it_asks() {
    let Some(world) = citus().await else { return };
    // The migration has made three.
    for (node, (months, missing)) in nodes(&world).await.iter().zip([(5, 2), (6, 1), (7, 1)]) {
        let role = role_on(&world, node).await;
        let upkeep = upkeep(&world, &role);
        assert_eq!(upkeep.ensure_partitions(months).await.unwrap(), missing * MONTHLY);
        let ensured =
            sqlx::query("SELECT ensure_month(now() - make_interval(months => $1))").bind(OLD_MONTHS);
        ensured.execute(world.owner()).await.unwrap();
        let (open, ended) = (old_errand(&world, 1).await, old_errand(&world, 2).await);
        let end = "UPDATE sagas SET live = false, wake_at = NULL, outcome = 'completed',
                   updated_at = now() - interval '401 days' WHERE id = $1";
        sqlx::query(end).bind(ended).execute(world.owner()).await.unwrap();
        let retired = upkeep.retire_month(History::Sagas, RETENTION).await.unwrap().unwrap();
        assert_eq!((retired.moved, retired.stays), (1, false));
        let left = world.store.load(&[open, ended]).await.unwrap().sagas;
        assert_eq!(left.iter().map(|saga| saga.id).collect::<Vec<_>>(), [open]);

        sqlx::query(end).bind(open).execute(world.owner()).await.unwrap();
        let (mut walk, mut gone) = (Walk::default(), 0);
        for _page in 0..8 {
            gone += upkeep.forget_leftovers(History::Sagas, RETENTION, &mut walk).await.unwrap();
        }
        assert_eq!(gone, 1);
        let entries = "SELECT count(*) FROM timeline WHERE saga_id = ANY($1)";
        let entries: i64 =
            sqlx::query_scalar(entries).bind(vec![open, ended]).fetch_one(world.owner()).await.unwrap();
        assert_eq!(entries, 0);

        let_keys_age(&world).await;
        assert!(turn_keys(&role).await.unwrap());
        assert!(!turn_keys(&role).await.unwrap(), "a new generation has begun");
        let generations: Vec<(i16, i16)> = sqlx::query_as(
            "SELECT DISTINCT g.generation, c.generation FROM key_generations AS g
             JOIN idempotency_key_classes AS c USING (class)",
        )
        .fetch_all(world.owner())
        .await
        .unwrap();
        let [(of_homes, of_class)] = generations[..] else { panic!("{generations:?}") };
        assert_eq!(of_homes, of_class);
    }
}
