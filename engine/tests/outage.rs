//! Commands that cannot be sent, and participants that do not answer: they do not delay other sagas, and are served in
//! the order of their promises.

mod support;

use std::collections::BTreeSet;

use amends_engine::core::{Catalog, Definition, SagaState};
use amends_engine::port::DueShare;
use amends_engine::runtime::recovery::Recovery;
use amends_engine::runtime::replies;
use amends_engine::runtime::timers::{BATCH, Timers};
use amends_protocol::{Kind, Outcome};
use chrono::TimeDelta;
use support::world::{TestEngine, World, block_on};
use uuid::Uuid;

fn look(timers: &mut Timers, engine: &TestEngine) -> usize {
    block_on(timers.run_once(engine)).unwrap()
}

fn hear(world: &World, engine: &TestEngine) {
    block_on(replies::run_once(engine, &mut world.clone())).unwrap();
}

/// Returns the sagas whose commands were sent since the last call.
fn sent(world: &World) -> BTreeSet<Uuid> {
    world.sent().into_iter().map(|(saga, _)| saga).collect()
}

/// The worker answers this step of these sagas as soon as it receives the commands.
fn answers(world: &World, engine: &TestEngine, sagas: &BTreeSet<Uuid>, step: &str) {
    sagas.iter().for_each(|saga| world.answers(*saga, step, Outcome::Succeeded));
    hear(world, engine);
}

/// Ten stays per second are born for this long, while nothing can be sent. One process owns all slots.
fn ten_a_second_while_the_broker_is_away(
    world: &World,
    engine: &TestEngine,
    timers: &mut Timers,
    seconds: usize,
) -> Vec<Uuid> {
    world.state().send_fails = u32::MAX;
    let mut stays = Vec::new();
    for _ in 0..seconds {
        stays.extend((0..10).map(|slot| world.born(slot)));
        world.passes(1);
        look(timers, engine);
    }
    world.state().send_fails = 0;
    assert_eq!(sent(world), BTreeSet::new());
    stays
}

#[test]
fn what_cannot_be_sent_costs_nothing_changes_no_row_and_goes_out_by_the_nearest_promise_once_it_can() {
    let (world, engine) = World::new();
    hear(&world, &engine);
    let mut timers = Timers::default();
    let stays = ten_a_second_while_the_broker_is_away(&world, &engine, &mut timers, 200);
    let written: usize = stays.iter().map(|stay| world.saga(*stay).revision as usize - 1).sum();
    assert!(written <= 10, "only those who were the first to find out: {written} entries");

    // One message shows that sending works again. From then on each answer pays for the next repetition.
    let (mut order, mut looks) = (Vec::new(), 0);
    while order.len() < stays.len() && looks < 100 {
        if looks == 0 {
            world.passes(5);
        }
        look(&mut timers, &engine);
        let sent = sent(&world);
        answers(&world, &engine, &sent, "book");
        // Commands that follow from the answers do not count.
        world.sent();
        order.extend(sent);
        looks += 1;
    }
    assert!(looks <= 2 + stays.len() / 200 * 2, "{looks} looks for {} of {}", order.len(), stays.len());
    let astray =
        |(place, stay): (usize, &Uuid)| stays.iter().position(|s| s == stay).unwrap().abs_diff(place);
    let astray = order.iter().enumerate().filter(|at| astray(*at) > BATCH as usize).count();
    assert!(astray <= stays.len() / 100, "{astray} went out far from their places");
    assert!(stays.iter().all(|stay| world.saga(*stay).state() != SagaState::Compensating));
}

#[test]
fn a_batch_that_could_not_be_sent_is_paid_back() {
    let (world, engine) = World::new();
    hear(&world, &engine);
    for _ in 0..200 {
        world.born(1);
    }
    world.passes(5);
    world.state().send_fails = 1;
    let mut timers = Timers::default();
    assert_eq!(look(&mut timers, &engine), 200);
    assert_eq!(sent(&world).len(), 0);
    // Another loop notices that messages can be sent again.
    let other = world.born(1);
    answers(&world, &engine, &BTreeSet::from([other]), "book");
    assert_eq!(sent(&world), BTreeSet::from([other]));
    let later: Vec<_> = (0..200).map(|_| world.born(1)).collect();
    world.passes(5);
    look(&mut timers, &engine);
    let sent = sent(&world);
    assert!(sent.len() >= 200, "{}", sent.len());
    assert!(later.iter().filter(|stay| sent.contains(stay)).count() < 10, "the nearest promise first");
}

