//! On a real Citus, where `AMENDS_TEST_CITUS` names the database of a coordinator: the conformance suite, in which every
//! statement is one task on one node; what a commit prepares; and, in files of their own, the skip test with writers on all
//! nodes, upkeep, and databases that were distributed before the latest migrations.

mod migrations;
mod skips;
#[path = "../support/mod.rs"]
mod support;
mod upkeep;

use std::time::Duration;

use amends_engine::port::SagaStore;
use amends_pool::Bounds;
use amends_postgres::{
    Database, PgSagaStore,
    conformance::moved,
    deployment::{deployment, raise_epoch},
    plans::{self, NewPlan},
};
use amends_testkit::eventually;
use sqlx::{
    ConnectOptions, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use support::{ON_THE_COORDINATOR, Postgres, citus};
use uuid::Uuid;

amends_postgres::conformance!(optional: support::citus);

/// Connects to the test's database on each node: coordinator first.
async fn nodes(world: &Postgres) -> Vec<PgPool> {
    let nodes: Vec<(String, i32)> = sqlx::query_as(
        "SELECT nodename, nodeport FROM pg_dist_node WHERE noderole = 'primary' ORDER BY groupid",
    )
    .fetch_all(world.owner())
    .await
    .unwrap();
    let own = PgConnectOptions::clone(&world.owner().connect_options());
    let of = |(host, port): (String, i32)| {
        let options = own.clone().host(&host).port(u16::try_from(port).unwrap());
        PgPoolOptions::new().max_connections(4).connect_lazy_with(options)
    };
    nodes.into_iter().map(of).collect()
}

#[tokio::test]
async fn a_birth_and_a_commit_are_no_two_phase_commits() {
    let Some(world) = citus().await else { return };
    let before = world.two_phase_commits().await;
    for slot in 0..20 {
        let saga = world.errand(slot).await;
        let beside = world.errand(slot + 1).await;
        let now = world.store.load(&[]).await.unwrap().now;
        let committed = world.store.commit(&[moved(&saga, 2, now), moved(&beside, 1, now)]).await.unwrap();
        assert_eq!((committed.written.len(), committed.failed.len()), (2, 0));
    }
    world.assert_no_two_phase_commit_since(&before).await;
}

/// What the plan says of the number of tasks.
async fn task_count(world: &Postgres, statement: &str) -> String {
    let explain = sqlx::AssertSqlSafe(format!("EXPLAIN {statement}"));
    let plan: Vec<String> = sqlx::query_scalar(explain).fetch_all(world.owner()).await.unwrap();
    let tasks = plan.into_iter().find_map(|line| Some(line.trim().strip_prefix("Task Count: ")?.to_owned()));
    tasks.unwrap_or_else(|| "none".to_owned())
}

/// The suite above fails for any statement of several tasks; these are the plans of the functions that write, and, as a
/// control, that of a statement without a home.
#[tokio::test]
async fn writes_are_one_task_and_a_statement_without_a_home_is_not() {
    let Some(world) = citus().await else { return };
    let functions = [
        "append_entries",
        "bear_sagas",
        "claim_keys",
        "commit_sagas",
        "erase_personal_data",
        "forget_leftovers",
        "place_orders",
    ];
    let calls: Vec<String> = sqlx::query_scalar(
        "SELECT format('SELECT %I(1::int2%s)', f.proname,
                       (SELECT string_agg(', NULL::' || format_type(a.type, NULL), '' ORDER BY a.place)
                        FROM UNNEST(f.proargtypes::oid[]) WITH ORDINALITY AS a (type, place) WHERE a.place > 1))
         FROM pg_proc AS f WHERE f.pronamespace = 'public'::regnamespace AND f.proname = ANY($1)",
    )
    .bind(functions.map(str::to_owned).to_vec())
    .fetch_all(world.owner())
    .await
    .unwrap();
    assert_eq!(calls.len(), functions.len());
    for call in calls {
        assert_eq!(task_count(&world, &call).await, "1", "{call}");
    }
    let one = "SELECT FROM sagas WHERE home = 1 AND id = '00000000-0000-7000-8000-000000000000'";
    assert_eq!(task_count(&world, one).await, "1");
    assert_ne!(task_count(&world, "SELECT FROM sagas WHERE live").await, "1");
}

/// Tables of the schema that are neither distributed, nor copied to each node, nor known to the others.
async fn ordinary_tables(owner: &PgPool) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class AS c
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
           AND NOT relation_is_a_known_shard(c.oid)
           AND NOT EXISTS (SELECT FROM pg_dist_partition AS d WHERE d.logicalrelid = c.oid)
         ORDER BY c.relname",
    )
    .fetch_all(owner)
    .await
    .unwrap()
}

#[tokio::test]
async fn no_table_is_forgotten() {
    let Some(world) = citus().await else { return };
    assert_eq!(ordinary_tables(world.owner()).await, ON_THE_COORDINATOR);
}

#[tokio::test]
async fn the_epoch_rises_after_the_writes_that_no_node_has_committed() {
    let Some(world) = citus().await else { return };
    let saga = world.errand(7).await;
    // The owner's writes wait on a node for as long as they must.
    let url = world.owner().connect_options().to_url_lossy();
    let homes = world.store.database().homes;
    let writer = Database::connect(url.as_str(), 2, "test", Bounds::default(), homes).unwrap();
    let before = PgSagaStore::new(writer);
    let mut held = world.owner().begin().await.unwrap();
    let slot = sqlx::query("SELECT lock_slots($1, ARRAY[7::int2])").bind(homes.of_slot(7));
    slot.execute(&mut *held).await.unwrap();

    let commit = async { before.commit(&[moved(&saga, 1, saga.born_at)]).await };
    let raise = async {
        let soon = Duration::from_secs(8);
        eventually("the commit waits", soon, || async {
            (world.waiting_anywhere("transactionid").await == 1).then_some(())
        })
        .await;
        let raising = async { raise_epoch(world.owner()).await };
        let ending = async {
            eventually("the epoch waits for it", soon, || async {
                (world.waiting_anywhere("relation").await == 1).then_some(())
            })
            .await;
            held.rollback().await.unwrap();
        };
        tokio::join!(raising, ending).0
    };
    let (written, raised) = tokio::join!(commit, raise);
    assert_eq!((written.unwrap().written.len(), raised.unwrap()), (1, 1));
    assert!(raise_epoch(world.pool()).await.is_err(), "the engine's role may not");
    assert_eq!(deployment(&world.pool()).await.unwrap().epoch, 1);
}

#[tokio::test]
async fn a_plan_is_kept_and_answered_once() {
    let Some(world) = citus().await else { return };
    let (pool, hash) = (world.pool(), "ab".repeat(32));
    let plan = NewPlan { hash: &hash, saga_id: Uuid::now_v7(), revision: 3, event: "{}", planned_by: "ada" };
    let first = plans::keep(&pool, plan, Duration::from_secs(60)).await.unwrap();
    let later = plans::keep(&pool, plan, Duration::from_secs(600)).await.unwrap();
    assert!(later > first);
    let kept = plans::get(&pool, &hash).await.unwrap().unwrap();
    assert_eq!((kept.expires_at, kept.has_expired, kept.answer), (later, false, None));
    for answer in ["one", "two"] {
        let recorded = plans::answered(&pool, &hash, answer).await.unwrap();
        assert_eq!(recorded.as_deref(), Some("one"));
    }
}
