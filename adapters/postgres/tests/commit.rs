//! A batch is committed once, whatever happens to the connection, and touches only the rows that it must.

mod support;

use amends_engine::{
    core::Saga,
    port::{DueScan, Error, Loaded, SagaStore, Wants, Write},
};
use amends_postgres::conformance::{World, moved, scan};
use support::{Postgres, proxy, world};
use uuid::Uuid;

const BOTH: Wants = Wants { data: true, personal: true };

fn marked(saga: &Saga) -> Write {
    let write = moved(saga, 2, saga.born_at);
    Write { saga: Saga { label: "MARKED".into(), ..write.saga }, wants: BOTH, ..write }
}

async fn revision(world: &Postgres, saga: &Saga) -> u32 {
    world.store().load(&[saga.id]).await.unwrap().sagas[0].revision
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_answered_as_if_nothing_had_been_wrong() {
    let world = world().await;
    let url = world.database.role_url("amends_engine");
    let proxy = proxy::losing_the_answer_to("MARKED", &url).await;
    let store = world.behind(&proxy);
    let (fresh, stale) = (world.errand(1).await, world.errand(2).await);
    world.store().commit(&[moved(&stale, 1, stale.born_at)]).await.unwrap();

    let written = store.commit(&[marked(&fresh), marked(&stale)]).await.unwrap().written;
    assert_eq!(
        written,
        world.store().inputs(&[fresh.id]).await.unwrap(),
        "only what was written, with its input"
    );
    assert_eq!((revision(&world, &fresh).await, revision(&world, &stale).await), (3, 2));
    assert_eq!(world.timeline(fresh.id).await.len(), 3);
}

#[tokio::test]
async fn the_question_whether_it_happened_waits_for_the_backend_that_is_still_at_it() {
    let world = world().await;
    let proxy = proxy::faithful(&world.database.role_url("amends_engine")).await;
    let store = world.behind(&proxy);
    let saga = world.errand(7).await;
    let paused = world.pause_before_commit(saga.id).await;
    let commit = async { store.commit(&[marked(&saga)]).await };
    let meanwhile = async {
        world.until_waiting("advisory", 1).await;
        proxy.cut();
        world.until_waiting("transactionid", 1).await;
        paused.end().await;
    };
    let (written, ()) = tokio::join!(commit, meanwhile);
    let committed = written.unwrap();
    assert_eq!((committed.written.len(), committed.locked.len()), (1, 0), "reading back passes over nothing");
    assert_eq!(revision(&world, &saga).await, 3);
}

#[tokio::test]
async fn a_commit_that_did_not_happen_is_said_to_be_unavailable() {
    let world = world().await;
    let saga = world.errand(7).await;
    let paused = world.pause_before_commit(saga.id).await;
    let commit = async { world.store().commit(&[marked(&saga)]).await };
    let meanwhile = async {
        world.until_waiting("advisory", 1).await;
        sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        )
        .execute(world.owner())
        .await
        .unwrap();
        paused.end().await;
    };
    let (refused, ()) = tokio::join!(commit, meanwhile);
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    assert_eq!(revision(&world, &saga).await, 1);
    assert_eq!(
        world.store().commit(&[marked(&saga)]).await.unwrap().written.len(),
        1,
        "the same again works"
    );
}

#[tokio::test]
async fn what_fails_only_when_it_commits_is_no_success() {
    let world = world().await;
    let saga = world.errand(1).await;
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
                  AS 'BEGIN RAISE EXCEPTION ''no'' USING ERRCODE = ''check_violation''; END';
                  CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON timeline DEFERRABLE INITIALLY DEFERRED
                  FOR EACH ROW EXECUTE FUNCTION refuse()";
    sqlx::raw_sql(refuse).execute(world.owner()).await.unwrap();
    let refused = world.store().commit(&[marked(&saga)]).await;
    assert!(matches!(refused, Err(Error::Data(_))), "{refused:?}");
    assert_eq!(revision(&world, &saga).await, 1);
}

