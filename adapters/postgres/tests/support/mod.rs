//! A Postgres database for tests, accessed as the service does: with its role's permissions and its pool's settings.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{collections::BTreeSet, env, str::FromStr, time::Duration};

use amends_engine::{
    core::{Change, Entry, Saga},
    port::SagaStore,
};
use amends_pool::{Bounds, Pool};
use amends_postgres::{
    Birth, Database, Homes, MIGRATOR, PgSagaStore,
    admin::Admin,
    citus::{Cluster, distribute},
    conformance::{World, birth},
    deployment::ensure_deployment,
    odd_replies::OddRow,
};
use amends_protocol::Json;
pub use amends_testkit::proxy;
use amends_testkit::{TestDatabase, database, eventually};
use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool, Transaction, postgres::PgConnectOptions};
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use uuid::Uuid;

pub struct Postgres {
    pub database: TestDatabase,
    pub store: PgSagaStore,
    /// Databases on a Citus are shared by the tests of a process, one after the other.
    turn: Option<MutexGuard<'static, ()>>,
}

pub async fn world() -> Postgres {
    world_with(Homes::ONE).await
}

/// Creates a database with this number of homes.
pub async fn world_with(homes: Homes) -> Postgres {
    let database = database(&MIGRATOR, "engine").await;
    let pool = connect(&database.role_url("amends_engine"));
    let store = PgSagaStore::new(Database { homes, ..pool.into() });
    Postgres { database, store, turn: None }
}

/// Returns an ordinary database and, where there is a Citus, one on it.
pub async fn worlds() -> Vec<Postgres> {
    [Some(world().await), citus().await].into_iter().flatten().collect()
}

/// The setting that names the database of a Citus coordinator.
pub const CITUS: &str = "AMENDS_TEST_CITUS";
/// Number of homes on a Citus: each table has as many shards.
const CITUS_HOMES: u16 = 4;
/// What tests leave behind.
const CITUS_EMPTY: &str =
    "TRUNCATE sagas, timeline, personal, orders, order_sagas, idempotency_keys, idempotent_answers,
     publisher_watermarks, publisher_handoffs, strays, odd_replies, deferred_replies;
     DELETE FROM programs; DELETE FROM personal_data_erasures; DELETE FROM lost_commits; DELETE FROM plans;
     UPDATE deployment SET epoch = 0, is_suspended = false WHERE epoch > 0";
/// Tables that are ordinary ones of the coordinator on a Citus. Every other table is named in
/// migrations/citus/0003_distribution.sql.
pub const ON_THE_COORDINATOR: [&str; 4] = ["lost_commits", "plans", "webhook_deliveries", "webhooks"];

/// Returns an empty database on the Citus of `AMENDS_TEST_CITUS`, one for all tests of this process; `None` if there is
/// none. Every statement of the role that has several tasks fails.
pub async fn citus() -> Option<Postgres> {
    static TURN: Mutex<()> = Mutex::const_new(());
    static MADE: OnceCell<String> = OnceCell::const_new();
    let Ok(url) = env::var(CITUS) else {
        eprintln!("left out: {CITUS} names no Citus");
        return None;
    };
    let turn = TURN.lock().await;
    let server = PgConnectOptions::from_str(&url).unwrap();
    let name = MADE.get_or_init(|| make_on_citus(&server)).await;
    let options = server.database(name);
    let database = TestDatabase::elsewhere(options);
    sqlx::raw_sql(CITUS_EMPTY).execute(&database.pool).await.unwrap();
    let homes = Homes::new(CITUS_HOMES).unwrap();
    let role = database.role_url("amends_engine");
    let store = PgSagaStore::new(Database::connect(&role, 8, "test", Bounds::default(), homes).unwrap());
    Some(Postgres { database, store, turn: Some(turn) })
}

/// Creates the database; drops those of processes before this one.
async fn make_on_citus(server: &PgConnectOptions) -> String {
    let program = env::current_exe().unwrap();
    let program = program.file_stem().unwrap().to_string_lossy().replace('-', "_");
    let name = format!("amends_test_{program}");
    let (cluster, pool) = empty_on_citus(server, &name).await;
    MIGRATOR.run(&pool).await.unwrap();
    let homes = Homes::new(CITUS_HOMES).unwrap();
    distribute(&pool, homes).await.unwrap();
    ensure_deployment(&pool, &"7".repeat(64), homes).await.unwrap();
    pool.close().await;
    let strict =
        format!("ALTER ROLE amends_engine IN DATABASE {name} SET citus.multi_task_query_log_level = 'error'");
    cluster.on_each_node(&strict).await.unwrap();
    name
}

