//! The replies loop, over a world in memory: what is written, what is sent, and in which order.

mod support;

use std::collections::BTreeSet;

use amends_engine::core::{Actor, Event, Retry, SagaState, Seen};
use amends_engine::port::{self, EPOCHS_FROM};
use amends_engine::runtime::{self, deferred, replies};
use amends_protocol::{Kind, Outcome, Reply, TokenKey};
use chrono::{DateTime, Utc};
use support::world::{TestEngine, World, block_on};
use uuid::Uuid;

/// Runs one round; returns the number of replies processed.
fn run(world: &World, engine: &TestEngine) -> Result<usize, runtime::Error> {
    block_on(replies::run_once(engine, &mut world.clone()))
}

fn cancel() -> Event {
    Event::CancelRequested(Actor::new("guest", "changed my mind"))
}

#[test]
fn a_batch_is_written_then_sent_then_its_offsets_move() {
    let (world, engine) = World::new();
    let (a, b) = (world.born(1), world.born(2));
    world.answers(a, "book", Outcome::Succeeded);
    world.answers(b, "book", Outcome::Succeeded);
    assert_eq!(run(&world, &engine).unwrap(), 2);
    assert_eq!(world.log(), ["commit 2", "send 2", "offsets"]);
    assert_eq!(world.sent(), [(a, "charge execute".to_owned()), (b, "charge execute".to_owned())]);
    assert_eq!(run(&world, &engine).unwrap(), 0);
    assert_eq!(world.log(), [""; 0], "nothing came, nothing happens");
}

#[test]
fn very_many_are_written_in_lanes_and_their_offsets_move_once_all_are() {
    let (world, engine) = World::new();
    let sagas: Vec<_> = (1..=1_000).map(|n| world.born(n)).collect();
    sagas.iter().for_each(|saga| world.answers(*saga, "book", Outcome::Succeeded));
    world.state().store_fails.push_back(port::Error::Unavailable("restarting".to_owned()));
    assert!(run(&world, &engine).is_err());
    assert_eq!(
        world.log(),
        ["commit 500", "send 500", "rewind"],
        "one lane fails, and the other comes to its end"
    );
    assert_eq!(run(&world, &engine).unwrap(), 1_000);
    assert_eq!(world.log(), ["commit 500", "send 500", "offsets", "note 500"]);
    let sent = world.sent();
    let sagas: BTreeSet<_> = sent.iter().map(|(saga, _)| saga).collect();
    assert_eq!((sent.len(), sagas.len()), (1_000, 1_000), "each once");
}

#[test]
fn what_comes_twice_is_written_and_sent_once() {
    let (world, engine) = World::new();
    let a = world.born(1);
    world.answers(a, "book", Outcome::Succeeded);
    world.answers(a, "book", Outcome::Succeeded);
    run(&world, &engine).unwrap();
    world.answers(a, "book", Outcome::Succeeded);
    run(&world, &engine).unwrap();
    assert_eq!(world.sent().len(), 1);
    assert_eq!(world.log(), ["commit 1", "send 1", "offsets", "note 1", "offsets", "note 1"]);
    assert_eq!(world.saga(a).revision, 2);
}

#[test]
fn a_saga_that_was_just_written_is_not_read_again() {
    let (world, engine) = World::new();
    let (a, b) = (world.born(1), world.born(2));
    for step in ["book", "charge", "confirm", "file"] {
        world.answers(a, step, Outcome::Succeeded);
        run(&world, &engine).unwrap();
    }
    world.answers(b, "book", Outcome::Succeeded);
    run(&world, &engine).unwrap();
    assert_eq!(world.state().reads, [a, b]);
    assert_eq!(world.saga(a).label, "CONFIRMED");
    assert!(world.saga(a).outcome.is_some());
}

