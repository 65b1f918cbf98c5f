//! The lost-commit sentinel: no connection is used to a database that has lost what it had acknowledged. With
//! `AMENDS_TEST_CITUS` also on a Citus.

mod support;

use std::time::Duration;

use amends_engine::{core::Saga, port::SagaStore};
use amends_pool::Bounds;
use amends_postgres::{
    Birth, Database, Homes, PgSagaStore,
    conformance::{World, birth, moved},
    deployment::{deployment, ensure_deployment, raise_epoch},
    lost_commits,
    sentinel::OnLostCommits,
};
use amends_testkit::proxy::{self, Proxy};
use sqlx::{AssertSqlSafe, ConnectOptions, postgres::PgConnectOptions};
use support::{Postgres, citus, worlds};
use tokio::time::timeout;
use uuid::Uuid;

/// How long the program has until it must have noticed.
const SOON: Duration = Duration::from_secs(30);

/// A program that uses the database, in epoch 0 unless another is named, over connections that can be cut.
struct Program {
    database: Database,
    store: PgSagaStore,
    line: Proxy,
}

impl Program {
    async fn of(world: &Postgres, on_lost: OnLostCommits) -> Self {
        Self::in_epoch(world, 0, on_lost).await
    }

    async fn in_epoch(world: &Postgres, epoch: u32, on_lost: OnLostCommits) -> Self {
        let line = proxy::faithful(&world.database.role_url("amends_engine")).await;
        let homes = world.store.database().homes;
        let database = Database::connect(&line.url, 3, "test", Bounds::default(), homes).unwrap();
        let database = database.in_epoch(epoch);
        database.watch_for_lost_commits(on_lost);
        Self { store: PgSagaStore::new(database.clone()), database, line }
    }

    async fn gives_birth(&self, world: &Postgres, slot: u16) -> Saga {
        let now = world.store().load(&[]).await.unwrap().now;
        let new = birth(slot, now);
        self.store.create(&[Birth { change: &new, personal: None }]).await.unwrap();
        new.saga
    }

    async fn moves(&self, saga: &Saga) {
        let write = moved(saga, saga.revision, saga.born_at);
        assert_eq!(self.store.commit(&[write]).await.unwrap().written.len(), 1);
    }

    /// Reads the id of a saga of slot 1.
    async fn reads(&self) -> Result<Vec<Uuid>, sqlx::Error> {
        sqlx::query_scalar("SELECT id FROM sagas WHERE home = $1 LIMIT 1")
            .bind(self.database.homes.of_slot(1))
            .fetch_all(self.store.pool())
            .await
    }

    /// Connects anew, and returns what ends the program.
    async fn is_told(&self) -> String {
        let fault = self.database.pool.program_fault();
        self.line.cut();
        let asks = async {
            // Each fails: no connection is used.
            loop {
                assert!(self.reads().await.is_err());
            }
        };
        timeout(SOON, async {
            tokio::select! { said = fault => said, () = asks => unreachable!() }
        })
        .await
        .expect("it is told")
    }
}

async fn deployed() -> Vec<Postgres> {
    let worlds = worlds().await;
    for world in &worlds {
        ensure_deployment(world.owner(), &"ab".repeat(32), Homes::ONE).await.unwrap();
    }
    worlds
}

/// A noted saga: id, acknowledged and found revision, business key.
type Noted = (Uuid, i32, Option<i32>, Option<String>);

async fn noted(world: &Postgres) -> Vec<Noted> {
    sqlx::query_as(
        "SELECT saga_id, acknowledged_revision, found_revision, business_key FROM lost_commits
         ORDER BY epoch, acknowledged_revision, saga_id",
    )
    .fetch_all(world.owner())
    .await
    .unwrap()
}

async fn forget(world: &Postgres, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(world.owner()).await.unwrap();
}

