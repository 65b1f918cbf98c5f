//! The engine's database fails over to a standby, at the same address, while api and engine run. The workers' databases
//! stay.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    str::FromStr,
};

use amends_embedded::{Postgres, PostgresOptions};
use amends_kafka::{KafkaSettings, KafkaSink};
use amends_protocol::transport::{Inbound, Sink};
use amends_testkit::{
    eventually,
    proxy::{self, Proxy},
};
use sqlx::{
    AssertSqlSafe, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    books,
    restoring::{again, back_up, fulfilled, read_all, sagas_of},
    support::{
        Broker, LONG, Process, Stack,
        client::{Client, order},
        load,
    },
};

/// The standby's name, as the primary knows it.
const STANDBY: &str = "standby";
/// Where no server listens.
const NOWHERE: &str = "postgres://127.0.0.1:1/postgres";

/// Whether the primary acknowledges a commit only once the standby has it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Replication {
    Synchronous,
    Asynchronous,
}

/// A deployment whose engine's database has a standby.
struct Pair {
    stack: Stack,
    all: Vec<Process>,
    standby: Postgres,
    /// The address of the engine's database.
    address: Proxy,
    /// What the standby hears of the primary.
    link: Proxy,
    _data: TempDir,
}

impl Pair {
    async fn start(replication: Replication, settings: &[(&str, &str)]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut stack = Stack::on_server_with(Broker::embedded(), PostgresOptions::new(data.path())).await;
        for (key, value) in settings {
            stack.set(key, value);
        }
        let primary = stack.server.as_ref().unwrap();
        let link = proxy::faithful(&primary.url("postgres")).await;
        let standby = standby_of(primary, &link).await;
        if replication == Replication::Synchronous {
            let owner = stack.pool("engine");
            let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'");
            sqlx::raw_sql(AssertSqlSafe(set)).execute(owner).await.unwrap();
            sqlx::query("SELECT pg_reload_conf()").execute(owner).await.unwrap();
        }
        let address = stack.through_proxy("engine").await;
        let all = stack.start_all().await;
        load::stock(&stack).await;
        let pair = Self { stack, all, standby, address, link, _data: data };
        pair.catches_up(replication).await;
        pair
    }

    fn api(&self) -> Client {
        self.all.last().unwrap().client()
    }

    fn payment(&mut self) -> &mut Process {
        self.all.iter_mut().find(|process| process.role == "worker payment").unwrap()
    }

    /// Waits until the standby has all that the primary has written.
    async fn catches_up(&self, replication: Replication) {
        let expected = if replication == Replication::Synchronous { "sync" } else { "async" };
        let owner = self.stack.pool("engine");
        let written: String =
            sqlx::query_scalar("SELECT pg_current_wal_insert_lsn()::text").fetch_one(owner).await.unwrap();
        eventually("the standby has everything", LONG, || async {
            let state: Option<(String, bool)> = sqlx::query_as(
                "SELECT sync_state, replay_lsn >= $2::pg_lsn FROM pg_stat_replication WHERE application_name = $1",
            )
            .bind(STANDBY)
            .bind(&written)
            .fetch_optional(owner)
            .await
            .unwrap();
            (state == Some((expected.to_owned(), true))).then_some(())
        })
        .await;
    }

    /// From now on, the standby hears nothing of the primary.
    fn is_parted(&self) {
        self.link.leads_to(NOWHERE);
        self.link.cut();
    }

    /// The address leads to the standby, which becomes the primary; returns its connections.
    async fn fails_over(&mut self) -> PgPool {
        // From here on nothing is written to the old primary.
        self.address.leads_to(NOWHERE);
        self.address.cut();
        // The workers' databases have no standby to wait for.
        let old = self.stack.pool("engine");
        sqlx::query("ALTER SYSTEM RESET synchronous_standby_names").execute(old).await.unwrap();
        sqlx::query("SELECT pg_reload_conf()").execute(old).await.unwrap();
        let url = self.standby.url("postgres");
        let standby = PgPoolOptions::new().connect_lazy(&url).unwrap();
        let promoted: bool = sqlx::query_scalar("SELECT pg_promote(true)").fetch_one(&standby).await.unwrap();
        assert!(promoted);
        standby.close().await;
        self.address.leads_to(&url);
        // What is started from now on needs no proxy.
        self.stack.move_to("engine", &self.standby);
        self.stack.pool("engine").clone()
    }

    async fn ends(self) {
        let Self { stack, all, standby, .. } = self;
        drop(all);
        let directory = standby.directory().to_owned();
        standby.stop().await;
        drop(stack);
        std::fs::remove_dir_all(directory).unwrap();
    }
}