#[test]
fn what_is_remembered_is_believed_only_of_what_is_written() {
    let (world, engine) = World::new();
    let a = world.born(1);
    world.answers(a, "book", Outcome::Succeeded);
    run(&world, &engine).unwrap();
    world.sent();
    // Another engine advances it. The answer to a command that only the row contains arrives here.
    let charged = world.answer(a, "charge", Kind::Execute, Outcome::Succeeded);
    world.state().happens(a, Event::Replied(charged.into()));
    world.answers(a, "confirm", Outcome::Succeeded);
    run(&world, &engine).unwrap();
    assert_eq!(world.state().strays, []);
    assert_eq!(world.sent(), [(a, "file execute".to_owned())]);
    // And a write that is decided from memory is decided again.
    world.state().happens(a, Event::Poisoned(amends_protocol::Reason::new("poisoned", "")));
    world.answers(a, "file", Outcome::Succeeded);
    run(&world, &engine).unwrap();
    let (saga, entries) = world.state().sagas[&a].clone();
    assert_eq!(saga.revision as usize, entries.len(), "no revision was written over");
    assert!(entries.iter().any(|entry| matches!(entry.occurrence.event, Event::Poisoned(_))));
}

#[test]
fn a_rivals_write_makes_the_batch_decide_again_and_only_returned_rows_are_sent() {
    let (world, engine) = World::new();
    let (a, b) = (world.born(1), world.born(2));
    world.answers(a, "book", Outcome::Succeeded);
    world.answers(b, "book", Outcome::Succeeded);
    world.state().rivals.push_back((a, cancel()));
    run(&world, &engine).unwrap();
    // The cancellation was first: its own writer sends the compensation; the success is only recorded.
    assert_eq!(world.sent(), [(b, "charge execute".to_owned())]);
    assert_eq!(world.log(), ["commit 1", "commit 1", "send 1", "offsets"]);
    let a = world.saga(a);
    assert_eq!((a.state(), a.revision), (SagaState::Compensating, 3));
    assert_eq!(a.state.commands[0].held.len(), 1);
}

#[test]
fn a_saga_that_others_never_stop_writing_is_left_for_the_next_time() {
    let (world, engine) = World::new();
    let a = world.born(1);
    world.answers(a, "book", Outcome::Succeeded);
    for at in 1..200 {
        // Every note changes the revision.
        let outcome = [Outcome::Unsupported, Outcome::Unknown, Outcome::Succeeded][at % 3];
        let mut reply = world.answer(a, "book", Kind::Compensate, outcome);
        reply.attempt = at as u32;
        world.state().rivals.push_back((a, Event::Replied(reply.into())));
        world.state().rivals.push_back((a, Event::Poisoned(amends_protocol::Reason::new("poisoned", ""))));
        // Born at revision 1; each round adds two.
        let seen = Seen { revision: 2 * at as u32, command_id: None };
        let retry = Retry { by: Actor::new("operator", "again"), seen };
        world.state().rivals.push_back((a, Event::RetryRequested(retry)));
    }
    world.state().rivals.retain(|(_, event)| !matches!(event, Event::Replied(_)));
    assert!(matches!(run(&world, &engine), Err(runtime::Error::Contended)));
    assert_eq!(world.log().last().unwrap(), "rewind");
    world.state().rivals.clear();
    assert_eq!(run(&world, &engine).unwrap(), 1);
    assert_eq!(world.saga(a).label, "BOOKED");
}

#[test]
fn a_failed_send_stops_nothing_and_loses_nothing() {
    let (world, engine) = World::new();
    let a = world.born(1);
    world.answers(a, "book", Outcome::Succeeded);
    world.state().send_fails = 1;
    assert_eq!(run(&world, &engine).unwrap(), 1);
    assert_eq!(world.log(), ["commit 1", "offsets"], "the command stands in the row");
    assert_eq!(world.sent(), []);
    // The row still waits: its time comes.
    world.passes(5);
    block_on(runtime::timers::Timers::default().run_once(&engine)).unwrap();
    assert_eq!(world.sent(), [(a, "charge execute".to_owned())]);
}

