//! A program that was started before a restore writes nothing of what it remembers, and entries name their epoch. With
//! `AMENDS_TEST_CITUS` also on a Citus.

mod support;

use amends_engine::{
    core::Saga,
    port::{Committed, Error, SagaStore},
};
use amends_postgres::{
    Birth, Database, Homes, PgSagaStore,
    conformance::{World, birth, known, moved},
    deployment::{deployment, ensure_deployment, raise_epoch, raise_epoch_to},
    handoffs::Handoffs,
    timeline,
    watermarks::Watermarks,
};
use std::time::Duration;
use support::{Postgres, world, worlds};
use uuid::Uuid;

/// How long a program counts as live.
const LIVE: Duration = Duration::from_secs(10);

/// Creates deployments, in epoch 0.
async fn deployed() -> Vec<Postgres> {
    let worlds = worlds().await;
    for world in &worlds {
        ensure_deployment(world.owner(), &"ab".repeat(32), Homes::ONE).await.unwrap();
    }
    worlds
}

/// Returns the database as a program uses it that was started in this epoch.
fn in_epoch(world: &Postgres, epoch: u32) -> Database {
    world.store.database().clone().in_epoch(epoch)
}

fn is_other_epoch<T: std::fmt::Debug>(done: Result<T, Error>) -> bool {
    matches!(done, Err(Error::OtherEpoch(_)))
}

/// Returns whether nothing was committed for that reason. With several homes, each has its own answer.
fn is_refused(done: Result<Committed, Error>) -> bool {
    match done {
        Ok(Committed { written, mut failed, .. }) if failed.len() == 1 => {
            written.is_empty() && is_other_epoch(Err::<(), _>(failed.remove(0).error))
        }
        done => is_other_epoch(done),
    }
}

async fn row(world: &Postgres, saga: &Saga) -> Saga {
    world.store().load(&[saga.id]).await.unwrap().sagas.remove(0)
}

#[tokio::test]
async fn a_program_that_was_started_before_a_restore_writes_nothing() {
    for world in deployed().await {
        let saga = world.errand(1).await;
        let before = PgSagaStore::new(in_epoch(&world, 0));
        let mut watermarks = Watermarks::new(in_epoch(&world, 0));
        watermarks.open(&[1]).await.unwrap();
        before.announce(Uuid::now_v7(), &known(), LIVE).await.unwrap();
        assert_eq!(raise_epoch(world.owner()).await.unwrap(), 1);
        assert_eq!(deployment(&world.pool()).await.unwrap().epoch, 1);

        assert!(is_refused(before.commit(&[moved(&saga, 1, saga.born_at)]).await));
        assert!(is_other_epoch(before.reschedule(&[(saga.id, 1, None)]).await));
        let new = birth(2, saga.born_at);
        assert!(is_other_epoch(before.create(&[Birth { change: &new, personal: None }]).await));
        assert!(is_other_epoch(before.announce(Uuid::now_v7(), &known(), LIVE).await));
        watermarks.reach(1, 5000);
        assert!(is_other_epoch(watermarks.keep().await), "entries with these positions are not written yet");
        let handoffs = Handoffs::new(in_epoch(&world, 0));
        assert!(is_other_epoch(handoffs.settle(1, 1, Some(5000)).await));
        let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM publisher_watermarks")
            .fetch_one(world.owner())
            .await
            .unwrap();
        let born: i64 =
            sqlx::query_scalar("SELECT count(*) FROM sagas").fetch_one(world.owner()).await.unwrap();
        assert_eq!((row(&world, &saga).await, kept, born), (saga.clone(), 0, 1));

        // A program that was started after it writes.
        let after = PgSagaStore::new(in_epoch(&world, 1));
        after.announce(Uuid::now_v7(), &known(), LIVE).await.unwrap();
        assert_eq!(after.commit(&[moved(&saga, 1, saga.born_at)]).await.unwrap().written.len(), 1);
        assert_eq!(row(&world, &saga).await.revision, 2);
    }
}

#[tokio::test]
async fn an_entry_names_the_epoch_in_which_it_was_written_and_none_at_first() {
    for world in deployed().await {
        let saga = world.errand(1).await;
        raise_epoch(world.owner()).await.unwrap();
        let after = in_epoch(&world, 1);
        PgSagaStore::new(after.clone()).commit(&[moved(&saga, 1, saga.born_at)]).await.unwrap();
        let epochs: Vec<u32> = timeline::of(&after, saga.id).await.unwrap().iter().map(|e| e.epoch).collect();
        assert_eq!(epochs, [0, 1]);
        let bodies: Vec<String> = sqlx::query_scalar("SELECT body FROM timeline ORDER BY revision")
            .fetch_all(world.owner())
            .await
            .unwrap();
        assert!(!bodies[0].contains("epoch") && bodies[1].contains("\"epoch\":1"), "{bodies:?}");
    }
}

#[tokio::test]
async fn a_restore_to_a_moment_before_another_one_begins_no_epoch_again() {
    for world in deployed().await {
        let raise = |least| raise_epoch_to(world.owner(), least);
        assert_eq!(raise(100).await.unwrap(), 100);
        sqlx::query("UPDATE deployment SET epoch = 0").execute(world.owner()).await.unwrap();
        assert_eq!(raise(160).await.unwrap(), 160);
        // A clock that is behind does not lead back.
        assert_eq!(raise(130).await.unwrap(), 161);
        assert_eq!(deployment(&world.pool()).await.unwrap().epoch, 161);
    }
}

#[tokio::test]
async fn the_epoch_rises_after_the_writes_that_are_not_committed_and_only_by_the_owner() {
    let world = world().await;
    ensure_deployment(world.owner(), &"ab".repeat(32), Homes::ONE).await.unwrap();
    let saga = world.errand(7).await;
    let before = PgSagaStore::new(in_epoch(&world, 0));
    let paused = world.pause_before_commit(saga.id).await;
    let commit = async { before.commit(&[moved(&saga, 1, saga.born_at)]).await };
    let raise = async {
        world.until_waiting("advisory", 1).await;
        let raising = async { raise_epoch(world.owner()).await };
        let ending = async {
            world.until_waiting("relation", 1).await;
            paused.end().await;
        };
        tokio::join!(raising, ending).0
    };
    let (written, raised) = tokio::join!(commit, raise);
    assert_eq!((written.unwrap().written.len(), raised.unwrap()), (1, 1));
    assert!(raise_epoch(world.pool()).await.is_err(), "the engine's role may not");
}