/// Starts a standby of a server, which hears of it over the link.
async fn standby_of(primary: &Postgres, link: &Proxy) -> Postgres {
    let data = back_up(primary);
    let password = primary.directory().join("password");
    std::fs::copy(&password, data.join("password")).unwrap();
    std::fs::write(data.join("cluster/standby.signal"), "").unwrap();
    own_as(&password, &data);
    let mut options = PostgresOptions::new(&data);
    let link = PgConnectOptions::from_str(&link.url).unwrap();
    let secret = std::fs::read_to_string(&password).unwrap();
    let info = format!(
        "host={} port={} user=postgres password={secret} application_name={STANDBY} sslmode=disable",
        link.get_host(),
        link.get_port()
    );
    options.settings.push(("primary_conninfo".to_owned(), info));
    options.settings.push(("wal_retrieve_retry_interval".to_owned(), "100ms".to_owned()));
    Postgres::start(options).await.unwrap()
}

/// A server that was started by root runs as another user, who owns its password.
fn own_as(password: &Path, data: &Path) {
    let mut command = std::process::Command::new("chown");
    let owned = command.arg("-R").arg("--reference").arg(password).arg(data).status().unwrap();
    assert!(owned.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_to_a_synchronous_standby_loses_nothing_and_ends_no_process() {
    let mut pair = Pair::start(Replication::Synchronous, &[]).await;
    let api = pair.api();
    let kept = fulfilled(&api, 3).await;
    pair.payment().kill();
    let mut under_way = Vec::new();
    for _ in 0..3 {
        under_way.push(api.place(&order("mug", 1, "card_approved", "AT")).await);
    }
    for id in &under_way {
        api.becomes(id, "CONFIRMED").await;
    }
    let engine = pair.fails_over().await;
    let stack = &pair.stack;
    pair.all.iter_mut().find(|process| process.role == "worker payment").unwrap().kill_and_restart(stack);
    for id in kept.iter().chain(&under_way) {
        api.becomes(id, "FULFILLED").await;
    }
    fulfilled(&api, 1).await;
    books::settle(&pair.stack).await;
    books::balance(&pair.stack).await;
    assert_eq!(state(&engine).await, (0, false, 0));
    pair.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_loses_commits_begins_the_next_epoch_and_lists_the_orders_at_risk() {
    let mut pair = Pair::start(Replication::Asynchronous, &[]).await;
    let lost = pair.loses().await;
    let engine = pair.fails_over().await;
    pair.api_and_engine_end().await;
    assert_eq!(noted(&engine).await, lost.noted);
    assert_eq!(state(&engine).await, (1, false, lost.noted.len()));
    pair.api_and_engine_start().await;
    pair.goes_on(&lost).await;
    pair.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_loses_commits_stops_the_deployment_until_an_operator_has_looked() {
    let mut pair = Pair::start(Replication::Asynchronous, &[("AMENDS_ON_LOST_COMMITS", "stop")]).await;
    let lost = pair.loses().await;
    let engine = pair.fails_over().await;
    pair.api_and_engine_end().await;
    assert_eq!(state(&engine).await, (1, true, lost.noted.len()));
    for role in ["api", "engine"] {
        let refused = pair.stack.output(&[role], &[]);
        let said = String::from_utf8(refused.stderr).unwrap();
        let last = said.lines().last().unwrap_or_default();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(last.contains("amends restore") && last.contains("lost_commits"), "{said}");
    }
    // The programs of before are no longer live.
    let silent = "UPDATE programs SET seen_at = seen_at - interval '10 seconds'";
    sqlx::query(silent).execute(&engine).await.unwrap();
    let url = pair.standby.url("postgres");
    let restored = pair.stack.output(&["restore"], &[("DATABASE_URL", &url)]);
    let said = String::from_utf8(restored.stdout).unwrap();
    assert!(said.contains(&format!("lost commits  of {} sagas", lost.noted.len())), "{said}");
    assert!(state(&engine).await.0 > 1, "epochs of restores are numbered by the time");
    pair.api_and_engine_start().await;
    pair.goes_on(&lost).await;
    pair.ends().await;
}

/// What a failover loses.
struct Lost {
    /// Orders that exist before and after it.
    kept: Vec<String>,
    /// What must be noted: the revisions that were acknowledged and found, by order.
    noted: BTreeMap<String, (i32, Option<i32>)>,
    /// The sagas of orders that exist only before it.
    gone: BTreeSet<Uuid>,
    /// All that workers have replied before it.
    replies: Vec<Inbound>,
}

impl Pair {
    /// Loses the births of two orders, and the last steps of two others.
    async fn loses(&mut self) -> Lost {
        let api = self.api();
        let mut kept = fulfilled(&api, 2).await;
        self.payment().kill();
        let mut moved_on = Vec::new();
        for _ in 0..2 {
            moved_on.push(api.place(&order("mug", 1, "card_approved", "AT")).await);
        }
        for id in &moved_on {
            api.becomes(id, "CONFIRMED").await;
        }
        self.catches_up(Replication::Asynchronous).await;
        let before = revisions(self.stack.pool("engine")).await;
        self.is_parted();
        let stack = &self.stack;
        let payment = self.all.iter_mut().find(|process| process.role == "worker payment").unwrap();
        payment.kill_and_restart(stack);
        for id in &moved_on {
            api.becomes(id, "FULFILLED").await;
        }
        let gone = fulfilled(&api, 2).await;
        books::settle(&self.stack).await;
        let gone = sagas_of(self.stack.pool("engine"), &gone).await;
        let replies = read_all(&self.stack, "saga.replies").await;
        let after = revisions(self.stack.pool("engine")).await;
        let newer = after.into_iter().filter(|(id, revision)| before.get(id) != Some(revision));
        let noted: BTreeMap<_, _> =
            newer.map(|(id, revision)| (id.clone(), (revision, before.get(&id).copied()))).collect();
        assert_eq!(noted.len(), 4, "{noted:?}");
        kept.extend(moved_on);
        Lost { kept, noted, gone, replies }
    }

    async fn api_and_engine_end(&mut self) {
        for process in self.all.iter_mut().filter(|process| is_of_engine(process)) {
            assert_eq!(process.ended().await.code(), Some(1), "{}", process.role);
        }
    }

    async fn api_and_engine_start(&mut self) {
        let stack = &self.stack;
        for process in self.all.iter_mut().filter(|process| is_of_engine(process)) {
            process.kill_and_restart(stack);
        }
        for process in &self.all {
            process.ready().await;
        }
    }

    /// What exists ends as before, new orders are fulfilled, and no effect is doubled. The engines read again what workers
    /// have replied: the effects of orders that are gone are listed.
    async fn goes_on(&self, lost: &Lost) {
        let api = self.api();
        let sink = KafkaSink::new(&KafkaSettings::new(self.stack.broker.bootstrap_servers())).unwrap();
        sink.send(lost.replies.iter().map(again).collect()).await.unwrap();
        for id in &lost.kept {
            api.becomes(id, "FULFILLED").await;
        }
        fulfilled(&api, 1).await;
        books::settle(&self.stack).await;
        eventually("the effects of lost orders are listed", LONG, || async {
            let sagas: Vec<Uuid> = sqlx::query_scalar("SELECT DISTINCT saga_id FROM strays")
                .fetch_all(self.stack.pool("engine"))
                .await
                .unwrap();
            (BTreeSet::from_iter(sagas) == lost.gone).then_some(())
        })
        .await;
        books::balance(&self.stack).await;
    }
}

fn is_of_engine(process: &Process) -> bool {
    ["api", "engine"].contains(&process.role.as_str())
}

/// Returns the deployment's epoch, whether it is suspended, and the number of lost commits that are noted.
async fn state(engine: &PgPool) -> (i32, bool, usize) {
    let (epoch, is_suspended, lost): (i32, bool, i64) =
        sqlx::query_as("SELECT epoch, is_suspended, (SELECT count(*) FROM lost_commits) FROM deployment")
            .fetch_one(engine)
            .await
            .unwrap();
    (epoch, is_suspended, usize::try_from(lost).unwrap())
}

/// Returns the revision of each order's saga.
async fn revisions(engine: &PgPool) -> BTreeMap<String, i32> {
    let rows: Vec<(String, i32)> =
        sqlx::query_as("SELECT business_key, revision FROM sagas").fetch_all(engine).await.unwrap();
    rows.into_iter().collect()
}

/// Returns the revisions that are noted as acknowledged and as found, by order.
async fn noted(engine: &PgPool) -> BTreeMap<String, (i32, Option<i32>)> {
    let rows: Vec<(String, i32, Option<i32>)> = sqlx::query_as(
        "SELECT COALESCE(l.business_key, s.business_key), l.acknowledged_revision, l.found_revision
         FROM lost_commits AS l LEFT JOIN sagas AS s ON s.id = l.saga_id",
    )
    .fetch_all(engine)
    .await
    .unwrap();
    rows.into_iter().map(|(key, acknowledged, found)| (key, (acknowledged, found))).collect()
}