#[test]
fn what_is_due_overtakes_none_with_a_nearer_promise_while_the_store_is_read() {
    let (world, engine) = World::new();
    hear(&world, &engine);
    let early: BTreeSet<_> = (0..400).map(|_| world.born(1)).collect();
    world.passes(2);
    let later: BTreeSet<_> = (0..100).map(|_| world.born(1)).collect();
    world.passes(3);
    let mut timers = Timers::default();
    look(&mut timers, &engine);
    assert_eq!((sent(&world).len(), timers.put_off()), (200, 200), "all of them early");
    world.passes(2);
    // 20 of the early ones can be paid for now, and 20 more once those that are due have been read: the later ones.
    world.state().reading_takes = TimeDelta::seconds(1);
    look(&mut timers, &engine);
    let sent = sent(&world);
    assert!(sent.is_subset(&early), "{} of the later ones", sent.intersection(&later).count());
    assert!(sent.len() >= 20, "{}", sent.len());
}

/// The same stay, charged by a bank.
fn with_a_bank() -> Definition {
    let mut stay = support::stay();
    let charge = stay.steps.iter_mut().find(|step| step.name == "charge").unwrap();
    charge.participant = "bank";
    stay
}

#[test]
fn very_many_who_wait_for_one_participant_do_not_delay_the_others() {
    let (world, mut engine) = World::new();
    engine.catalog = Catalog::new(vec![with_a_bank()]).unwrap();
    hear(&world, &engine);
    let waiting: BTreeSet<_> = (0..5_000).map(|n| world.born(n % 1024)).collect();
    answers(&world, &engine, &waiting, "book");
    while block_on(replies::run_once(&engine, &mut world.clone())).unwrap() > 0 {}
    world.sent();
    let promised = world.born(1);
    world.passes(3_600);
    let other = world.born(1);
    world.passes(5);
    // All of them are overdue, and for longer than the other.
    let (mut timers, mut looks) = (Timers::default(), 0);
    while looks < 100 && !sent(&world).contains(&other) {
        look(&mut timers, &engine);
        looks += 1;
    }
    assert!(looks <= 2, "{looks} looks");
    assert_eq!(world.saga(promised).state(), SagaState::Compensating, "a promise is kept as well");
    let apart = |scan: &amends_engine::port::DueScan| matches!(scan.share, DueShare::NotAt(_));
    assert!(world.state().scans.iter().any(apart));

    let rests = (0..1_000).any(|_| look(&mut timers, &engine) < BATCH as usize);
    assert!(rests, "it looks and looks");
    let now = world.state().now;
    let overdue = |stay: &&Uuid| world.saga(**stay).wake_at.is_some_and(|at| at <= now);
    assert_eq!(waiting.iter().filter(overdue).count(), 0, "all are put off");
    let last = waiting.iter().filter_map(|stay| world.saga(*stay).wake_at).max().unwrap();
    assert!(last - now >= TimeDelta::seconds(8), "and do not come back all at once: {}", last - now);
    world.state().scans.clear();
    look(&mut timers, &engine);
    assert!(world.state().scans.iter().all(|scan| scan.share == DueShare::All), "one look again");
}

