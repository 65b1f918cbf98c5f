//! Events from outside, over a world in memory: decided whoever owns the saga.

mod support;

use amends_engine::core::{Actor, Event, Retry, Seen};
use amends_engine::port;
use amends_engine::runtime::{self, apply::Applied};
use amends_protocol::{Kind, Outcome};
use support::world::{World, block_on};
use uuid::Uuid;

fn cancel() -> Event {
    Event::CancelRequested(Actor::new("guest", "changed my mind"))
}

#[test]
fn through_a_door_a_cancel_is_decided_whoever_owns_the_saga() {
    let (world, engine) = World::new();
    let a = world.born(1);
    let apply = |id, event| block_on(runtime::apply::apply(&engine, id, event));
    match apply(a, cancel()).unwrap() {
        Applied::Done(saga) => assert_eq!(saga.label, "UNDOING"),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.sent(), [(a, "book compensate".to_owned())]);
    match apply(a, cancel()).unwrap() {
        Applied::Done(saga) => assert_eq!(saga.revision, 2, "already on its way"),
        other => panic!("{other:?}"),
    }
    let seen = Seen { revision: 2, command_id: None };
    let retry = Event::RetryRequested(Retry { by: Actor::new("operator", ""), seen });
    assert!(matches!(apply(a, retry).unwrap(), Applied::Illegal(saga, _) if saga.revision == 2));
    assert!(matches!(apply(Uuid::from_u128(99), cancel()).unwrap(), Applied::Missing));
}

#[test]
fn a_door_answers_by_the_row_that_a_rival_left() {
    let (world, engine) = World::new();
    let a = world.born(1);
    let refused = world.answer(a, "book", Kind::Execute, Outcome::Refused);
    world.state().rivals.push_back((a, Event::Replied(refused.into())));
    match block_on(runtime::apply::apply(&engine, a, cancel())).unwrap() {
        Applied::Illegal(saga, _) => assert_eq!(saga.label, "FULL"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_event_for_one_revision_is_decided_at_that_revision_alone() {
    let (world, engine) = World::new();
    let a = world.born(1);
    let at = |revision| block_on(runtime::apply::apply_at(&engine, a, revision, cancel())).unwrap();
    assert!(at(2).is_none());
    assert_eq!(world.saga(a).revision, 1);
    // A rival writes between the read and the write: the event is not decided again by the new row.
    let refused = world.answer(a, "book", Kind::Execute, Outcome::Refused);
    world.state().rivals.push_back((a, Event::Replied(refused.into())));
    assert!(at(1).is_none());
    assert_eq!((world.saga(a).revision, world.saga(a).label.as_str()), (2, "FULL"));
    let b = world.born(2);
    match block_on(runtime::apply::apply_at(&engine, b, 1, cancel())).unwrap() {
        Some(Applied::Done(saga)) => assert_eq!((saga.revision, saga.label.as_str()), (2, "UNDOING")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_door_whose_send_fails_has_still_done_it() {
    let (world, engine) = World::new();
    let a = world.born(1);
    world.state().send_fails = 1;
    let applied = block_on(runtime::apply::apply(&engine, a, cancel())).unwrap();
    assert!(matches!(applied, Applied::Done(saga) if saga.label == "UNDOING" && saga.live));
}

#[test]
fn a_request_that_cannot_be_stored_is_refused_and_parks_nobody() {
    let (world, engine) = World::new();
    let a = world.born(1);
    world.state().poison.insert(a);
    let applied = block_on(runtime::apply::apply(&engine, a, cancel()));
    assert!(matches!(applied, Err(runtime::Error::Store(port::Error::Data(_)))), "{applied:?}");
    assert!(!world.saga(a).parked);
}
