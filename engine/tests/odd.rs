//! Replies that change nothing are noted beside their saga, for an operator; and nothing waits for the note.

mod support;

use amends_engine::{
    core::{Actor, Catalog, Definition, Event},
    port::{self, OddReason, OddReply},
    runtime::{deferred, replies},
};
use amends_protocol::{Kind, Outcome, Reply, TokenKey, wire};
use support::world::{TestEngine, World, block_on};
use uuid::Uuid;

fn take(world: &World, engine: &TestEngine) -> usize {
    block_on(replies::run_once(engine, &mut world.clone())).unwrap()
}

/// Creates a stay whose room is booked.
fn booked(world: &World, engine: &TestEngine) -> Uuid {
    let stay = world.born(1);
    world.answers(stay, "book", Outcome::Succeeded);
    take(world, engine);
    world.log();
    stay
}

/// Processes a batch of this reply alone; returns the notes of the saga.
fn noted(change: impl FnOnce(&mut Reply)) -> (Vec<(OddReason, u32)>, usize, usize) {
    let (world, mut engine) = World::new();
    engine.epoch = 2;
    world.state().epoch = 2;
    let stay = world.born(1);
    let mut booked = world.answer(stay, "book", Kind::Execute, Outcome::Succeeded);
    booked.epoch = 2;
    world.delivers(&booked);
    take(&world, &engine);
    let mut reply = world.answer(stay, "charge", Kind::Execute, Outcome::Succeeded);
    reply.epoch = 2;
    change(&mut reply);
    world.delivers(&reply);
    world.delivers(&reply);
    take(&world, &engine);
    let dead = world.state().dead.len();
    let strays = world.state().strays.len();
    (world.odd(stay), dead, strays)
}

#[test]
fn each_reason_for_which_a_reply_changes_nothing_is_noted_with_its_number() {
    use OddReason as R;
    let twice = |reason| vec![(reason, 2)];
    assert_eq!(noted(|_| {}), (vec![(R::Duplicate, 1)], 0, 0), "the first of them moves it");
    assert_eq!(noted(|r| r.epoch = 1), (twice(R::OldEpoch), 0, 0));
    assert_eq!(noted(|r| r.epoch = u32::MAX), (twice(R::NewerEpoch), 2, 0));
    assert_eq!(noted(|r| r.reply_token = "00".repeat(16)), (twice(R::Forged), 2, 0));
    assert_eq!(noted(|r| r.attempt = 0), (twice(R::Unreadable), 2, 0));
    assert_eq!(noted(|r| r.slot += 1), (twice(R::WrongEcho), 2, 0));
    let not_ordered = |outcome| {
        move |reply: &mut Reply| {
            reply.command_id = Uuid::from_u128(7);
            reply.reply_token = TokenKey::new(support::world::KEY).token(reply.command_id);
            reply.outcome = outcome;
        }
    };
    assert_eq!(noted(not_ordered(Outcome::Refused)), (twice(R::NotOrdered), 0, 0));
    assert_eq!(noted(not_ordered(Outcome::Succeeded)), (twice(R::SuccessNotOrdered), 0, 2));
    let unstorable = |reply: &mut Reply| {
        reply.outcome = Outcome::FailedTransient;
        reply.reason = Some(amends_protocol::Reason::new("unstorable", ""));
    };
    assert_eq!(noted(unstorable), (twice(R::NotStorable), 2, 0));
}

#[test]
fn a_reason_says_whether_its_replies_are_dead_lettered() {
    let dead: Vec<_> = OddReason::ALL
        .into_iter()
        .filter(|reason| reason.is_dead_lettered())
        .map(OddReason::as_str)
        .collect();
    assert_eq!(dead, ["unreadable", "forged", "newer_epoch", "wrong_echo", "not_storable"]);
}

#[test]
fn what_moves_a_saga_or_is_in_its_timeline_is_not_noted() {
    let (world, engine) = World::new();
    let stay = booked(&world, &engine);
    world.answers(stay, "charge", Outcome::InFlight);
    world.answers(stay, "charge", Outcome::Refused);
    // Odd, and in the timeline.
    world.answers(stay, "charge", Outcome::FailedForGood);
    take(&world, &engine);
    assert_eq!(world.log(), ["commit 1", "send 1", "offsets"], "no further call of the store");
    assert_eq!(world.odd(stay), []);
}