/// Creates a database without tables on a Citus, in place of one of that name; returns the owner's connections.
pub async fn empty_on_citus(server: &PgConnectOptions, name: &str) -> (Cluster, PgPool) {
    let cluster = Cluster::of(server, Duration::from_secs(10)).await.unwrap();
    let role = "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'amends_engine') THEN
                CREATE ROLE amends_engine; END IF; END $$; ALTER ROLE amends_engine LOGIN PASSWORD 'amends-test'";
    cluster.on_each_node(role).await.unwrap();
    cluster.on_each_node(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await.unwrap();
    cluster.on_each_node(&format!("CREATE DATABASE {name}")).await.unwrap();
    cluster.join(name, "amends_engine").await.unwrap();
    let pool = cluster.pool(name).await.unwrap();
    (cluster, pool)
}

pub fn connect(url: &str) -> Pool {
    amends_pool::connect(url, 5, "test").unwrap()
}

impl Postgres {
    /// Returns whether the database is on a Citus.
    pub fn is_citus(&self) -> bool {
        self.turn.is_some()
    }

    /// Returns the service's connections.
    pub fn pool(&self) -> Pool {
        self.store.pool().clone()
    }

    /// Returns the owner's connections.
    pub fn owner(&self) -> &PgPool {
        &self.database.pool
    }

    /// Creates a store whose connections go through the proxy.
    pub fn behind(&self, proxy: &proxy::Proxy) -> PgSagaStore {
        PgSagaStore::new(connect(&proxy.url))
    }

    /// Creates a new errand in the store.
    pub async fn errand(&self, slot: u16) -> Saga {
        let now = self.store.load(&[]).await.unwrap().now;
        let birth = birth(slot, now);
        self.create(&birth, &Json::from(json!({"name": "Test"}))).await;
        birth.saga
    }

    /// Inserts copies of a saga's row by SQL, with these changes.
    pub async fn copies(&self, saga: &Saga, copies: i32, changes: &str) {
        let columns = "born_at, workflow_version, slot, workflow, business_key, core_version, state_version, revision,
                       wake_at, since, updated_at, stuck_at, live, parked, outcome, step, label, heading_for, reason, state";
        let sql = format!(
            "CREATE TEMP TABLE copies ON COMMIT DROP AS SELECT s.* FROM sagas AS s, generate_series(1, {copies})
             WHERE s.id = '{}';
             UPDATE copies SET id = (left(id::text, 15) || substr(gen_random_uuid()::text, 16))::uuid;
             UPDATE copies SET {changes};
             INSERT INTO sagas (home, id, {columns}) SELECT 0, id, {columns} FROM copies",
            saga.id
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(self.owner()).await.unwrap();
    }

    /// Inserts orders placed some months ago, by SQL, as copies of a saga with its timeline and personal fields, with
    /// these changes to the sagas' rows.
    pub async fn past(&self, saga: &Saga, months: i32, orders: i32, changes: &str) {
        let sql = format!(
            "SELECT ensure_month(now() - make_interval(months => {months}));
             CREATE TEMP TABLE past ON COMMIT DROP AS
                 SELECT (left(least_id(at)::text, 13) || right(gen_random_uuid()::text, 23))::uuid AS id,
                        (left(least_id(at)::text, 13) || right(gen_random_uuid()::text, 23))::uuid AS order_id, at
                 FROM (SELECT date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
                              - make_interval(months => {months}) + interval '10 days' AS at
                       FROM generate_series(1, {orders})) AS n;
             CREATE TEMP TABLE rows ON COMMIT DROP AS
                 SELECT s.*, p.id AS new_id, p.order_id, p.at FROM sagas AS s, past AS p WHERE s.id = '{id}';
             UPDATE rows SET id = new_id, business_key = order_id, born_at = at, since = at, updated_at = at;
             UPDATE rows SET {changes};
             INSERT INTO sagas (home, id, born_at, workflow_version, slot, workflow, business_key, core_version, state_version,
                                revision, wake_at, since, updated_at, live, parked, outcome, step, label, state)
                 SELECT 0, id, born_at, workflow_version, slot, workflow, business_key, core_version, state_version,
                        revision, wake_at, since, updated_at, live, parked, outcome, step, label, state FROM rows;
             INSERT INTO timeline (home, saga_id, at, batch, revision, slot, body)
                 SELECT 0, p.id, p.at, batch, revision, slot, body FROM timeline, past AS p WHERE saga_id = '{id}';
             INSERT INTO personal (home, saga_id, data)
                 SELECT 0, p.id, data FROM personal, past AS p WHERE saga_id = '{id}';
             INSERT INTO orders (home, id, saga_id, created_at, total, subject, customer_id, currency, lines)
                 SELECT 0, order_id, id, at, 2500, 's', 'c', 'EUR', '[]' FROM past",
            id = saga.id
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(self.owner()).await.unwrap();
    }

    /// From now on a transaction that appends to this saga's timeline pauses before its commit.
    pub async fn pause_before_commit(&self, saga_id: Uuid) -> Paused {
        let mut held = self.owner().begin().await.unwrap();
        sqlx::query("SELECT pg_advisory_xact_lock(1)").execute(&mut *held).await.unwrap();
        let pause = format!(
            "CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql
             SET lock_timeout = 0
             AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END';
             CREATE CONSTRAINT TRIGGER pause AFTER INSERT ON timeline DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW WHEN (NEW.saga_id = '{saga_id}') EXECUTE FUNCTION pause()"
        );
        sqlx::raw_sql(AssertSqlSafe(pause)).execute(self.owner()).await.unwrap();
        Paused(held)
    }

    /// Returns the server's counter for the tables whose name begins with `tables`, once all connections but the
    /// owner's are closed.
    pub async fn counted(&self, what: &'static str, tables: &str) -> i64 {
        self.pool().close().await;
        eventually("the connections are gone", Duration::from_secs(60), || async {
        let others: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'amends_engine'",
        )
        .fetch_one(self.owner())
        .await
        .unwrap();
        (others == 0).then_some(())
    })
    .await;
        let sql =
            format!("SELECT COALESCE(sum({what}), 0)::int8 FROM pg_stat_user_tables WHERE relname ~ $1");
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .bind(format!("^{tables}"))
            .fetch_one(self.owner())
            .await
            .unwrap()
    }

    /// Waits until this many connections wait for a lock of this kind (a pattern).
    pub async fn until_waiting(&self, kind: &str, connections: i64) {
        eventually("connections wait for a lock", Duration::from_secs(60), || async {
            let waiting: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
                 WHERE NOT l.granted AND l.locktype LIKE $1 AND a.datname = current_database()",
            )
            .bind(kind)
            .fetch_one(self.owner())
            .await
            .unwrap();
            (waiting == connections).then_some(())
        })
        .await;
    }
}

impl Postgres {
    /// Returns how many statements wait for a lock of this kind (a pattern), on all nodes of a Citus.
    pub async fn waiting_anywhere(&self, kind: &str) -> i64 {
        let waiting = format!(
            "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
             WHERE NOT l.granted AND l.locktype LIKE '{kind}' AND a.datname = current_database()"
        );
        let everywhere =
            format!("SELECT sum(result::int8)::int8 FROM run_command_on_all_nodes($$ {waiting} $$)");
        let waiting = if self.is_citus() { everywhere } else { waiting };
        sqlx::query_scalar(AssertSqlSafe(waiting)).fetch_one(self.owner()).await.unwrap()
    }

    /// Returns the two-phase commits of this database that the nodes have recorded lately.
    pub async fn two_phase_commits(&self) -> BTreeSet<String> {
        let recorded: Vec<String> = sqlx::query_scalar(
            "SELECT UNNEST(result::text[]) FROM run_command_on_all_nodes(
                 $$ SELECT COALESCE(array_agg(gid), '{}') FROM pg_dist_transaction $$)",
        )
        .fetch_all(self.owner())
        .await
        .unwrap();
        recorded.into_iter().collect()
    }

    /// Asserts that no two-phase commit was recorded after `before`, and that one of the test's own is.
    pub async fn assert_no_two_phase_commit_since(&self, before: &BTreeSet<String>) {
        let since = async || {
            let now = self.two_phase_commits().await;
            now.difference(before).cloned().collect::<Vec<_>>()
        };
        assert_eq!(since().await, [""; 0]);
        // The control: a write on several nodes is one, and is recorded.
        sqlx::query("UPDATE sagas SET updated_at = updated_at").execute(self.owner()).await.unwrap();
        eventually("the control is recorded", Duration::from_secs(60), || async {
            (!since().await.is_empty()).then_some(())
        })
        .await;
    }
}

