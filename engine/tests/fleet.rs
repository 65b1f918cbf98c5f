//! What all live programs know decides in which version sagas are born, and by which rules they are written.

mod support;

use amends_engine::core::{CORE_VERSION, Catalog, Definition, Known};
use amends_engine::port::Error;
use amends_engine::runtime::{fleet, replies};
use amends_protocol::Outcome;
use support::stay;
use support::world::{TestEngine, World, block_on};
use uuid::Uuid;

const NEWER: Uuid = Uuid::from_u128(1);
const OLDER: Uuid = Uuid::from_u128(2);

/// A program that also knows the workflow's second version.
fn newer() -> (World, TestEngine) {
    let (world, mut engine) = World::new();
    let next = Definition { version: 2, ..stay() };
    engine.catalog = Catalog::new(vec![stay(), next]).unwrap();
    (world, engine)
}

fn refresh(engine: &TestEngine) {
    block_on(fleet::run_once(engine, NEWER)).unwrap();
}

/// The program announces itself every second.
fn hears_for(world: &World, engine: &TestEngine, seconds: usize) {
    for _ in 0..seconds {
        world.passes(1);
        refresh(engine);
    }
}

fn announce(world: &World, known: Known) {
    let now = world.state().now;
    world.state().programs.insert(OLDER, (now, known));
}

fn born_in(engine: &TestEngine) -> u32 {
    engine.born_in(stay().name).unwrap().version
}

#[test]
fn a_new_version_has_births_only_while_every_live_program_knows_it() {
    let (world, engine) = newer();
    assert_eq!(born_in(&engine), 2, "nobody else is there");
    let older = Known { workflows: vec![(stay().name.to_owned(), 1)], ..engine.known() };
    announce(&world, older.clone());
    refresh(&engine);
    assert_eq!(born_in(&engine), 1);
    hears_for(&world, &engine, 9);
    assert_eq!(born_in(&engine), 1, "it may still live");
    hears_for(&world, &engine, 1);
    assert_eq!(born_in(&engine), 2, "it has gone");
    announce(&world, older);
    refresh(&engine);
    assert_eq!(born_in(&engine), 1, "and is back");
}

#[test]
fn after_an_outage_of_the_store_the_first_to_announce_itself_takes_no_other_program_for_gone() {
    let (world, engine) = newer();
    let older = Known {
        workflows: vec![(stay().name.to_owned(), 1)],
        core_version: CORE_VERSION - 1,
        ..engine.known()
    };
    announce(&world, older.clone());
    refresh(&engine);
    let knows = |engine: &TestEngine| (born_in(engine), engine.fleet.core_version());
    assert_eq!(knows(&engine), (1, CORE_VERSION - 1));
    world.state().store_fails = vec![Error::Unavailable("the server is away".to_owned()); 30].into();
    for _ in 0..30 {
        world.passes(1);
        assert!(block_on(fleet::run_once(&engine, NEWER)).is_err());
    }
    world.passes(1);
    refresh(&engine);
    assert_eq!(knows(&engine), (1, CORE_VERSION - 1), "the other could not announce itself either");
    hears_for(&world, &engine, 9);
    assert_eq!(knows(&engine), (1, CORE_VERSION - 1), "it may have to connect again");
    hears_for(&world, &engine, 1);
    assert_eq!(knows(&engine), (2, CORE_VERSION), "it has not come back");
    // One that knows less, and joined during the outage, is believed at once.
    world.passes(30);
    announce(&world, older);
    refresh(&engine);
    assert_eq!(knows(&engine), (1, CORE_VERSION - 1));
}

#[test]
fn a_saga_is_decided_by_rules_that_all_know_and_never_by_older_ones_than_before() {
    let (world, engine) = World::new();
    let (old, new) = (world.born(1), world.born(1));
    world.state().sagas.get_mut(&old).unwrap().0.core_version = CORE_VERSION - 1;
    announce(&world, Known { core_version: CORE_VERSION - 1, ..engine.known() });
    refresh(&engine);
    for saga in [old, new] {
        world.answers(saga, "book", Outcome::Succeeded);
    }
    block_on(replies::run_once(&engine, &mut world.clone())).unwrap();
    let decided_by = |saga| {
        let (row, entries) = world.state().sagas[&saga].clone();
        assert_eq!(row.core_version, entries.last().unwrap().core_version);
        row.core_version
    };
    assert_eq!((decided_by(old), decided_by(new)), (CORE_VERSION - 1, CORE_VERSION));
    world.state().programs.clear();
    refresh(&engine);
    world.answers(old, "charge", Outcome::Succeeded);
    block_on(replies::run_once(&engine, &mut world.clone())).unwrap();
    assert_eq!(decided_by(old), CORE_VERSION, "once all know them");
}
