//! The publisher's view of the timeline: everything, once, in order.

mod support;

use std::collections::BTreeMap;

use amends_engine::{core::Saga, port::SagaStore};
use amends_postgres::{
    conformance::{World, moved},
    events::{EventLog, Unpublished},
};
use support::{Postgres, world};
use uuid::Uuid;

async fn append(world: &Postgres, saga: &mut Saga, entries: u32) {
    let write = moved(saga, entries, saga.born_at);
    assert_eq!(world.store().commit(std::slice::from_ref(&write)).await.unwrap().len(), 1);
    *saga = write.saga;
}

/// Reads until there is nothing more, a few at a time.
async fn publish(log: &EventLog, slots: &[u16]) -> Vec<Unpublished> {
    let mut published = Vec::new();
    loop {
        let read = log.unpublished(slots, 3).await.unwrap();
        if read.is_empty() {
            return published;
        }
        let reached: Vec<(u16, i64)> = read.iter().map(|event| (event.slot, event.position)).collect();
        log.advance(&reached).await.unwrap();
        published.extend(read);
    }
}

fn of(events: &[Unpublished], saga: &Saga) -> Vec<u32> {
    events.iter().filter(|event| event.saga_id == saga.id).map(|event| event.entry.revision).collect()
}

#[tokio::test]
async fn entries_come_once_in_order_with_what_they_are_about() {
    let world = world().await;
    let log = EventLog::new(world.pool());
    let (mut one, mut two, elsewhere) = (world.errand(1).await, world.errand(2).await, world.errand(3).await);
    append(&world, &mut one, 3).await;
    append(&world, &mut two, 1).await;
    append(&world, &mut one, 2).await;

    let events = publish(&log, &[1, 2]).await;
    assert_eq!((of(&events, &one), of(&events, &two)), (vec![1, 2, 3, 4, 5, 6], vec![1, 2]));
    assert_eq!(of(&events, &elsewhere).len(), 0);
    let born = &events[0];
    assert_eq!((born.business_key.as_str(), born.workflow.as_str()), (one.business_key.as_str(), "errand"));
    assert_eq!((born.entry.did.label.as_deref(), born.entry.occurrence.at), (Some("NEW"), one.born_at));
    assert_eq!(world.timeline(one.id).await[0], born.entry);

    assert_eq!(publish(&log, &[1, 2]).await, []);
    append(&world, &mut two, 1).await;
    assert_eq!(of(&publish(&log, &[1, 2, 3]).await, &two), [3]);
}

#[tokio::test]
async fn a_writer_paused_before_its_commit_is_neither_skipped_nor_waited_for() {
    let world = world().await;
    let log = EventLog::new(world.pool());
    let (mut slow, mut behind, mut free) =
        (world.errand(7).await, world.errand(7).await, world.errand(8).await);
    publish(&log, &[7, 8]).await;

    let paused = world.pause_before_commit(slow.id).await;
    let slow_writer = append(&world, &mut slow, 1);
    let others = async {
        world.until_waiting("advisory", 1).await;
        // Same slot: its entries are numbered once those before it are committed.
        let behind_it = append(&world, &mut behind, 1);
        let meanwhile = async {
            world.until_waiting("advisory", 2).await;
            append(&world, &mut free, 1).await;
            let published = publish(&log, &[7, 8]).await;
            paused.end().await;
            published
        };
        tokio::join!(behind_it, meanwhile).1
    };
    let ((), meanwhile) = tokio::join!(slow_writer, others);
    let afterwards = publish(&log, &[7, 8]).await;

    assert_eq!(of(&meanwhile, &free), [2], "not stalled");
    assert_eq!(meanwhile.len(), 1);
    assert_eq!((of(&afterwards, &slow), of(&afterwards, &behind)), (vec![2], vec![2]), "not skipped");
    assert_eq!(afterwards.len(), 2);
    assert!(meanwhile[0].position > afterwards[0].position, "as a reader of position > n would have lost it");
}

#[tokio::test]
async fn many_writers_and_one_publisher_lose_nothing() {
    let world = world().await;
    let log = EventLog::new(world.pool());
    let mut sagas = Vec::new();
    for n in 0..8 {
        sagas.push(world.errand(n % 2).await);
    }
    let ids: Vec<Uuid> = sagas.iter().map(|saga| saga.id).collect();
    let writers = futures::future::join_all(sagas.into_iter().map(|mut saga| async {
        for _ in 0..25 {
            append(&world, &mut saga, 1).await;
        }
        saga
    }));
    let publisher = async {
        let mut events = Vec::new();
        while events.len() < 8 * 26 {
            events.extend(publish(&log, &[0, 1]).await);
        }
        events
    };
    let (sagas, events) = tokio::join!(writers, publisher);
    for saga in &sagas {
        assert_eq!(of(&events, saga), (1..=26).collect::<Vec<_>>());
    }
    assert_eq!(ids.len() * 26, events.len());
}

#[tokio::test]
async fn watermarks_never_move_back() {
    let world = world().await;
    let log = EventLog::new(world.pool());
    log.advance(&[(1, 5), (2, 7), (1, 9), (1, 8)]).await.unwrap();
    log.advance(&[(1, 3), (2, 8)]).await.unwrap();
    let stored: Vec<(i16, i64)> =
        sqlx::query_as("SELECT slot, position FROM publisher_watermarks ORDER BY slot")
            .fetch_all(world.owner())
            .await
            .unwrap();
    assert_eq!(BTreeMap::from_iter(stored), BTreeMap::from([(1, 9), (2, 8)]));
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_stops_its_slot_and_no_other() {
    let world = world().await;
    let log = EventLog::new(world.pool());
    let (mut newer, mut sound) = (world.errand(1).await, world.errand(2).await);
    append(&world, &mut newer, 2).await;
    append(&world, &mut sound, 2).await;
    sqlx::query(
        "UPDATE timeline SET body = '{\"event\": \"of the future\"}' WHERE saga_id = $1 AND revision = 2",
    )
    .bind(newer.id)
    .execute(world.owner())
    .await
    .unwrap();
    let events = log.unpublished(&[1, 2], 100).await.unwrap();
    assert_eq!((of(&events, &newer), of(&events, &sound)), (vec![1], vec![1, 2, 3]));
}