/// Transactions that wait to commit.
pub struct Paused(Transaction<'static, sqlx::Postgres>);

impl Paused {
    /// Lets them continue.
    pub async fn end(self) {
        self.0.rollback().await.unwrap();
    }
}

impl World for Postgres {
    type Store = PgSagaStore;

    fn store(&self) -> &PgSagaStore {
        &self.store
    }

    async fn create(&self, change: &Change, personal: &Json) {
        self.store.create(&[Birth { change, personal: Some(personal) }]).await.unwrap();
    }

    async fn timeline(&self, saga_id: Uuid) -> Vec<Entry> {
        let rows: Vec<(i32, DateTime<Utc>, String)> =
            sqlx::query_as("SELECT revision, at, body FROM timeline WHERE saga_id = $1 ORDER BY revision")
                .bind(saga_id)
                .fetch_all(self.owner())
                .await
                .unwrap();
        rows.into_iter()
            .map(|(revision, at, body)| {
                Entry::from_stored(u32::try_from(revision).unwrap(), at, &body).unwrap()
            })
            .collect()
    }

    async fn strays(&self) -> usize {
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM strays").fetch_one(self.owner()).await.unwrap();
        usize::try_from(count).unwrap()
    }

    async fn odd_replies(&self, saga_id: Uuid) -> Vec<OddRow> {
        let detail = Admin::new(self.store.database().clone()).get(saga_id).await.unwrap();
        detail.map(|detail| detail.odd_replies).unwrap_or_default()
    }

    async fn hold(&self, sagas: &[Uuid]) -> Box<dyn Send> {
        let mut held = self.owner().begin().await.unwrap();
        for saga in sagas {
            let home = self.store.database().homes.of(*saga);
            sqlx::query("SELECT FROM sagas WHERE home = $1 AND id = $2 FOR UPDATE")
                .bind(home)
                .bind(saga)
                .execute(&mut *held)
                .await
                .unwrap();
        }
        Box::new(held)
    }
}