#[tokio::test]
async fn a_database_that_has_everything_is_used_by_new_connections() {
    for world in deployed().await {
        let program = Program::of(&world, OnLostCommits::NextEpoch).await;
        let saga = program.gives_birth(&world, 1).await;
        program.moves(&saga).await;
        // Another program writes it too: a higher revision is none that was lost.
        let newer = world.store().load(&[saga.id]).await.unwrap().sagas.remove(0);
        world.store().commit(&[moved(&newer, newer.revision, newer.born_at)]).await.unwrap();
        program.line.cut();
        let read = amends_testkit::eventually("a new connection is used", SOON, || async {
            program.reads().await.ok()
        })
        .await;
        assert_eq!(read, [saga.id]);
        assert_eq!(deployment(&world.pool()).await.unwrap().epoch, 0);
        assert_eq!(noted(&world).await, []);
    }
}

#[tokio::test]
async fn a_database_that_has_lost_commits_is_in_the_next_epoch_before_anything_is_read_and_each_is_noted() {
    for world in deployed().await {
        let program = Program::of(&world, OnLostCommits::NextEpoch).await;
        let kept = program.gives_birth(&world, 1).await;
        let moved_on = program.gives_birth(&world, 2).await;
        program.moves(&moved_on).await;
        let lost = program.gives_birth(&world, 2).await;
        // What a failover leaves behind: the newest is gone.
        let back = "UPDATE sagas SET revision = 1 WHERE id = '{}'; DELETE FROM timeline WHERE revision > 1";
        forget(&world, back.replace("{}", &moved_on.id.to_string())).await;
        forget(&world, format!("DELETE FROM sagas WHERE id = '{}'", lost.id)).await;

        let said = program.is_told().await;
        assert!(said.contains("its epoch is 1") && said.contains("started in epoch 0"), "{said}");
        let deployment = deployment(&world.pool()).await.unwrap();
        assert_eq!((deployment.epoch, deployment.is_suspended), (1, false));
        let key = |saga: &Saga| Some(saga.business_key.clone());
        let expected = [(lost.id, 1, None, key(&lost)), (moved_on.id, 2, Some(1), key(&moved_on))];
        assert_eq!(noted(&world).await, expected, "and not {}", kept.id);
        assert_eq!(lost_commits::count(&world.pool(), SOON).await.unwrap(), 2);

        // A program that is started in the new epoch can write.
        let after = PgSagaStore::new(world.store.database().clone().in_epoch(1));
        let saga = after.load(&[moved_on.id]).await.unwrap().sagas.remove(0);
        assert_eq!(after.commit(&[moved(&saga, 1, saga.born_at)]).await.unwrap().written.len(), 1);
    }
}

#[tokio::test]
async fn a_second_program_adds_what_it_knows_and_begins_no_further_epoch() {
    for world in deployed().await {
        let first = Program::of(&world, OnLostCommits::NextEpoch).await;
        let second = Program::of(&world, OnLostCommits::NextEpoch).await;
        let lost = [first.gives_birth(&world, 1).await, second.gives_birth(&world, 1).await];
        forget(&world, "DELETE FROM sagas".to_owned()).await;
        first.is_told().await;
        second.is_told().await;
        let mut ids: Vec<Uuid> = noted(&world).await.into_iter().map(|(id, ..)| id).collect();
        ids.sort_unstable();
        let mut expected = lost.map(|saga| saga.id);
        expected.sort_unstable();
        assert_eq!(ids, expected);
        assert_eq!(deployment(&world.pool()).await.unwrap().epoch, 1);
    }
}

#[tokio::test]
async fn an_epoch_whose_beginning_is_lost_is_not_begun_again() {
    for world in deployed().await {
        raise_epoch(world.owner()).await.unwrap();
        let program = Program::in_epoch(&world, 1, OnLostCommits::NextEpoch).await;
        assert_eq!(program.reads().await.unwrap(), [] as [Uuid; 0]);
        // Nothing that this program has written is lost but the beginning of its epoch: workers have heard of it.
        forget(&world, "UPDATE deployment SET epoch = 0".to_owned()).await;
        let said = program.is_told().await;
        assert!(said.contains("its epoch is 2") && said.contains("started in epoch 1"), "{said}");
        assert_eq!(deployment(&world.pool()).await.unwrap().epoch, 2);
    }
}

