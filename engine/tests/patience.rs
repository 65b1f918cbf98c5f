//! The engine keeps asking about unknown outcomes, and parks only when its patience ends.

mod support;

use std::time::Duration;

use amends_engine::core::{Definition, Event, Nothing, SagaState, Seen, replay};
use amends_engine::dialogue::Dialogue;
use amends_protocol::Outcome;
use chrono::TimeDelta;
use support::{PATIENCE, SECOND, stay, unknown_until_parked, waiting_for, wakes};

/// Lets time pass until something is due; returns what is sent then.
fn sleeps(stay: &mut Dialogue) -> Vec<String> {
    let written = stay.entries.len();
    stay.sent.clear();
    while stay.entries.len() == written {
        let at = stay.saga.wake_at.expect("something is due");
        stay.passes((at - stay.now).to_std().unwrap_or_default());
    }
    stay.entries.last().map(|entry| entry.did.sent.clone()).unwrap_or_default()
}

#[test]
fn a_bank_that_is_away_for_a_short_while_parks_nobody() {
    let mut stay = waiting_for("charge");
    stay.answers("charge execute", Outcome::Unknown);
    let began = stay.now;
    while stay.now - began < TimeDelta::seconds(12) {
        assert_eq!(sleeps(&mut stay), ["charge probe"]);
        stay.answers("charge probe", Outcome::Unknown);
    }
    assert!(!stay.saga.parked, "{}", stay.timeline());
    sleeps(&mut stay);
    stay.succeeds("charge probe").label("CHARGED");
    wakes(&stay);
}

#[test]
fn patience_begins_with_the_first_unknown_and_ends_with_a_last_question() {
    for first in ["charge execute", "charge probe"] {
        let mut stay = waiting_for("charge");
        if first == "charge probe" {
            stay.passes(10 * SECOND);
        }
        stay.answers(first, Outcome::Unknown);
        let (began, mut asked) = (stay.now, 0);
        while !stay.saga.parked {
            asked += 1;
            assert!(stay.now - began < TimeDelta::from_std(PATIENCE).unwrap(), "{}", stay.timeline());
            sleeps(&mut stay);
            stay.answers("charge probe", Outcome::Unknown);
        }
        assert_eq!(stay.now - began, TimeDelta::from_std(PATIENCE).unwrap(), "neither sooner nor later");
        assert!((7..20).contains(&asked), "with a backoff: {asked}");
        assert_eq!(stay.saga.parked_reason().unwrap().code, "outcome_unknown");
        wakes(&stay);
    }
}

#[test]
fn another_answer_ends_the_row_of_unknowns() {
    let mut stay = waiting_for("charge");
    stay.answers("charge execute", Outcome::Unknown);
    for _ in 0..3 {
        stay.now += PATIENCE;
        stay.happens(Event::Woke).answers("charge probe", Outcome::NotSeen).sent.clear();
        stay.answers("charge execute", Outcome::Unknown);
        assert!(!stay.saga.parked, "{}", stay.timeline());
    }
    wakes(&stay);
}

#[test]
fn silence_between_two_unknowns_does_not_begin_anew() {
    let mut stay = waiting_for("charge");
    stay.answers("charge execute", Outcome::Unknown).passes(PATIENCE);
    assert!(!stay.saga.parked, "silence parks nobody");
    stay.answers("charge probe", Outcome::Unknown);
    assert!(stay.saga.parked, "{}", stay.timeline());
}

#[test]
fn a_cancellation_and_the_sagas_own_timeout_do_not_wait_for_patience() {
    let mut stay = waiting_for("charge");
    stay.answers("charge execute", Outcome::Unknown).cancels().expect(&["charge compensate"]);
    stay.passes(4 * SECOND).expect(&[]);
    wakes(&stay);
    let mut stay = waiting_for("book");
    stay.passes(890 * SECOND).answers("book probe", Outcome::Unknown).sent.clear();
    stay.passes(10 * SECOND).label("UNDOING");
    assert!(stay.sent.iter().any(|send| send.kind.as_str() == "compensate"));
    wakes(&stay);
}

#[test]
fn a_compensation_that_nobody_knows_of_is_sent_again_at_the_same_attempt_until_patience_is_over() {
    let mut stay = waiting_for("charge");
    stay.cancels().answers("charge compensate", Outcome::Unknown);
    let began = stay.now;
    // It answers one message, however often it arrives.
    stay.answers("charge compensate", Outcome::Unknown).is_ignored(Nothing::Duplicate);
    while !stay.saga.parked {
        assert!(stay.now - began < TimeDelta::from_std(PATIENCE).unwrap(), "{}", stay.timeline());
        assert_eq!(sleeps(&mut stay), ["charge compensate"]);
        stay.answers("charge compensate", Outcome::Unknown);
    }
    assert_eq!(stay.now - began, TimeDelta::from_std(PATIENCE).unwrap());
    assert_eq!(stay.saga.parked_reason().unwrap().code, "outcome_unknown");
    assert_eq!(stay.saga.state.commands[1].undo.as_ref().unwrap().attempt, 1);
    wakes(&stay);
    let mut known = stay.clone();
    known.succeeds("charge compensate").expect(&["charge compensate", "book compensate"]);
    wakes(&known);
    // After an operator's retry the whole patience applies again.
    stay.sent.clear();
    stay.retries().expect(&["charge compensate"]).answers("charge compensate", Outcome::Unknown);
    assert_eq!(stay.saga.state(), SagaState::Compensating);
    wakes(&stay);
}

#[test]
fn a_compensation_that_failed_meanwhile_has_all_the_patience_again() {
    let mut stay = waiting_for("charge");
    stay.cancels().answers("charge compensate", Outcome::Unknown);
    stay.now += PATIENCE;
    stay.happens(Event::Woke).answers("charge compensate", Outcome::FailedTransient);
    sleeps(&mut stay);
    stay.answers("charge compensate", Outcome::Unknown);
    assert!(!stay.saga.parked, "{}", stay.timeline());
    wakes(&stay);
}

#[test]
fn what_a_person_knows_was_not_done_needs_no_patience() {
    let mut stay = unknown_until_parked("charge");
    stay.resolves(false, vec![]).expect(&["charge compensate"]);
    stay.answers("charge compensate", Outcome::Unknown).expect(&["book compensate"]);
    wakes(&stay);
}

#[test]
fn a_history_means_the_same_under_another_patience() {
    let stay = unknown_until_parked("charge");
    let new = stay.birth().0;
    for patience in [Duration::ZERO, SECOND, 100 * PATIENCE, Duration::MAX] {
        let definition = Definition { unknown_patience: patience, ..support::stay() };
        let mut row = replay(&definition, new.clone(), &stay.entries).unwrap();
        row.wake_at = stay.saga.wake_at;
        assert_eq!(row, stay.saga, "{patience:?}");
    }
}

#[test]
fn without_patience_the_first_unknown_is_followed_by_one_question() {
    let mut stay =
        Dialogue::begin(Definition { unknown_patience: Duration::ZERO, ..stay() }, serde_json::json!({}));
    stay.answers("book execute", Outcome::Unknown).passes(Duration::ZERO);
    stay.answers("book probe", Outcome::Unknown);
    assert!(stay.saga.parked, "{}", stay.timeline());
    assert_eq!(stay.seen(), Seen { revision: stay.saga.revision, ..stay.seen() });
}
