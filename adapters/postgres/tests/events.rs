//! The publisher's view of the timeline: every entry once, in order. With `AMENDS_TEST_CITUS` also on a Citus.

mod support;

use amends_engine::{
    core::{Known, Saga},
    port::SagaStore,
};
use amends_postgres::{
    Homes,
    conformance::{World, known, moved},
    events::{EventLog, Unpublished},
    handoffs::Handoffs,
    watermarks::Watermarks,
};
use support::{Postgres, world, world_with, worlds};
use uuid::Uuid;

async fn append(world: &Postgres, saga: &mut Saga, entries: u32) {
    let write = moved(saga, entries, saga.born_at);
    assert_eq!(world.store().commit(std::slice::from_ref(&write)).await.unwrap().written.len(), 1);
    *saga = write.saga;
}

/// Reads a few entries at a time until there are no more.
async fn publish(log: &EventLog, watermarks: &mut Watermarks, slots: &[u16]) -> Vec<Unpublished> {
    let mut published = Vec::new();
    loop {
        let read = log.unpublished(&watermarks.of(slots), 3, &known()).await.unwrap().entries;
        if read.is_empty() {
            return published;
        }
        read.iter().for_each(|event| watermarks.reach(event.slot, event.position));
        published.extend(read);
    }
}

async fn publisher(world: &Postgres, slots: &[u16]) -> (EventLog, Watermarks) {
    let database = world.store.database();
    let mut watermarks = Watermarks::new(database.clone());
    watermarks.open(slots).await.unwrap();
    (EventLog::new(database.clone()), watermarks)
}

fn of(events: &[Unpublished], saga: &Saga) -> Vec<u32> {
    events.iter().filter(|event| event.saga_id == saga.id).map(|event| event.entry.revision).collect()
}

#[tokio::test]
async fn entries_come_once_in_order_with_what_they_are_about() {
    for world in worlds().await {
        let (log, mut watermarks) = publisher(&world, &[1, 2, 3]).await;
        let (mut one, mut two, elsewhere) =
            (world.errand(1).await, world.errand(2).await, world.errand(3).await);
        append(&world, &mut one, 3).await;
        append(&world, &mut two, 1).await;
        append(&world, &mut one, 2).await;

        let events = publish(&log, &mut watermarks, &[1, 2]).await;
        assert_eq!((of(&events, &one), of(&events, &two)), (vec![1, 2, 3, 4, 5, 6], vec![1, 2]));
        assert_eq!(of(&events, &elsewhere).len(), 0);
        let born = &events[0];
        assert_eq!(
            (born.business_key.as_str(), born.workflow.as_str()),
            (one.business_key.as_str(), "errand")
        );
        assert_eq!((born.entry.did.label.as_deref(), born.entry.occurrence.at), (Some("NEW"), one.born_at));
        assert_eq!(world.timeline(one.id).await[0], born.entry);

        assert_eq!(publish(&log, &mut watermarks, &[1, 2]).await, []);
        append(&world, &mut two, 1).await;
        assert_eq!(of(&publish(&log, &mut watermarks, &[1, 2, 3]).await, &two), [3]);
    }
}

#[tokio::test]
async fn a_writer_paused_before_its_commit_is_neither_skipped_nor_waited_for() {
    let world = world().await;
    let (log, mut watermarks) = publisher(&world, &[7, 8]).await;
    let (mut slow, mut behind, mut free) =
        (world.errand(7).await, world.errand(7).await, world.errand(8).await);
    publish(&log, &mut watermarks, &[7, 8]).await;

    let paused = world.pause_before_commit(slow.id).await;
    let slow_writer = append(&world, &mut slow, 1);
    let others = async {
        world.until_waiting("advisory", 1).await;
        // Same slot: its entries are numbered after those before it are committed.
        let behind_it = append(&world, &mut behind, 1);
        let meanwhile = async {
            world.until_waiting("advisory", 2).await;
            append(&world, &mut free, 1).await;
            let published = publish(&log, &mut watermarks, &[7, 8]).await;
            paused.end().await;
            published
        };
        tokio::join!(behind_it, meanwhile).1
    };
    let ((), meanwhile) = tokio::join!(slow_writer, others);
    let afterwards = publish(&log, &mut watermarks, &[7, 8]).await;

    assert_eq!(of(&meanwhile, &free), [2], "not stalled");
    assert_eq!(meanwhile.len(), 1);
    assert_eq!((of(&afterwards, &slow), of(&afterwards, &behind)), (vec![2], vec![2]), "not skipped");
    assert_eq!(afterwards.len(), 2);
    assert!(meanwhile[0].position > afterwards[0].position, "as a reader of position > n would have lost it");
}

#[tokio::test]
async fn many_writers_and_one_publisher_lose_nothing() {
    for world in worlds().await {
        let (log, mut watermarks) = publisher(&world, &[0, 1]).await;
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
                events.extend(publish(&log, &mut watermarks, &[0, 1]).await);
            }
            events
        };
        let (sagas, events) = tokio::join!(writers, publisher);
        for saga in &sagas {
            assert_eq!(of(&events, saga), (1..=26).collect::<Vec<_>>());
        }
        assert_eq!(ids.len() * 26, events.len());
    }
}

async fn stored(world: &Postgres) -> Vec<(i16, i64)> {
    sqlx::query_as("SELECT slot, position FROM publisher_watermarks ORDER BY slot, position")
        .fetch_all(world.owner())
        .await
        .unwrap()
}