#[tokio::test]
async fn an_epoch_that_only_workers_remember_is_followed_by_the_next_one_once() {
    for world in deployed().await {
        let program = Program::of(&world, OnLostCommits::NextEpoch).await;
        for _ in 0..2 {
            program.store.begin_epoch_after(7).await.unwrap();
            let begun = deployment(&world.pool()).await.unwrap();
            assert_eq!((begun.epoch, begun.is_suspended), (8, false));
        }
        let stopping = Program::in_epoch(&world, 8, OnLostCommits::Stop).await;
        stopping.store.begin_epoch_after(9).await.unwrap();
        let begun = deployment(&world.pool()).await.unwrap();
        assert_eq!((begun.epoch, begun.is_suspended), (10, true));
    }
}

#[tokio::test]
async fn by_the_setting_no_program_starts_until_an_operator_has_begun_an_epoch() {
    for world in deployed().await {
        let program = Program::of(&world, OnLostCommits::Stop).await;
        program.gives_birth(&world, 1).await;
        forget(&world, "DELETE FROM sagas".to_owned()).await;
        program.is_told().await;
        let stopped = deployment(&world.pool()).await.unwrap();
        assert_eq!((stopped.epoch, stopped.is_suspended), (1, true));
        raise_epoch(world.owner()).await.unwrap();
        let looked_at = deployment(&world.pool()).await.unwrap();
        assert_eq!((looked_at.epoch, looked_at.is_suspended), (2, false));
    }
}

#[tokio::test]
async fn what_cannot_be_noted_opens_no_connection() {
    for world in deployed().await {
        let program = Program::of(&world, OnLostCommits::NextEpoch).await;
        program.gives_birth(&world, 1).await;
        forget(&world, "DELETE FROM sagas".to_owned()).await;
        // Another transaction holds the deployment's table, so no epoch can begin.
        let mut holder = world.owner().begin().await.unwrap();
        sqlx::query("LOCK TABLE deployment IN ACCESS SHARE MODE").execute(&mut *holder).await.unwrap();
        program.line.cut();
        assert!(program.reads().await.is_err());
        holder.rollback().await.unwrap();
        assert_eq!(noted(&world).await, []);
        program.is_told().await;
        assert_eq!(deployment(&world.pool()).await.unwrap().epoch, 1);
    }
}

/// The homes of each node: its name and port with them.
async fn homes_by_node(world: &Postgres) -> Vec<(String, i32, Vec<i16>)> {
    sqlx::query_as(
        "SELECT p.nodename, p.nodeport, array_agg(h.home::int2)
         FROM generate_series(0, $1 - 1) AS h (home)
              JOIN pg_dist_shard_placement AS p
                ON p.shardid = get_shard_id_for_distribution_column('slot_positions', h.home)
         GROUP BY p.nodename, p.nodeport",
    )
    .bind(i32::from(world.store.database().homes.count()))
    .fetch_all(world.owner())
    .await
    .unwrap()
}

#[tokio::test]
async fn a_node_that_is_silent_keeps_no_connection_from_being_used() {
    let Some(world) = citus().await else { return };
    let program = Program::of(&world, OnLostCommits::NextEpoch).await;
    let homes = program.database.homes;
    // Each home has something to compare.
    for slot in 0..homes.count() {
        program.gives_birth(&world, slot).await;
    }
    let nodes = homes_by_node(&world).await;
    let (host, port, _) =
        nodes.iter().find(|(.., on_it)| on_it.len() > 1 && !on_it.contains(&homes.of_slot(1))).unwrap();
    let options = PgConnectOptions::clone(&world.owner().connect_options());
    let mut node = options.host(host).port(u16::try_from(*port).unwrap()).connect().await.unwrap();
    // New connections to it wait for an answer. This one goes on.
    sqlx::raw_sql("COPY (SELECT) TO PROGRAM 'kill -STOP $(head -1 postmaster.pid)'")
        .execute(&mut node)
        .await
        .unwrap();
    program.line.cut();
    let reads = async { while program.reads().await.is_err() {} };
    let used = timeout(SOON, reads).await;
    sqlx::raw_sql("COPY (SELECT) TO PROGRAM 'kill -CONT $(head -1 postmaster.pid)'")
        .execute(&mut node)
        .await
        .unwrap();
    assert!(used.is_ok(), "a new connection is used for homes of other nodes");
    assert_eq!(noted(&world).await, []);
}