#[test]
fn a_store_that_is_away_moves_no_offset() {
    let (world, engine) = World::new();
    let a = world.born(1);
    world.answers(a, "book", Outcome::Succeeded);
    for fails in 1..3 {
        world.state().store_fails.push_back(port::Error::Unavailable("restarting".to_owned()));
        assert!(run(&world, &engine).is_err(), "{fails}");
        assert_eq!(world.log(), ["rewind"]);
    }
    assert_eq!(run(&world, &engine).unwrap(), 1);
    assert_eq!(world.sent().len(), 1);
}

#[test]
fn a_poison_saga_parks_alone_and_its_message_is_dead_lettered() {
    let (world, engine) = World::new();
    let sagas: Vec<Uuid> = (0..7).map(|slot| world.born(slot)).collect();
    for saga in &sagas {
        world.answers(*saga, "book", Outcome::Succeeded);
    }
    world.state().poison.insert(sagas[4]);
    run(&world, &engine).unwrap();
    assert_eq!(world.sent().len(), 6);
    assert_eq!(world.state().dead, [(4, format!("{} is bad", sagas[4]))]);
    assert!(world.log().ends_with(&["offsets".to_owned(), "note 1".to_owned()]));
    for (at, saga) in sagas.iter().enumerate() {
        let expected = if at == 4 { SagaState::Parked } else { SagaState::Running };
        assert_eq!(world.saga(*saga).state(), expected, "{at}");
    }
    assert_eq!(world.saga(sagas[4]).parked_reason().unwrap().code, "poisoned");
}

#[test]
fn of_a_sagas_replies_only_the_one_that_cannot_be_stored_is_dead_lettered() {
    let (world, engine) = World::new();
    let a = world.born(1);
    let mut bad = world.answer(a, "book", Kind::Execute, Outcome::FailedTransient);
    bad.reason = Some(amends_protocol::Reason::new("unstorable", ""));
    world.delivers(&bad);
    world.answers(a, "book", Outcome::Succeeded);
    run(&world, &engine).unwrap();
    assert_eq!(world.state().dead, [(0, format!("{a} is bad"))]);
    assert_eq!(world.sent(), [(a, "charge execute".to_owned())], "the sound one counted");
    assert_eq!(world.saga(a).parked_reason().unwrap().code, "poisoned");
}

#[test]
fn what_cannot_be_read_or_is_forged_is_dead_lettered_and_the_rest_goes_on() {
    let (world, engine) = World::new();
    let a = world.born(1);
    world.state().topic.push(b"{".to_vec());
    let mut forged = world.answer(a, "book", Kind::Execute, Outcome::Refused);
    forged.reply_token = TokenKey::new([8; 32]).token(forged.command_id);
    world.delivers(&forged);
    world.answers(a, "book", Outcome::Succeeded);
    assert_eq!(run(&world, &engine).unwrap(), 3);
    let dead: Vec<i64> = world.state().dead.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(dead, [0, 1]);
    assert!(world.state().dead[1].1.contains("token"), "{}", world.state().dead[1].1);
    assert_eq!(world.saga(a).label, "BOOKED");
    assert!(world.log().ends_with(&["offsets".to_owned(), "note 1".to_owned()]));
}