#[test]
fn it_is_noted_in_one_call_once_the_offsets_have_moved() {
    let (world, engine) = World::new();
    let stays: Vec<Uuid> = (0..3).map(|_| booked(&world, &engine)).collect();
    for stay in &stays {
        for _ in 0..3 {
            world.answers(*stay, "book", Outcome::Succeeded);
        }
    }
    take(&world, &engine);
    assert_eq!(world.log(), ["offsets", "note 3"]);
    take(&world, &engine);
    assert_eq!(world.log(), [""; 0]);
    world.answers(stays[0], "book", Outcome::Succeeded);
    take(&world, &engine);
    assert_eq!(world.odd(stays[0]), [(OddReason::Duplicate, 4)]);
    let last = world.state().odd[&(stays[0], OddReason::Duplicate)].1.clone();
    assert_eq!((last.topic.as_str(), last.partition, last.offset), ("saga.replies", 0, 12));
    let says = last.says.unwrap();
    assert_eq!((says.step.as_deref(), says.outcome, says.attempt), (Some("book"), Outcome::Succeeded, 1));
}

#[test]
fn a_note_that_fails_holds_nothing_up() {
    let (world, engine) = World::new();
    let stay = booked(&world, &engine);
    world.state().note_fails.push_back(port::Error::Unavailable("away".to_owned()));
    world.answers(stay, "book", Outcome::Succeeded);
    world.answers(stay, "charge", Outcome::Succeeded);
    assert_eq!(take(&world, &engine), 2);
    assert_eq!(world.log(), ["commit 1", "send 1", "offsets"]);
    assert_eq!(world.odd(stay), []);
    assert_eq!(take(&world, &engine), 0, "it does not come again");
}

#[test]
fn a_batch_that_fails_notes_nothing_before_it_succeeds() {
    let (world, engine) = World::new();
    let stay = booked(&world, &engine);
    world.answers(stay, "book", Outcome::Succeeded);
    world.state().store_fails.push_back(port::Error::Unavailable("restarting".to_owned()));
    assert!(block_on(replies::run_once(&engine, &mut world.clone())).is_err());
    assert_eq!(world.odd(stay), []);
    take(&world, &engine);
    assert_eq!(world.odd(stay), [(OddReason::Duplicate, 1)]);
}

#[test]
fn a_reply_that_waits_for_an_engine_that_can_judge_it_is_noted_once_it_is_judged() {
    let (world, engine) = World::new();
    let stay = booked(&world, &engine);
    world.state().sagas.get_mut(&stay).unwrap().0.workflow_version = 2;
    world.answers(stay, "book", Outcome::Succeeded);
    let wrong = Reply { slot: 5, ..world.answer(stay, "charge", Kind::Execute, Outcome::Refused) };
    world.delivers(&wrong);
    take(&world, &world.engine());
    assert_eq!(world.log(), ["defer 2", "offsets"]);
    assert!(world.state().dead.is_empty());
    let mut newer = world.engine();
    newer.catalog =
        Catalog::new(vec![support::stay(), Definition { version: 2, ..support::stay() }]).unwrap();
    world.passes(1);
    block_on(deferred::run_once(&newer)).unwrap();
    assert_eq!(world.log(), ["forget 2", "note 2"]);
    assert_eq!(world.odd(stay), [(OddReason::Duplicate, 1), (OddReason::WrongEcho, 1)]);
    assert_eq!(world.state().dead.len(), 1);
}

#[test]
fn what_is_concluded_from_a_row_that_a_rival_has_moved_on_is_not_noted() {
    let (world, engine) = World::new();
    let stay = booked(&world, &engine);
    let refused = Event::CancelRequested(Actor::new("guest", ""));
    world.state().rivals.push_back((stay, refused));
    world.answers(stay, "charge", Outcome::Succeeded);
    world.answers(stay, "book", Outcome::Succeeded);
    take(&world, &engine);
    assert_eq!(world.odd(stay), [(OddReason::Duplicate, 1)], "once, though it was judged twice");
}

#[test]
fn nothing_long_or_strange_of_what_a_stranger_says_is_kept() {
    let (world, engine) = World::new();
    let stay = world.born(1);
    let mut forged = world.answer(stay, "book", Kind::Execute, Outcome::Succeeded);
    forged.reply_token = "00".repeat(16);
    for step in ["x".repeat(65), "Anna Muster, Street 1".to_owned()] {
        world.delivers(&Reply { step, ..forged.clone() });
        take(&world, &engine);
        let OddReply { says, .. } = world.state().odd[&(stay, OddReason::Forged)].1.clone();
        assert_eq!(says.unwrap().step, None);
    }
    // Made-up sagas get no notes.
    world.delivers(&Reply { saga_id: Uuid::from_u128(99), ..forged });
    world.state().topic.push(wire::write(&serde_json::json!({ "sagaId": Uuid::from_u128(98) })));
    take(&world, &engine);
    assert_eq!(world.state().odd.len(), 1);
}
