//! The timers, over a world in memory: nothing early, nothing forgotten, nothing twice.

mod support;

use amends_engine::core::{Event, SagaState};
use amends_engine::runtime::replies;
use amends_engine::runtime::timers::{BATCH, Timers};
use amends_protocol::{Kind, Outcome, SLOTS};
use chrono::TimeDelta;
use support::world::{TestEngine, World, block_on, own};

fn look(timers: &mut Timers, engine: &TestEngine) -> usize {
    block_on(timers.run_once(engine)).unwrap()
}

#[test]
fn nothing_is_early_and_what_is_due_is_done_once() {
    let (world, engine) = World::new();
    own(&world, &engine, &[0, 1, 2, 3, 4, 5, 6, 7]);
    let a = world.born(1);
    let mut timers = Timers::default();
    world.passes(4);
    assert_eq!(look(&mut timers, &engine), 0);
    world.passes(1);
    assert_eq!(look(&mut timers, &engine), 1);
    assert_eq!(world.sent(), [(a, "book execute".to_owned())]);
    assert_eq!(look(&mut timers, &engine), 0);
    world.passes(5);
    assert_eq!(look(&mut timers, &engine), 1);
    assert_eq!(world.sent(), [(a, "book probe".to_owned())]);
}

#[test]
fn a_slow_read_makes_nothing_early() {
    let (world, engine) = World::new();
    own(&world, &engine, &[0, 1, 2, 3, 4, 5, 6, 7]);
    let a = world.born(1);
    world.passes(5);
    // Another process writes in between, so that the saga is read again, slowly: its deadline has not passed by the
    // time of that read.
    let unsupported = world.answer(a, "book", Kind::Compensate, Outcome::Unsupported);
    world.state().rivals.push_back((a, Event::Replied(unsupported.into())));
    world.state().reading_takes = TimeDelta::seconds(3);
    look(&mut Timers::default(), &engine);
    let woke = world.state().sagas[&a].1.last().unwrap().occurrence.clone();
    assert_eq!(woke.event, Event::Woke);
    assert_eq!(woke.at, world.saga(a).born_at + TimeDelta::seconds(8), "the time of the second read");
    assert_eq!(world.sent(), [(a, "book execute".to_owned())]);
}

#[test]
fn a_look_that_finds_nothing_due_raises_the_alarm_and_writes_no_entry() {
    let (world, engine) = World::new();
    own(&world, &engine, &[1]);
    let a = world.born(1);
    let at = world.saga(a).wake_at;
    world.answers(a, "book", Outcome::Succeeded);
    block_on(replies::run_once(&engine, &mut world.clone())).unwrap();
    world.passes(1);
    world.answers(a, "charge", Outcome::Succeeded);
    block_on(replies::run_once(&engine, &mut world.clone())).unwrap();
    assert_eq!(world.saga(a).wake_at, at, "an answer leaves the alarm where it is");
    world.passes(4);
    assert_eq!(look(&mut Timers::default(), &engine), 1);
    let saga = world.saga(a);
    assert_eq!((saga.revision, saga.wake_at), (3, at.map(|at| at + TimeDelta::seconds(1))));
}

#[test]
fn a_full_batch_keeps_looking_and_forgets_none() {
    let (world, engine) = World::new();
    own(&world, &engine, &[1]);
    let many = BATCH as usize * 2 + 10;
    let first = world.born(1);
    world.passes(1);
    for _ in 1..many {
        world.born(1);
    }
    world.passes(3600);
    let mut timers = Timers::default();
    assert_eq!(look(&mut timers, &engine), BATCH as usize);
    assert_eq!(world.sent()[0].0, first, "the longest overdue first");
    assert_eq!(look(&mut timers, &engine), BATCH as usize);
    assert_eq!(look(&mut timers, &engine), 10);
    assert_eq!(world.sent().len(), many - BATCH as usize);
    let scans = world.state().scans.iter().filter(|s| s.overdue.is_zero()).count();
    assert!(world.state().scans.iter().take(scans).all(|s| s.not_before.is_none()), "all of them thorough");
}

