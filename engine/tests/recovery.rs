//! The recovery loop, over a world in memory: what a slot's former owner may not have sent is sent again, once.

mod support;

use amends_engine::core::SagaState;
use amends_engine::port;
use amends_engine::runtime::recovery::Recovery;
use amends_engine::runtime::{self, replies};
use amends_protocol::Outcome;
use amends_protocol::transport::Assignment;
use support::world::{TestEngine, World, block_on, own};

fn recover(recovery: &mut Recovery, engine: &TestEngine) -> usize {
    block_on(recovery.run_once(engine)).unwrap()
}

#[test]
fn recovery_sends_gained_slots_once_and_only_after_they_are_drained() {
    let (world, engine) = World::new();
    let (a, b) = (world.born(1), world.born(2));
    let mut recovery = Recovery::default();
    assert_eq!(recover(&mut recovery, &engine), 0, "nothing is owned yet");

    // Waiting messages of the partition are processed first: `a` has its answer, and its next command was sent.
    world.answers(a, "book", Outcome::Succeeded);
    world.state().store_fails.push_back(port::Error::Unavailable("restarting".to_owned()));
    world.state().assignment = Assignment { generation: 7, partitions: vec![1], count: 8 };
    assert!(block_on(replies::run_once(&engine, &mut world.clone())).is_err());
    assert_eq!(recover(&mut recovery, &engine), 0, "not drained");
    block_on(replies::run_once(&engine, &mut world.clone())).unwrap();
    world.sent();
    assert_eq!(recover(&mut recovery, &engine), 1);
    assert_eq!(world.sent(), [(a, "charge execute".to_owned())]);
    assert_eq!(recover(&mut recovery, &engine), 0, "once");

    own(&world, &engine, &[1, 2]);
    assert_eq!(recover(&mut recovery, &engine), 1, "only what was gained");
    assert_eq!(world.sent(), [(b, "book execute".to_owned())]);
    assert_eq!(world.saga(b).revision, 1, "no row changes");

    // Lost and gained again: another process owned it in between.
    own(&world, &engine, &[1]);
    recover(&mut recovery, &engine);
    own(&world, &engine, &[1, 2]);
    assert_eq!(recover(&mut recovery, &engine), 1);
    assert_eq!(world.sent(), [(b, "book execute".to_owned())]);
}

#[test]
fn recovery_that_fails_starts_over() {
    let (world, engine) = World::new();
    let a = world.born(1);
    own(&world, &engine, &[1]);
    world.state().send_fails = 1;
    let mut recovery = Recovery::default();
    assert!(matches!(block_on(recovery.run_once(&engine)), Err(runtime::Error::Transport(_))));
    assert_eq!(recover(&mut recovery, &engine), 1);
    assert_eq!(world.sent(), [(a, "book execute".to_owned())]);
}

#[test]
fn recovery_leaves_alone_what_is_old_parked_or_settled() {
    let (world, engine) = World::new();
    let (old, settled, parked) = (world.born(1), world.born(1), world.born(1));
    world.passes(31);
    let fresh = world.born(1);
    world.answers(settled, "book", Outcome::Refused);
    own(&world, &engine, &[1]);
    world.state().poison.insert(parked);
    world.answers(parked, "book", Outcome::Succeeded);
    block_on(replies::run_once(&engine, &mut world.clone())).unwrap();
    assert_eq!(world.saga(parked).state(), SagaState::Parked);
    assert_eq!(recover(&mut Recovery::default(), &engine), 1);
    assert_eq!(world.sent(), [(fresh, "book execute".to_owned())]);
    assert!(world.saga(old).live);
}
