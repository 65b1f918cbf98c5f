//! The timers of a database whose clock is set back, over a world in memory: no saga sleeps longer for it.

mod support;

use amends_engine::runtime::replies;
use amends_engine::runtime::timers::{BATCH, Timers};
use amends_protocol::Outcome;
use chrono::TimeDelta;
use support::world::{TestEngine, World, block_on, own};

fn look(timers: &mut Timers, engine: &TestEngine) -> usize {
    block_on(timers.run_once(engine)).unwrap()
}

/// Sets the database's clock back; the monotonic clock runs on.
fn set_back(world: &World, by: TimeDelta) {
    let mut state = world.state();
    state.now -= by;
    state.set_back += by;
}

#[test]
fn a_clock_that_is_set_back_by_hours_puts_no_timer_off_by_hours() {
    let (world, engine) = World::new();
    own(&world, &engine, &[0, 1, 2, 3, 4, 5, 6, 7]);
    let (a, b) = (world.born(1), world.born(2));
    world.answers(b, "book", Outcome::FailedTransient);
    block_on(replies::run_once(&engine, &mut world.clone())).unwrap();
    let mut timers = Timers::default();
    assert_eq!(look(&mut timers, &engine), 0);
    set_back(&world, TimeDelta::hours(2));
    assert_eq!(look(&mut timers, &engine), 0, "noticed, and their alarms set anew");
    assert_eq!(look(&mut timers, &engine), 2);
    let mut sent = world.sent();
    sent.sort();
    let mut expected = [(a, "book execute".to_owned()), (b, "book execute".to_owned())];
    expected.sort();
    assert_eq!(sent, expected);
    // And from there on, by the present clock.
    world.passes(10);
    assert_eq!(look(&mut timers, &engine), 2);
    assert!(world.sent().contains(&(a, "book probe".to_owned())));
    assert!(world.saga(a).wake_at.unwrap() < world.state().now + TimeDelta::minutes(2));
}

#[test]
fn an_engine_that_starts_after_the_clock_was_set_back_finds_who_would_oversleep() {
    let (world, engine) = World::new();
    own(&world, &engine, &[1]);
    let many: Vec<_> = (0..BATCH + 10).map(|_| world.born(1)).collect();
    set_back(&world, TimeDelta::hours(2));
    let mut timers = Timers::default();
    for _ in 0..2 {
        assert!((0..100).any(|_| look(&mut timers, &engine) == 0), "it looks and looks");
        world.passes(1);
    }
    let limit = world.state().now + TimeDelta::minutes(2);
    assert!(many.iter().all(|saga| world.saga(*saga).wake_at.unwrap() < limit));
}

#[test]
fn who_would_oversleep_because_its_owner_does_not_know_its_workflow_is_woken_by_another_engine() {
    for partitions in [&[2][..], &[]] {
        let (world, engine) = World::new();
        own(&world, &engine, partitions);
        let (a, mut timers) = (world.born(1), Timers::default());
        assert_eq!(look(&mut timers, &engine), 0);
        let slept_until = world.saga(a).wake_at;
        set_back(&world, TimeDelta::hours(2));
        world.passes(5);
        look(&mut timers, &engine);
        assert_eq!(world.saga(a).wake_at, slept_until, "first it is its owner's");
        world.passes(5);
        look(&mut timers, &engine);
        assert!(world.saga(a).wake_at.unwrap() < world.state().now + TimeDelta::minutes(2));
    }
}

#[test]
fn the_promise_that_a_saga_ends_in_time_stays_where_it_is() {
    let (world, engine) = World::new();
    own(&world, &engine, &[1]);
    let a = world.born(1);
    let promised = world.saga(a).state.timeout_at;
    set_back(&world, TimeDelta::hours(2));
    let mut timers = Timers::default();
    look(&mut timers, &engine);
    look(&mut timers, &engine);
    assert!(promised.is_some());
    assert_eq!(world.saga(a).state.timeout_at, promised);

    // A saga with nothing but its timeout sleeps until then.
    world.state().poison.insert(a);
    world.answers(a, "book", Outcome::Succeeded);
    block_on(replies::run_once(&engine, &mut world.clone())).unwrap();
    world.passes(10);
    look(&mut timers, &engine);
    assert_eq!(world.saga(a).wake_at, promised);
    own(&world, &engine, &[1, 2]);
    look(&mut timers, &engine);
    assert_eq!(world.saga(a).wake_at, promised);
}
