//! Odd replies, as every store must note them.

use amends_engine::port::{OddAnswer, OddReason, OddReplies, OddReply, SagaStore};
use amends_protocol::{Kind, Outcome};
use uuid::Uuid;

use super::{World, load, now, stored};
use crate::odd_replies::OddRow;

/// Creates this many odd replies, the last of them at this offset.
fn odd(saga_id: Uuid, reason: OddReason, count: u32, offset: i64) -> OddReplies {
    let says = OddAnswer {
        command_id: Uuid::from_u128(7),
        step: Some("fetch".to_owned()),
        kind: Kind::Execute,
        outcome: Outcome::Succeeded,
        attempt: 2,
    };
    let says = Some(says).filter(|_| reason != OddReason::Unreadable);
    let last = OddReply { topic: "saga.replies".to_owned(), partition: 3, offset, says };
    OddReplies { saga_id, reason, count, last }
}

/// The first and the last of each, in one row per reason.
pub async fn odd_replies_are_counted_by_saga_and_reason_and_the_last_of_each_is_kept(world: &impl World) {
    let (a, b) = (stored(world, 1, |_, _| {}).await.id, stored(world, 2, |_, _| {}).await.id);
    let store = world.store();
    let before = now(world).await;
    store
        .note_odd(&[odd(a, OddReason::Duplicate, 1, 10), odd(b, OddReason::Duplicate, 5, 11)])
        .await
        .unwrap();
    store.note_odd(&[odd(a, OddReason::Duplicate, 3, 20), odd(a, OddReason::Forged, 1, 21)]).await.unwrap();
    store.note_odd(&[odd(a, OddReason::Unreadable, 1, 30)]).await.unwrap();
    let mut rows = world.odd_replies(a).await;
    rows.sort_by_key(|row| row.offset);
    let seen: Vec<_> = rows.iter().map(|r| (r.reason.as_str(), r.count, r.offset, r.dead_lettered)).collect();
    assert_eq!(seen, [("duplicate", 4, 20, false), ("forged", 1, 21, true), ("unreadable", 1, 30, true)]);
    let [twice, once, unreadable] = &rows[..] else { panic!("{rows:?}") };
    assert!(before <= twice.first_at && twice.first_at <= twice.last_at, "{twice:?}");
    assert_eq!(once.first_at, once.last_at);
    assert_eq!((once.topic.as_str(), once.partition), ("saga.replies", 3));
    let says = |row: &OddRow| {
        let words = (row.step.clone(), row.kind.clone(), row.outcome.clone());
        (row.command_id, row.attempt, words)
    };
    let words = ["fetch", "execute", "succeeded"].map(|word| Some(word.to_owned()));
    assert_eq!(says(once), (Some(Uuid::from_u128(7)), Some(2), words.into()));
    assert_eq!(says(unreadable), (None, None, (None, None, None)));
    assert_eq!(world.odd_replies(b).await.len(), 1);
    assert_eq!(load(world, a).await.revision, 1, "the saga is as it was");
}

/// Made-up ids fill no table.
pub async fn an_odd_reply_of_a_saga_that_is_not_here_leaves_nothing(world: &impl World) {
    let here = stored(world, 1, |_, _| {}).await.id;
    let made_up = Uuid::now_v7();
    let batch = [odd(made_up, OddReason::Forged, 1, 1), odd(here, OddReason::Forged, 1, 2)];
    world.store().note_odd(&batch).await.unwrap();
    assert_eq!(world.odd_replies(here).await.len(), 1);
    assert_eq!(world.odd_replies(made_up).await, []);
    world.store().note_odd(&[odd(made_up, OddReason::Forged, 1, 1)]).await.unwrap();
    // A saga with this id is born later, and has no notes.
    stored(world, 1, |saga, _| saga.id = made_up).await;
    assert_eq!(world.odd_replies(made_up).await, []);
}