#[test]
fn what_repeats_another_commands_step_or_home_is_dead_lettered_though_its_token_is_right() {
    let (world, engine) = World::new();
    let a = world.born(1);
    let right = world.answer(a, "book", Kind::Execute, Outcome::Refused);
    let wrong: [fn(&mut Reply); 6] = [
        |r| r.step = "charge".to_owned(),
        |r| r.part = 1,
        |r| r.generation = 2,
        |r| r.slot += 1,
        |r| r.workflow = "journey".to_owned(),
        |r| r.workflow_version = 2,
    ];
    for change in wrong {
        let mut reply = right.clone();
        change(&mut reply);
        world.delivers(&reply);
    }
    world.answers(a, "book", Outcome::Succeeded);
    assert_eq!(run(&world, &engine).unwrap(), 7);
    let dead: Vec<i64> = world.state().dead.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(dead, [0, 1, 2, 3, 4, 5]);
    assert_eq!(world.saga(a).label, "BOOKED");
    assert_eq!(world.state().strays, []);
    assert!(world.log().ends_with(&["offsets".to_owned(), "note 1".to_owned()]));
    // Remembered or read, the result is the same.
    world.delivers(&Reply {
        step: "confirm".to_owned(),
        ..world.answer(a, "charge", Kind::Execute, Outcome::Refused)
    });
    run(&world, &engine).unwrap();
    assert_eq!(world.state().dead.len(), 7);
    assert_eq!(world.saga(a).label, "BOOKED");
}

#[test]
fn a_success_nobody_here_ordered_is_kept_and_other_answers_are_not() {
    let (world, engine) = World::new();
    let (a, gone) = (world.born(1), Uuid::from_u128(99));
    world.answers(gone, "charge", Outcome::Succeeded);
    world.answers(gone, "charge", Outcome::Refused);
    // A command of a step that this saga has not reached.
    world.answers(a, "confirm", Outcome::Succeeded);
    world.answers(a, "file", Outcome::Refused);
    world.answers(a, "book", Outcome::Succeeded);
    run(&world, &engine).unwrap();
    let strays: BTreeSet<_> = world.state().strays.iter().map(|s| s.saga_id).collect();
    assert_eq!(strays, BTreeSet::from([a, gone]));
    assert_eq!(world.state().dead, []);
    assert_eq!(world.saga(a).label, "BOOKED");
}

#[test]
fn a_reply_from_before_a_restore_is_ignored() {
    let (world, mut engine) = World::new();
    engine.epoch = 2;
    let a = world.born(1);
    let mut reply = world.answer(a, "book", Kind::Execute, Outcome::Succeeded);
    world.delivers(&reply);
    assert_eq!(run(&world, &engine).unwrap(), 1);
    assert_eq!((world.log(), world.saga(a).revision), (vec!["offsets".to_owned(), "note 1".to_owned()], 1));
    assert!(world.state().dead.is_empty());
    assert!(world.state().strays.is_empty());
    reply.epoch = 2;
    world.delivers(&reply);
    run(&world, &engine).unwrap();
    assert_eq!(world.saga(a).label, "BOOKED");
}

#[test]
fn a_reply_of_an_epoch_that_cannot_have_begun_is_dead_lettered() {
    let (world, engine) = World::new();
    let a = world.born(1);
    let begins = |at: DateTime<Utc>| u32::try_from(at.timestamp() - EPOCHS_FROM).unwrap();
    let early = begins(world.state().now) + 2 * 24 * 60 * 60;
    for epoch in [early, u32::MAX] {
        let answer = world.answer(a, "book", Kind::Execute, Outcome::Succeeded);
        world.delivers(&Reply { epoch, ..answer });
    }
    run(&world, &engine).unwrap();
    assert_eq!(world.log(), ["offsets", "note 1"]);
    assert_eq!((world.saga(a).revision, engine.epoch), (1, 1));
    let dead: Vec<(i64, String)> = world.state().dead.clone();
    assert_eq!(dead.len(), 2);
    assert!(dead[0].1.contains(&format!("epoch {early}")), "{dead:?}");
}