#[tokio::test]
async fn watermarks_never_move_back_and_whoever_comes_next_goes_on_from_the_furthest() {
    for world in worlds().await {
        let (_, mut one) = publisher(&world, &[1, 2]).await;
        for (slot, position) in [(1, 5), (2, 7), (1, 9), (1, 8), (3, 4)] {
            one.reach(slot, position);
        }
        assert_eq!(one.of(&[1, 2, 3]), [(1, 9), (2, 7)], "a slot that is not open has none");
        assert_eq!(stored(&world).await, []);
        one.keep().await.unwrap();
        assert_eq!(stored(&world).await, [(1, 9), (2, 7)]);

        // A second publisher also believes that it owns the slots. The first one, which is behind, does not move its
        // watermarks back.
        let (_, mut two) = publisher(&world, &[1, 2]).await;
        two.reach(1, 20);
        two.keep().await.unwrap();
        one.reach(1, 12);
        one.reach(2, 8);
        one.keep().await.unwrap();
        let (_, three) = publisher(&world, &[1, 2]).await;
        assert_eq!(three.of(&[2, 1]), [(2, 8), (1, 20)]);
        assert_eq!(stored(&world).await, [(1, 20), (2, 8)], "what is behind is cleared away");
    }
}

#[tokio::test]
async fn another_assignment_keeps_what_was_reached_under_the_last() {
    for world in worlds().await {
        let (_, mut watermarks) = publisher(&world, &[1, 2]).await;
        watermarks.reach(1, 5);
        watermarks.reach(2, 6);
        watermarks.open(&[2, 3]).await.unwrap();
        assert_eq!(watermarks.of(&[1, 2, 3]), [(2, 6), (3, 0)]);
        assert_eq!(stored(&world).await, [(1, 5), (2, 6)]);
    }
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_stops_its_slot_and_no_other() {
    for world in worlds().await {
        let (log, watermarks) = publisher(&world, &[1, 2]).await;
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
        let read = log.unpublished(&watermarks.of(&[1, 2]), 100, &known()).await.unwrap();
        assert_eq!((of(&read.entries, &newer), of(&read.entries, &sound)), (vec![1], vec![1, 2, 3]));
        assert_eq!(read.stopped.iter().map(|handoff| handoff.slot).collect::<Vec<_>>(), [1]);
    }
}

#[tokio::test]
async fn a_slot_whose_owner_cannot_read_on_is_published_by_a_program_that_can_and_then_by_its_owner() {
    for world in worlds().await {
        let (log, mut owner) = publisher(&world, &[1]).await;
        let handoffs = Handoffs::new(world.store.database().clone());
        let (mut newer, mut sound) = (world.errand(1).await, world.errand(1).await);
        sqlx::query("UPDATE sagas SET workflow_version = 2 WHERE id = $1")
            .bind(newer.id)
            .execute(world.owner())
            .await
            .unwrap();
        append(&world, &mut sound, 1).await;
        append(&world, &mut newer, 1).await;
        // The owner knows one version, the other program both.
        let read = log.unpublished(&owner.of(&[1]), 100, &known()).await.unwrap();
        assert_eq!(read.entries, [], "the newer saga's birth is the slot's first entry");
        handoffs.give(&read.stopped).await.unwrap();
        handoffs.give(&read.stopped).await.unwrap();
        assert_eq!(handoffs.open(&known()).await.unwrap(), []);
        let both = Known { workflows: vec![("errand".to_owned(), 1), ("errand".to_owned(), 2)], ..known() };
        let open = handoffs.open(&both).await.unwrap();
        assert_eq!(open, [(1, read.stopped[0].position)]);
        let rest = log.unpublished(&[(1, open[0].1 - 1)], 100, &both).await.unwrap();
        assert_eq!((rest.entries.len(), rest.stopped.len()), (4, 0));
        handoffs.settle(1, open[0].1, rest.entries.last().map(|last| last.position)).await.unwrap();
        assert_eq!(handoffs.open(&both).await.unwrap(), []);
        owner.catch_up(&[1]).await.unwrap();
        append(&world, &mut sound, 1).await;
        let after = publish(&log, &mut owner, &[1]).await;
        assert_eq!(
            (of(&after, &sound), of(&after, &newer)),
            (vec![3], vec![]),
            "its owner goes on behind that"
        );
        owner.keep().await.unwrap();
    }
}

#[tokio::test]
async fn a_watermark_that_its_home_did_not_take_is_left_to_the_next_owner_of_the_slot() {
    let world = world_with(Homes::new(2).unwrap()).await;
    let database = world.store.database().clone();
    let mut watermarks = Watermarks::new(database.clone());
    watermarks.open(&[2, 3]).await.unwrap();
    sqlx::query("ALTER TABLE publisher_watermarks ADD CONSTRAINT away CHECK (home <> 1)")
        .execute(world.owner())
        .await
        .unwrap();
    watermarks.reach(2, 5);
    watermarks.reach(3, 6);
    watermarks.open(&[2]).await.unwrap();
    watermarks.keep().await.unwrap();
    assert_eq!(watermarks.of(&[2, 3]), [(2, 5)]);

    sqlx::query("ALTER TABLE publisher_watermarks DROP CONSTRAINT away")
        .execute(world.owner())
        .await
        .unwrap();
    let mut next = Watermarks::new(database);
    next.open(&[2, 3]).await.unwrap();
    assert_eq!(next.of(&[2, 3]), [(2, 5), (3, 0)]);
}