#[test]
fn a_look_goes_back_two_seconds_one_in_five_a_minute_and_a_thorough_one_comes_every_minute() {
    let (world, engine) = World::new();
    own(&world, &engine, &[0, 1, 2, 3, 4, 5, 6, 7]);
    let mut timers = Timers::default();
    let began = world.state().now;
    for passed in [2, 2, 2, 34, 20, 1] {
        look(&mut timers, &engine);
        world.passes(passed);
    }
    let scans: Vec<_> =
        world.state().scans.iter().map(|s| s.not_before.map(|at| (at - began).num_seconds())).collect();
    // At 0, 2, 4, 6, 40 and 60 seconds.
    assert_eq!(scans, [None, Some(-2), Some(0), Some(-56), Some(-54), None]);
}

#[test]
fn a_new_assignment_is_looked_at_thoroughly() {
    let (world, engine) = World::new();
    own(&world, &engine, &[0, 1]);
    let mut timers = Timers::default();
    look(&mut timers, &engine);
    look(&mut timers, &engine);
    own(&world, &engine, &[0, 1, 2]);
    look(&mut timers, &engine);
    let own: Vec<_> = world.state().scans.iter().filter(|s| s.overdue.is_zero()).cloned().collect();
    assert_eq!(own.iter().map(|s| s.not_before.is_none()).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(own[2].slots.len(), usize::from(SLOTS) / 8 * 3);
}

#[test]
fn slots_nobody_owns_are_looked_at_once_they_are_late() {
    let (world, engine) = World::new();
    own(&world, &engine, &[0]);
    let a = world.born(3);
    let mut timers = Timers::default();
    world.passes(9);
    assert_eq!(look(&mut timers, &engine), 0, "late by less than five seconds: its owner's");
    world.passes(4);
    assert_eq!(look(&mut timers, &engine), 0, "looked at only every five seconds");
    world.passes(1);
    assert_eq!(look(&mut timers, &engine), 1);
    assert_eq!(world.sent().last().unwrap().0, a);
}

#[test]
fn a_saga_of_an_unknown_workflow_stops_no_other_and_keeps_its_time() {
    let (world, engine) = World::new();
    own(&world, &engine, &[1]);
    let (newer, a) = (world.born(1), world.born(1));
    world.state().sagas.get_mut(&newer).unwrap().0.workflow_version = 2;
    let at = world.saga(newer).wake_at;
    world.passes(5);
    let mut timers = Timers::default();
    assert_eq!(look(&mut timers, &engine), 1);
    assert_eq!(world.sent(), [(a, "book execute".to_owned())]);
    assert_eq!(look(&mut timers, &engine), 0);
    assert_eq!(world.saga(newer).wake_at, at, "it is due for an engine that knows it");
}

#[test]
fn a_saga_whose_row_is_held_stops_no_other_and_is_woken_once_the_row_is_free() {
    let (world, engine) = World::new();
    own(&world, &engine, &[1]);
    let (held, a) = (world.born(1), world.born(1));
    world.state().locked.insert(held);
    world.passes(5);
    let mut timers = Timers::default();
    assert_eq!(look(&mut timers, &engine), 2);
    assert_eq!(world.sent(), [(a, "book execute".to_owned())]);
    assert_eq!(look(&mut timers, &engine), 0, "it is left out for a moment");
    world.state().locked.clear();
    world.passes(2);
    assert_eq!(look(&mut timers, &engine), 1);
    assert_eq!(world.sent(), [(held, "book execute".to_owned())]);
}

#[test]
fn timers_that_cannot_be_sent_come_again() {
    let (world, engine) = World::new();
    own(&world, &engine, &[1]);
    let a = world.born(1);
    world.passes(5);
    world.state().send_fails = 1;
    let mut timers = Timers::default();
    assert_eq!(look(&mut timers, &engine), 1);
    assert_eq!(world.sent(), []);
    world.passes(5);
    assert_eq!(look(&mut timers, &engine), 1);
    assert_eq!(world.sent(), [(a, "book execute".to_owned())], "this finds out, and changes no row");
    assert_eq!(world.saga(a).revision, 2);
    look(&mut timers, &engine);
    assert_eq!(world.sent(), [(a, "book probe".to_owned())]);
}

/// Creates stays whose `book` was answered as failed, and that are due again.
fn failed_once(world: &World, engine: &TestEngine, many: usize) -> Vec<uuid::Uuid> {
    own(world, engine, &[0, 1, 2, 3, 4, 5, 6, 7]);
    let stays: Vec<_> = (0..many).map(|_| world.born(1)).collect();
    for &stay in &stays {
        world.answers(stay, "book", Outcome::FailedTransient);
    }
    block_on(replies::run_once(engine, &mut world.clone())).unwrap();
    world.passes(1);
    world.sent();
    stays
}

#[test]
fn further_attempts_that_nobody_can_pay_for_are_put_off_and_written_nowhere() {
    let (world, engine) = World::new();
    let stays = failed_once(&world, &engine, 300);
    let mut timers = Timers::default();
    assert_eq!(look(&mut timers, &engine), 300);
    assert_eq!(world.sent().len(), 50, "what is there at first");
    let (mut again, mut later) = (0, 0);
    for stay in &stays {
        let saga = world.saga(*stay);
        let due = saga.wake_at.unwrap() - world.state().now;
        match saga.revision {
            3 => again += 1,
            _ => {
                assert_eq!((saga.revision, due), (2, TimeDelta::seconds(60)), "as it was, and woken later");
                later += 1;
            }
        }
    }
    assert_eq!((again, later), (50, 250));
    assert_eq!(look(&mut timers, &engine), 0);
    // There has been no other answer since: a minute's worth of free attempts.
    world.passes(60);
    look(&mut timers, &engine);
    let retries = world.sent().iter().filter(|(_, sent)| sent == "book execute").count();
    assert!((50..=101).contains(&retries), "{retries}");
}

#[test]
fn a_worker_that_works_again_pays_for_what_was_put_off() {
    let (world, engine) = World::new();
    let stays = failed_once(&world, &engine, 300);
    let mut timers = Timers::default();
    look(&mut timers, &engine);
    world.sent();
    let mut done = 0;
    for _ in 0..10 {
        world.passes(60);
        look(&mut timers, &engine);
        let sent = world.sent();
        for (stay, _) in sent.iter().filter(|(_, sent)| sent == "book execute") {
            world.answers(*stay, "book", Outcome::Succeeded);
            done += 1;
        }
        block_on(replies::run_once(&engine, &mut world.clone())).unwrap();
    }
    assert!(done >= stays.len(), "{done}");
    assert!(stays.iter().all(|stay| world.saga(*stay).label == "BOOKED"));
}

#[test]
fn what_is_promised_to_a_customer_is_not_put_off() {
    let (world, engine) = World::new();
    let stays = failed_once(&world, &engine, 300);
    world.passes(900);
    let mut timers = Timers::default();
    look(&mut timers, &engine);
    assert!(stays.iter().all(|stay| world.saga(*stay).state() == SagaState::Compensating));
    assert_eq!(world.sent().len(), stays.len());
}

#[test]
fn of_what_nobody_answers_only_so_much_goes_out_again_as_can_be_paid_for_and_the_rest_a_deadline_later() {
    let (world, engine) = World::new();
    own(&world, &engine, &[0, 1, 2, 3, 4, 5, 6, 7]);
    let stays: Vec<_> = (0..300).map(|_| world.born(1)).collect();
    let mut timers = Timers::default();
    world.passes(5);
    assert_eq!(look(&mut timers, &engine), 300);
    let sent = world.sent();
    assert_eq!(sent.len(), 200, "what is there at first");
    assert!(sent.iter().all(|(_, sent)| sent == "book execute"), "{sent:?}");
    let mut repeated: std::collections::HashSet<_> = sent.into_iter().map(|(stay, _)| stay).collect();
    for stay in stays.iter().filter(|stay| !repeated.contains(stay)) {
        let saga = world.saga(*stay);
        let due = saga.wake_at.unwrap() - world.state().now;
        assert_eq!((saga.revision, due), (1, TimeDelta::seconds(10)), "as it was, and woken later");
    }
    // Nothing is answered: time alone pays, and no saga is forgotten.
    for _ in 0..20 {
        world.passes(10);
        look(&mut timers, &engine);
        let sent = world.sent();
        assert!(sent.len() <= 2 * 200, "{}", sent.len());
        repeated.extend(sent.into_iter().map(|(stay, _)| stay));
    }
    assert_eq!(repeated.len(), stays.len());
}

#[test]
fn an_answer_does_not_set_a_saga_back_to_when_it_was_woken_before_it_was_put_off() {
    let (world, engine) = World::new();
    own(&world, &engine, &[0, 1, 2, 3, 4, 5, 6, 7]);
    let stays: Vec<_> = (0..300).map(|_| world.born(1)).collect();
    for &stay in &stays {
        world.answers(stay, "book", Outcome::Succeeded);
    }
    block_on(replies::run_once(&engine, &mut world.clone())).unwrap();
    world.sent();
    world.passes(5);
    look(&mut Timers::default(), &engine);
    let repeated: std::collections::HashSet<_> = world.sent().into_iter().map(|(stay, _)| stay).collect();
    let put_off = *stays.iter().find(|stay| !repeated.contains(stay)).unwrap();
    world.answers(put_off, "charge", Outcome::Succeeded);
    block_on(replies::run_once(&engine, &mut world.clone())).unwrap();
    assert!(world.saga(put_off).wake_at > Some(world.state().now), "{:?}", world.saga(put_off).wake_at);
}

/// Returns how many repetitions of a silent command a participant's answers pay for, once the initial amount is spent.
fn paid_by(answers: usize, says: impl Fn(&World, &mut amends_protocol::Reply)) -> usize {
    let (world, engine) = World::new();
    own(&world, &engine, &[0, 1, 2, 3, 4, 5, 6, 7]);
    for _ in 0..400 {
        world.born(1);
    }
    let mut timers = Timers::default();
    world.passes(5);
    look(&mut timers, &engine);
    world.sent();
    for _ in 0..answers {
        let another = world.born(1);
        let mut reply = world.answer(another, "book", Kind::Execute, Outcome::InFlight);
        says(&world, &mut reply);
        world.delivers(&reply);
    }
    block_on(replies::run_once(&engine, &mut world.clone())).unwrap();
    // As long as the rest was put off for: time alone pays for ten per second.
    world.passes(10);
    look(&mut timers, &engine);
    world.sent().iter().filter(|(_, sent)| sent == "book probe").count() - 100
}

#[test]
fn an_answer_is_soon_by_the_engine_s_database_since_its_command_was_sent_whatever_the_worker_s_clock() {
    let sent = |seconds: i64, skew: i64| {
        move |world: &World, reply: &mut amends_protocol::Reply| {
            let now = world.state().now;
            reply.sent_at = Some(now - TimeDelta::seconds(seconds));
            reply.replied_at = now + TimeDelta::seconds(skew);
        }
    };
    assert_eq!(paid_by(50, sent(1, -3600)), 50);
    assert_eq!(paid_by(50, sent(1, 3600)), 50);
    assert_eq!(paid_by(50, sent(6, -3600)), 5, "late: a tenth");
    assert_eq!(paid_by(50, |_, reply| reply.sent_at = None), 5, "nothing is known of it: a tenth");
}