#[test]
fn a_topic_that_cannot_be_produced_to_stops_nobody_elses_commands() {
    let (world, mut engine) = World::new();
    engine.catalog = Catalog::new(vec![with_a_bank()]).unwrap();
    hear(&world, &engine);
    let (charged, mute) = (world.born(1), world.born(1));
    answers(&world, &engine, &BTreeSet::from([charged]), "book");
    world.sent();
    world.state().unusable.insert("bank.commands".to_owned());
    let mut timers = Timers::default();
    let (mut unpaid, mut sent) = (Vec::new(), Vec::new());
    for second in 0..30 {
        unpaid.push(world.born(1));
        world.answers(*unpaid.last().unwrap(), "book", Outcome::Succeeded);
        if second == 10 {
            world.answers(charged, "charge", Outcome::Succeeded);
        }
        world.log();
        hear(&world, &engine);
        assert_eq!(world.log().last().unwrap(), "offsets", "second {second}");
        look(&mut timers, &engine);
        sent.extend(world.sent().into_iter().map(|(stay, command)| (stay, second, command)));
        world.passes(1);
    }
    let of = |stay| sent.iter().filter(move |(of, ..)| *of == stay).map(|(_, at, what)| (*at, what.as_str()));
    assert_eq!(of(charged).next(), Some((10, "confirm execute")), "what follows from others' answers");
    let repeated: Vec<_> = of(mute).take(2).collect();
    assert_eq!(repeated, [(5, "book execute"), (10, "book probe")], "others' repetitions");
    assert!(sent.iter().all(|(.., command)| !command.starts_with("charge")), "{sent:?}");
    assert!(unpaid.iter().all(|stay| world.saga(*stay).revision == 2), "no row is changed");

    world.state().unusable.clear();
    world.passes(6);
    let mut order = Vec::new();
    for _ in 0..3 {
        look(&mut timers, &engine);
        let charges = world.sent().into_iter().filter(|(_, command)| command.starts_with("charge"));
        order.extend(charges.map(|(stay, _)| stay));
    }
    // The one that found out comes twice.
    order.dedup();
    assert_eq!(order, unpaid, "by the nearest promise, and it has cost nothing");
    assert!(unpaid.iter().all(|stay| world.saga(*stay).state() != SagaState::Compensating));
}

#[test]
fn while_a_topic_cannot_be_produced_to_for_long_only_a_try_now_and_then_waits_for_it() {
    let (world, mut engine) = World::new();
    engine.catalog = Catalog::new(vec![with_a_bank()]).unwrap();
    hear(&world, &engine);
    world.state().unusable.insert("bank.commands".to_owned());
    let next = || {
        let stay = world.born(1);
        world.answers(stay, "book", Outcome::Succeeded);
        let before = world.state().refused;
        hear(&world, &engine);
        world.state().refused - before
    };
    assert_eq!((next(), next()), (1, 1), "at first it may be an accident");
    world.passes(5);
    assert_eq!((next(), next()), (1, 0));
    world.passes(2);
    assert_eq!(next(), 0);
    world.passes(1);
    assert_eq!((next(), next()), (1, 0));
    // Any command shows that it works again.
    world.state().unusable.clear();
    world.passes(3);
    assert_eq!((next(), next(), world.sent().len()), (0, 0, 2));
}

#[test]
fn what_was_put_off_goes_out_as_soon_as_answers_pay_for_it_and_not_when_it_is_due_again() {
    let (world, engine) = World::new();
    hear(&world, &engine);
    let stays: Vec<_> = (0..1_000).map(|_| world.born(1)).collect();
    let mut timers = Timers::default();
    world.passes(5);
    look(&mut timers, &engine);
    look(&mut timers, &engine);
    let mut repeated = sent(&world);
    assert_eq!(repeated.len(), 200);
    assert_eq!(timers.put_off(), 800);
    for _ in 0..4 {
        answers(&world, &engine, &repeated, "book");
        world.sent();
        look(&mut timers, &engine);
        repeated = sent(&world);
        assert_eq!(repeated.len(), 200, "at the same instant");
    }
    assert_eq!(timers.put_off(), 0);
    assert!(stays.iter().filter(|stay| !repeated.contains(stay)).all(|s| world.saga(*s).label == "BOOKED"));
    // A saga that was answered meanwhile is not probed.
    let put_off = world.answer(stays[0], "charge", Kind::Execute, Outcome::Succeeded);
    world.delivers(&put_off);
    hear(&world, &engine);
    assert_eq!(look(&mut timers, &engine), 0);
}

#[test]
fn after_an_outage_a_new_owner_leaves_to_the_timers_what_was_not_sent() {
    let (world, engine) = World::new();
    hear(&world, &engine);
    let mut timers = Timers::default();
    ten_a_second_while_the_broker_is_away(&world, &engine, &mut timers, 30);
    let recovered = || block_on(Recovery::default().run_once(&engine)).unwrap();
    assert_eq!((recovered(), sent(&world)), (0, BTreeSet::new()), "the newest would go first");
    world.passes(3);
    while sent(&world).len() < 200 {
        look(&mut timers, &engine);
    }
    assert_eq!(recovered(), 0, "nor does it overtake those that wait");
    world.passes(30);
    let later = world.born(1);
    world.sent();
    assert_eq!((recovered(), sent(&world)), (1, BTreeSet::from([later])));
}
