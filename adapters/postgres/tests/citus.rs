//! On a real Citus, where `AMENDS_TEST_CITUS` names the database of a coordinator: the conformance suite, in which every
//! statement is one task on one node; the skip test with writers on all nodes; what a commit prepares; months, keys and waiting
//! for locks; and databases that were distributed before the latest migrations.

mod support;

use std::{
    collections::BTreeSet,
    net::TcpListener,
    str::FromStr,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use amends_engine::port::SagaStore;
use amends_pool::{Bounds, sqlstate};
use amends_postgres::{
    Database, Error, Homes, MIGRATOR, PgSagaStore,
    citus::{Cluster, distribute, migrator},
    conformance::moved,
    deployment::{self, check_homes, deployment, ensure_deployment, raise_epoch},
    plans::{self, NewPlan},
    retention::History,
    upkeep::{Upkeep, Walk},
};
use amends_protocol::id;
use amends_testkit::eventually;
use chrono::{DateTime, Utc};
use futures::future::join_all;
use sqlx::{
    AssertSqlSafe, ConnectOptions, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use support::{CITUS, ON_THE_COORDINATOR, Postgres, citus, empty_on_citus};
use uuid::Uuid;

amends_postgres::conformance!(optional: support::citus);

/// Appends two entries in slot 7, as every writer does, and commits late now and then, as on a busy disk.
const NUMBERED: &str =
    "SELECT append_entries(3::int2, ARRAY[gen_random_uuid(), gen_random_uuid()], '{7,7}', '{1,1}',
    ARRAY[now(), now()], '{x,x}', 1, NULL)";
/// The same without a lock: numbers that are drawn in order, as from a sequence, and committed late now and then.
const UNLOCKED: &str = "SELECT append_unlocked(3::int2)";
const MAKE_UNLOCKED: &str = "
    CREATE OR REPLACE FUNCTION append_unlocked(of_home smallint) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO timeline (home, saga_id, slot, position, revision, at, body, batch)
        SELECT of_home, gen_random_uuid(), 7, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + n, 1, now(), 'x', 1
        FROM generate_series(1, 2) AS n;
        PERFORM pg_sleep(CASE WHEN random() < 0.3 THEN 0.003 ELSE 0 END);
    END $$;
    SELECT create_distributed_function('append_unlocked(smallint)', 'of_home', colocate_with := 'slot_positions')";

const WRITERS_EACH: usize = 2;

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

/// Lets writers on each node commit `commits` transactions each while a reader follows them on the coordinator; returns
/// how many entries there are, and how many it skipped.
async fn skipped(world: &Postgres, statement: &'static str, commits: usize) -> (usize, usize) {
    sqlx::raw_sql("TRUNCATE timeline").execute(world.owner()).await.unwrap();
    let nodes = nodes(world).await;
    let ended = AtomicUsize::new(0);
    let writers: Vec<&PgPool> = nodes.iter().flat_map(|node| [node; WRITERS_EACH]).collect();
    let count = writers.len();
    let writers = join_all(writers.into_iter().enumerate().map(|(writer, pool)| {
        let ended = &ended;
        async move {
            for n in 0..commits {
                // One in three is a transaction of its caller, which commits later.
                if (n + writer) % 3 == 0 {
                    let mut tx = pool.begin().await.unwrap();
                    sqlx::query(statement).execute(&mut *tx).await.unwrap();
                    sqlx::query("SELECT pg_sleep(0.003)").execute(&mut *tx).await.unwrap();
                    tx.commit().await.unwrap();
                } else {
                    sqlx::query(statement).execute(pool).await.unwrap();
                }
            }
            ended.fetch_add(1, Ordering::SeqCst);
        }
    }));
    let reader = async {
        let (mut seen, mut reached) = (BTreeSet::new(), 0_i64);
        loop {
            let all_ended = ended.load(Ordering::SeqCst) == count;
            let next: Vec<i64> = sqlx::query_scalar(
                "SELECT position FROM timeline WHERE home = 3 AND slot = 7 AND position > $1 ORDER BY position LIMIT 500",
            )
            .bind(reached)
            .fetch_all(&nodes[0])
            .await
            .unwrap();
            if all_ended && next.is_empty() {
                return seen;
            }
            reached = next.last().copied().unwrap_or(reached);
            seen.extend(next);
        }
    };
    let (_, seen) = tokio::join!(writers, reader);
    let all: Vec<i64> = sqlx::query_scalar("SELECT position FROM timeline WHERE home = 3 AND slot = 7")
        .fetch_all(&nodes[0])
        .await
        .unwrap();
    (all.len(), BTreeSet::from_iter(all).difference(&seen).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_writers_on_all_nodes_no_entry_is_skipped() {
    let Some(world) = citus().await else { return };
    let (entries, skipped) = skipped(&world, NUMBERED, 100).await;
    eprintln!("{entries} entries, {skipped} skipped");
    assert_eq!((entries, skipped), (nodes(&world).await.len() * WRITERS_EACH * 200, 0));
}

/// The control: it shows that the test above can fail.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_slots_row_entries_are_skipped() {
    let Some(world) = citus().await else { return };
    sqlx::raw_sql(MAKE_UNLOCKED).execute(world.owner()).await.unwrap();
    let begun = Instant::now();
    loop {
        let (entries, skipped) = skipped(&world, UNLOCKED, 50).await;
        eprintln!("{entries} entries, {skipped} skipped");
        if skipped > 0 {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "no writer overtook another within a minute");
    }
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

/// The newest migration of the last release whose databases are brought up to date here: webhooks.
const DISTRIBUTED_AT: i64 = 9;

#[tokio::test]
async fn a_database_that_was_distributed_before_the_latest_migrations_is_brought_up_to_date() {
    let Some(_turn) = citus().await else { return };
    let server = PgConnectOptions::from_str(&std::env::var(CITUS).unwrap()).unwrap();
    let (_, owner) = empty_on_citus(&server, "amends_test_older").await;
    let older = MIGRATOR.iter().filter(|migration| migration.version <= DISTRIBUTED_AT).cloned().collect();
    let homes = Homes::new(4).unwrap();
    Migrator::with_migrations(older).run(&owner).await.unwrap();
    distribute(&owner, homes).await.unwrap();
    sqlx::query("INSERT INTO deployment (reply_key, homes) VALUES (repeat('7', 64), 4)")
        .execute(&owner)
        .await
        .unwrap();

    for _ in ["the first time", "again"] {
        migrator().run(&owner).await.unwrap();
        distribute(&owner, homes).await.unwrap();
        assert_eq!(ordinary_tables(&owner).await, ON_THE_COORDINATOR);
    }
    let found = ensure_deployment(&owner, &"8".repeat(64), homes).await.unwrap();
    assert_eq!((found.epoch, found.homes, found.is_suspended), (0, homes, false));
    assert_eq!(raise_epoch(&owner).await.unwrap(), 1);
    // Each node has the new functions and the new column.
    let nodes: Vec<(bool, String)> = sqlx::query_as(
        "SELECT success, result FROM run_command_on_all_nodes($$
             SELECT without_cancel_reason('x') || (SELECT is_suspended FROM deployment)
                    || (SELECT prosrc LIKE '%without_cancel_reason%' FROM pg_proc WHERE proname = 'erase_personal_data') $$)",
    )
    .fetch_all(&owner)
    .await
    .unwrap();
    assert!(
        nodes.len() >= 2 && nodes.iter().all(|node| *node == (true, "xfalsetrue".to_owned())),
        "{nodes:?}"
    );
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

#[tokio::test]
async fn the_homes_of_a_database_that_was_distributed_and_no_more_cannot_be_others() {
    let Some(_turn) = citus().await else { return };
    let server = PgConnectOptions::from_str(&std::env::var(CITUS).unwrap()).unwrap();
    let (_, owner) = empty_on_citus(&server, "amends_test_halfway").await;
    let homes = |count| Homes::new(count).unwrap();
    check_homes(&owner, homes(4)).await.unwrap();
    MIGRATOR.run(&owner).await.unwrap();
    check_homes(&owner, homes(4)).await.unwrap();
    distribute(&owner, homes(4)).await.unwrap();
    // As if `amends migrate` had ended here: the deployment has no row.
    for other in [homes(8), Homes::ONE] {
        let refused = check_homes(&owner, other).await;
        assert!(
            matches!(refused, Err(deployment::Error::OtherHomes { made: 4, asked }) if asked == other.count()),
            "{refused:?}"
        );
    }
    check_homes(&owner, homes(4)).await.unwrap();
}

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

#[tokio::test]
async fn a_node_that_is_reached_and_does_not_answer_is_named() {
    let Some(_turn) = citus().await else { return };
    let server = PgConnectOptions::from_str(&std::env::var(CITUS).unwrap()).unwrap();
    let (_, owner) = empty_on_citus(&server, "amends_test_silent").await;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let added = "INSERT INTO pg_dist_node (nodename, nodeport, groupid) VALUES ('127.0.0.1', $1, 99)";
    sqlx::query(added).bind(i32::from(port)).execute(&owner).await.unwrap();
    let refused = Cluster::of(&server.database("amends_test_silent"), Duration::from_secs(5)).await;
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains(&format!("127.0.0.1:{port}")) && refused.contains("no answer within 5s"),
        "{refused}"
    );
}
