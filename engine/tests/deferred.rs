//! Replies that cannot be judged on arrival: stored before their offsets move, and judged by an engine that can.

mod support;

use amends_engine::core::{Actor, Catalog, Definition, Event};
use amends_engine::port::{self, Deferral};
use amends_engine::runtime::{self, deferred, replies};
use amends_protocol::Outcome;
use amends_protocol::transport::Assignment;
use support::stay;
use support::world::{TestEngine, World, block_on};
use uuid::Uuid;

fn take(world: &World, engine: &TestEngine) {
    block_on(replies::run_once(engine, &mut world.clone())).unwrap();
}

fn drain(engine: &TestEngine) -> usize {
    block_on(deferred::run_once(engine)).unwrap()
}

fn why(world: &World) -> Vec<Deferral> {
    world.state().deferred.values().map(|(_, reply)| reply.why).collect()
}

fn set_version(world: &World, saga: Uuid, version: u32) {
    world.state().sagas.get_mut(&saga).unwrap().0.workflow_version = version;
}

#[test]
fn a_reply_for_a_workflow_that_is_not_known_here_is_kept_before_its_offset_moves() {
    let (world, engine) = World::new();
    let newer = world.born(1);
    set_version(&world, newer, 2);
    let at = world.saga(newer).wake_at;
    world.answers(newer, "book", Outcome::Succeeded);
    take(&world, &engine);
    assert_eq!(world.log(), ["defer 1", "offsets"]);
    assert_eq!(why(&world), [Deferral::UnknownWorkflow]);
    assert_eq!(world.saga(newer).wake_at, at);
    let state = world.state();
    assert!(state.dead.is_empty() && state.strays.is_empty());
}

#[test]
fn an_engine_that_knows_the_workflow_judges_what_another_has_kept_whoever_owns_the_slot() {
    let (world, engine) = World::new();
    let newer = world.born(1);
    set_version(&world, newer, 2);
    world.answers(newer, "book", Outcome::Succeeded);
    take(&world, &engine);
    assert_eq!(drain(&engine), 0, "this engine does not know it");
    // Another engine does. The slot is not its own.
    let mut engine = world.engine();
    let next = Definition { version: 2, ..stay() };
    engine.catalog = Catalog::new(vec![stay(), next]).unwrap();
    world.state().assignment = Assignment { generation: 2, partitions: vec![0], count: 8 };
    take(&world, &engine);
    assert_eq!(drain(&engine), 0, "for a second it is left to the slot's owner");
    world.passes(1);
    assert_eq!(drain(&engine), 1);
    assert_eq!(world.sent(), [(newer, "charge execute".to_owned())]);
    assert!(world.state().deferred.is_empty());
    assert_eq!(drain(&engine), 0);
}

#[test]
fn a_reply_for_a_row_that_a_newer_program_wrote_is_kept_and_is_no_stray() {
    let (world, engine) = World::new();
    let (newer, a) = (world.born(1), world.born(1));
    world.state().newer.insert(newer);
    for saga in [newer, a] {
        world.answers(saga, "book", Outcome::Succeeded);
    }
    take(&world, &engine);
    assert_eq!(world.sent(), [(a, "charge execute".to_owned())]);
    assert_eq!(why(&world), [Deferral::Unreadable]);
    assert!(world.state().strays.is_empty() && world.state().dead.is_empty());
}

#[test]
fn a_reply_for_a_row_that_is_held_is_kept_and_judged_once_the_row_is_free() {
    let (world, engine) = World::new();
    let (held, a) = (world.born(1), world.born(1));
    world.state().locked.insert(held);
    for saga in [held, held, a] {
        world.answers(saga, "book", Outcome::Succeeded);
    }
    take(&world, &engine);
    assert_eq!(world.log(), ["commit 1", "send 1", "defer 1", "offsets"], "what came twice is kept once");
    assert_eq!(world.sent(), [(a, "charge execute".to_owned())]);
    world.passes(1);
    assert_eq!(drain(&engine), 1);
    assert_eq!(why(&world), [Deferral::Locked], "it is still held");
    assert_eq!(drain(&engine), 0, "and rests");
    world.state().locked.clear();
    world.passes(5);
    assert_eq!(drain(&engine), 1);
    assert_eq!(world.sent(), [(held, "charge execute".to_owned())]);
    assert!(world.state().deferred.is_empty());
}

#[test]
fn what_is_kept_is_forgotten_only_after_what_it_led_to_is_committed() {
    let (world, engine) = World::new();
    let held = world.born(1);
    world.state().locked.insert(held);
    world.answers(held, "book", Outcome::Succeeded);
    take(&world, &engine);
    world.state().locked.clear();
    world.passes(1);
    world.log();
    world.state().store_fails.push_back(port::Error::Unavailable("restarting".to_owned()));
    assert!(block_on(deferred::run_once(&engine)).is_err());
    assert_eq!(world.log(), [""; 0]);
    assert_eq!(world.state().deferred.len(), 1);
    // A command that cannot be sent stands in the row.
    world.state().send_fails = 1;
    assert_eq!(drain(&engine), 1);
    assert_eq!(world.log(), ["commit 1", "forget 1"]);
    assert_eq!(world.saga(held).label, "BOOKED");
}

