//! A process dies between two of its actions. Dropping a loop's future at an await is such a crash: what was committed
//! stays, the next action does not happen, and another process knows nothing of it.

mod support;

use amends_engine::runtime::{recovery::Recovery, replies, timers::Timers};
use amends_protocol::Outcome;
use futures::FutureExt;
use support::world::{TestEngine, World, block_on};
use uuid::Uuid;

/// Creates a saga whose first step has succeeded, and whose engine died after the commit and before it produced the
/// next command.
fn dead_between_commit_and_produce() -> (World, Uuid) {
    let (world, engine) = World::new();
    let saga = world.born(1);
    world.answers(saga, "book", Outcome::Succeeded);
    world.state().dies_before_send = true;
    let died = replies::run_once(&engine, &mut world.clone()).now_or_never();
    assert!(died.is_none(), "it died before it was done");
    assert_eq!(world.log(), ["commit 1"]);
    assert_eq!(world.sent(), [], "nothing went out");
    // Its offsets have not moved: its successor reads the same replies again.
    world.state().read_to = 0;
    (world, saga)
}

fn take_replies(world: &World, engine: &TestEngine) {
    block_on(replies::run_once(engine, &mut world.clone())).unwrap();
}

#[test]
fn a_crash_between_commit_and_produce_is_made_good_by_the_timer_and_the_command_goes_out_once() {
    let (world, saga) = dead_between_commit_and_produce();
    let successor = world.engine();
    take_replies(&world, &successor);
    assert_eq!(world.log(), ["offsets", "note 1"], "the reply is known: nothing of it is written or sent");
    let mut timers = Timers::default();
    world.passes(4);
    block_on(timers.run_once(&successor)).unwrap();
    assert_eq!(world.sent(), [], "it is not due yet");
    world.passes(1);
    block_on(timers.run_once(&successor)).unwrap();
    assert_eq!(world.sent(), [(saga, "charge execute".to_owned())]);
    block_on(timers.run_once(&successor)).unwrap();
    assert_eq!(world.sent(), []);
}

#[test]
fn a_crash_between_commit_and_produce_is_made_good_by_recovery_before_the_timer_is_due() {
    let (world, saga) = dead_between_commit_and_produce();
    let successor = world.engine();
    take_replies(&world, &successor);
    // The partition is drained.
    take_replies(&world, &successor);
    assert_eq!(block_on(Recovery::default().run_once(&successor)).unwrap(), 1);
    assert_eq!(world.sent(), [(saga, "charge execute".to_owned())]);
}