#[test]
fn a_reply_of_an_epoch_that_the_store_has_forgotten_begins_the_next_one_and_ends_the_engine() {
    let (world, mut engine) = World::new();
    let a = world.born(1);
    let answer = world.answer(a, "book", Kind::Execute, Outcome::Succeeded);
    world.delivers(&Reply { epoch: 7, ..answer.clone() });
    world.delivers(&answer);
    let error = run(&world, &engine).unwrap_err();
    assert!(matches!(error, runtime::Error::Store(port::Error::OtherEpoch(_))), "{error}");
    assert!(error.to_string().contains("commands of epoch 7"), "{error}");
    assert_eq!(world.log(), ["epoch", "begin epoch after 7", "rewind"]);
    assert_eq!((world.saga(a).revision, world.state().epoch), (1, 8));
    // Started again, it takes both for replies from before: the saga may still order what was done.
    engine.epoch = 8;
    run(&world, &engine).unwrap();
    assert_eq!(world.saga(a).revision, 1);
    assert!(world.state().dead.is_empty());
    assert!(world.state().strays.is_empty());
}

#[test]
fn a_reply_of_a_newer_epoch_ends_an_engine_whose_store_is_in_a_newer_one_too() {
    let (world, engine) = World::new();
    let (a, b) = (world.born(1), world.born(2));
    let newer = |saga| Reply { epoch: 7, ..world.answer(saga, "book", Kind::Execute, Outcome::Succeeded) };
    // The store was restored while this engine ran: it judges nothing more, whatever the epoch of the reply.
    world.state().epoch = 7;
    world.answers(b, "book", Outcome::Refused);
    world.delivers(&newer(a));
    let error = run(&world, &engine).unwrap_err();
    assert!(matches!(error, runtime::Error::Store(port::Error::OtherEpoch(_))), "{error}");
    assert_eq!((world.saga(a).label.as_str(), world.saga(b).label.as_str()), ("NEW", "NEW"));
    assert_eq!(world.log(), ["epoch", "rewind"]);
    assert!(world.state().dead.is_empty());
    // Started again, it judges what it had received.
    let mut engine = world.engine();
    engine.epoch = 7;
    run(&world, &engine).unwrap();
    assert_eq!((world.saga(a).label.as_str(), world.saga(b).label.as_str()), ("BOOKED", "NEW"));
}

#[test]
fn a_success_from_before_a_restore_is_a_stray_if_no_saga_here_has_ordered_it() {
    let (world, mut engine) = World::new();
    engine.epoch = 2;
    world.state().epoch = 2;
    let (alive, gone) = (world.born(1), Uuid::from_u128(99));
    // The saga was lost, the saga orders it, and the saga may still order it.
    world.answers(gone, "book", Outcome::Succeeded);
    world.answers(gone, "charge", Outcome::Refused);
    world.answers(alive, "book", Outcome::Succeeded);
    world.answers(alive, "charge", Outcome::Succeeded);
    run(&world, &engine).unwrap();
    let strays = || world.state().strays.iter().map(|stray| stray.saga_id).collect::<Vec<_>>();
    assert_eq!((strays(), world.saga(alive).revision, world.state().deferred.len()), (vec![gone], 1, 1));

    // It is judged once the saga has ended: on another way than before the restore.
    let again = || {
        world.passes(60);
        block_on(deferred::run_once(&engine)).unwrap()
    };
    assert_eq!((again(), strays(), world.state().deferred.len()), (1, vec![gone], 1));
    let refused = Reply { epoch: 2, ..world.answer(alive, "book", Kind::Execute, Outcome::Refused) };
    world.delivers(&refused);
    run(&world, &engine).unwrap();
    assert!(world.saga(alive).outcome.is_some());
    assert_eq!((again(), strays(), world.state().deferred.len()), (1, vec![gone, alive], 0));
}

#[test]
fn a_partition_counts_as_drained_only_once_what_was_there_is_handled() {
    let (world, engine) = World::new();
    let a = world.born(1);
    world.answers(a, "book", Outcome::Succeeded);
    world.state().store_fails.push_back(port::Error::Unavailable("restarting".to_owned()));
    assert!(run(&world, &engine).is_err());
    let (assignment, drained) = engine.ownership.now();
    assert_eq!((assignment.count, drained), (8, false));
    run(&world, &engine).unwrap();
    assert!(engine.ownership.now().1);
}