#[test]
fn offsets_stay_where_what_is_passed_over_cannot_be_kept() {
    let (world, engine) = World::new();
    let newer = world.born(1);
    world.state().newer.insert(newer);
    world.answers(newer, "book", Outcome::Succeeded);
    let fails = port::Error::Unavailable("away".to_owned());
    // The read succeeds, and storing the reply fails.
    world.state().defer_fails.push_back(fails);
    assert!(block_on(replies::run_once(&engine, &mut world.clone())).is_err());
    assert_eq!(world.log(), ["rewind"]);
    take(&world, &engine);
    assert_eq!(world.log(), ["defer 1", "offsets"]);
}

#[test]
fn a_message_that_cannot_be_stored_waits_where_its_saga_cannot_be_parked() {
    let (world, engine) = World::new();
    let bad = world.born(1);
    world.state().poison.insert(bad);
    world.state().locked.insert(bad);
    world.answers(bad, "book", Outcome::Succeeded);
    take(&world, &engine);
    assert!(world.state().dead.is_empty(), "nobody would know that its saga is to be parked");
    assert_eq!(why(&world), [Deferral::Locked]);
    world.state().locked.clear();
    world.passes(1);
    drain(&engine);
    assert_eq!(world.state().dead.len(), 1);
    assert!(world.saga(bad).parked);
}

#[test]
fn through_a_door_what_cannot_be_judged_here_and_now_is_an_error_and_changes_nothing() {
    let (world, engine) = World::new();
    let (held, newer, unknown) = (world.born(1), world.born(1), world.born(1));
    world.state().locked.insert(held);
    world.state().newer.insert(newer);
    set_version(&world, unknown, 2);
    for (saga, why) in
        [(held, Deferral::Locked), (newer, Deferral::Unreadable), (unknown, Deferral::UnknownWorkflow)]
    {
        let cancel = Event::CancelRequested(Actor::new("guest", ""));
        match block_on(runtime::apply::apply(&engine, saga, cancel)) {
            Err(runtime::Error::PassedOver(id, said)) => assert_eq!((id, said), (saga, why)),
            other => panic!("{other:?}"),
        }
        assert_eq!(world.saga(saga).revision, 1);
    }
}

#[test]
fn a_part_of_the_store_that_is_away_stops_no_other_and_its_replies_are_judged_once_it_is_back() {
    for remembered in [false, true] {
        let (world, engine) = World::new();
        world.state().parts = 2;
        let (here, there) = (world.born(2), world.born(3));
        if remembered {
            // Both rows are in the engine's memory: only the write fails.
            for saga in [here, there] {
                world.answers(saga, "book", Outcome::Succeeded);
            }
            take(&world, &engine);
            world.sent();
        }
        let step = if remembered { "charge" } else { "book" };
        world.log();
        world.state().away.insert(1);
        for saga in [there, here] {
            world.answers(saga, step, Outcome::Succeeded);
        }
        take(&world, &engine);
        let log = world.log();
        assert_eq!(log.first().map(String::as_str), Some("commit 1"), "{log:?}");
        assert_eq!(&log[log.len() - 2..], ["defer 1", "offsets"]);
        assert!(world.sent().iter().all(|(saga, _)| *saga == here));
        assert_eq!(why(&world), [Deferral::Unreachable]);
        world.passes(1);
        assert_eq!(drain(&engine), 1);
        assert_eq!(why(&world), [Deferral::Unreachable], "it is still away");
        world.state().away.clear();
        world.passes(5);
        assert_eq!(drain(&engine), 1);
        assert!(world.state().deferred.is_empty());
        assert_eq!(world.saga(there).revision, world.saga(here).revision);
    }
}

#[test]
fn replies_that_all_belong_to_a_part_that_is_away_do_not_come_again_and_again() {
    let (world, engine) = World::new();
    world.state().parts = 2;
    let there = world.born(3);
    world.state().away.insert(1);
    world.answers(there, "book", Outcome::Succeeded);
    take(&world, &engine);
    assert_eq!(world.log(), ["defer 1", "offsets"]);
}

#[test]
fn what_one_part_of_the_store_cannot_store_keeps_back_no_command_of_another() {
    let (world, engine) = World::new();
    world.state().parts = 2;
    let (here, beside, bad) = (world.born(2), world.born(3), world.born(3));
    world.state().poison.insert(bad);
    for saga in [here, beside, bad] {
        world.answers(saga, "book", Outcome::Succeeded);
    }
    take(&world, &engine);
    let sent = world.sent();
    for saga in [here, beside] {
        assert!(sent.contains(&(saga, "charge execute".to_owned())), "{sent:?}");
    }
    assert!(world.saga(bad).parked);
    assert_eq!(world.odd(here), []);
}

#[test]
fn a_message_that_cannot_be_stored_waits_where_its_part_of_the_store_is_away() {
    let (world, engine) = World::new();
    world.state().parts = 2;
    let bad = world.born(3);
    world.state().poison.insert(bad);
    world.state().goes_after_commits = Some((1, 1));
    world.answers(bad, "book", Outcome::Succeeded);
    take(&world, &engine);
    assert!(world.state().dead.is_empty(), "nobody would know that its saga is to be parked");
    assert_eq!(why(&world), [Deferral::Unreachable]);
    world.state().away.clear();
    world.passes(1);
    drain(&engine);
    assert_eq!(world.state().dead.len(), 1);
    assert!(world.saga(bad).parked);
}