#[tokio::test]
async fn batches_of_the_same_sagas_in_other_orders_do_not_deadlock() {
    let world = world().await;
    let sagas = [world.errand(1).await, world.errand(2).await, world.errand(1).await];
    let forth = sagas.each_ref().map(|saga| moved(saga, 1, saga.born_at));
    let mut back = forth.clone();
    back.reverse();
    // Both are in progress, and neither is past the saga in the middle.
    let mut middle = world.owner().begin().await.unwrap();
    sqlx::query("SELECT FROM sagas WHERE id = $1 FOR UPDATE")
        .bind(sagas[1].id)
        .execute(&mut *middle)
        .await
        .unwrap();
    let meanwhile = async {
        world.until_waiting("%", 2).await;
        middle.rollback().await.unwrap();
    };
    let (one, two, ()) = tokio::join!(world.store().commit(&forth), world.store().commit(&back), meanwhile);
    assert_eq!(one.unwrap().written.len() + two.unwrap().written.len(), 3);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_left_out_and_stops_nobody() {
    let world = world().await;
    let (newer, damaged, sound) = (world.errand(1).await, world.errand(1).await, world.errand(1).await);
    for (saga, sql) in [
        (&newer, "UPDATE sagas SET state_version = 99, wake_at = now() WHERE id = $1"),
        (&damaged, "UPDATE sagas SET state = '{}', wake_at = now() WHERE id = $1"),
        (&sound, "UPDATE sagas SET wake_at = now() WHERE id = $1"),
    ] {
        sqlx::query(sql).bind(saga.id).execute(world.owner()).await.unwrap();
    }
    let loaded = world.store().load(&[newer.id, damaged.id, sound.id]).await.unwrap();
    assert_eq!(loaded.sagas.iter().map(|saga| saga.id).collect::<Vec<_>>(), [sound.id]);
    let ids = |loaded: &Loaded| {
        let mut ids: Vec<Uuid> = loaded.unreadable.iter().map(|row| row.saga_id).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&loaded), [newer.id, damaged.id]);
    let newer_requires =
        loaded.unreadable.iter().find(|row| row.saga_id == newer.id).unwrap().requires.clone();
    assert_eq!((newer_requires.workflow_version, newer_requires.state_version), (1, 99));
    // The damaged saga no longer fills the batch once it is passed over; the newer program's saga is never read.
    let due = world.store().due(&DueScan { limit: 2, ..scan(&[1]) }).await.unwrap();
    assert_eq!(ids(&due), [damaged.id]);
    let due =
        world.store().due(&DueScan { limit: 1, passed_over: vec![damaged.id], ..scan(&[1]) }).await.unwrap();
    assert_eq!(due.sagas.iter().map(|saga| saga.id).collect::<Vec<_>>(), [sound.id]);
    let awake: i64 = sqlx::query_scalar("SELECT count(*) FROM sagas WHERE wake_at <= now()")
        .fetch_one(world.owner())
        .await
        .unwrap();
    assert_eq!(awake, 3, "all of them keep their time");
}

#[tokio::test]
async fn a_slot_that_another_transaction_holds_is_passed_over_and_others_are_written() {
    let world = world().await;
    let (held, free) = (world.errand(7).await, world.errand(8).await);
    let mut forgotten = world.owner().begin().await.unwrap();
    sqlx::query("SELECT lock_slots(0::int2, '{7}')").execute(&mut *forgotten).await.unwrap();
    let committed = world.store().commit(&[marked(&held), marked(&free)]).await.unwrap();
    assert_eq!(committed.locked, [held.id]);
    assert_eq!(committed.written, world.store().inputs(&[free.id]).await.unwrap());
    assert_eq!((revision(&world, &held).await, revision(&world, &free).await), (1, 3));
    assert_eq!(world.timeline(held.id).await.len(), 1);
    forgotten.rollback().await.unwrap();
    assert_eq!(world.store().commit(&[marked(&held)]).await.unwrap().written.len(), 1);
    assert_eq!(world.timeline(held.id).await.len(), 3);
}

#[tokio::test]
async fn a_batch_finds_its_rows_by_key_and_only_in_their_partitions() {
    let world = world().await;
    let mut sagas = Vec::new();
    for _ in 0..300 {
        sagas.push(world.errand(1).await);
    }
    let few: Vec<Write> = sagas.iter().step_by(3).map(marked).collect();
    let ids: Vec<Uuid> = few.iter().map(|write| write.saga.id).collect();
    assert_eq!(world.store().commit(&few).await.unwrap().written.len(), 100);
    assert_eq!(world.store().load(&ids).await.unwrap().sagas.len(), 100);
    assert_eq!(world.store().inputs(&ids).await.unwrap().len(), 100);
    world.store().reschedule(&[(ids[0], 3, None)]).await.unwrap();

    for table in ["sagas", "personal", "timeline"] {
        assert_eq!(world.counted("seq_scan", table).await, 0, "{table}");
    }
    // A hundred to write, a hundred to read, and one more; no other row was read.
    assert_eq!(world.counted("idx_tup_fetch", "sagas").await, 201);
    assert_eq!(world.counted("idx_tup_fetch", "personal").await, 200);
    assert_eq!(world.counted("idx_scan", "sagas_default").await, 0);
    assert_eq!(world.counted("idx_tup_fetch", "timeline_default").await, 0);
}
