//! Timeouts, parts, cancelling, operators, recovery: the engine's rules beyond single answers.

mod support;

use std::time::Duration;

use amends_engine::core::{Direction, Event, Illegal, Nothing, SagaState, outstanding};
use amends_engine::dialogue::Dialogue;
use amends_protocol::{Exposure, Kind, Outcome, Reason, id};
use chrono::TimeDelta;
use support::{SECOND, begin, stay, unknown_until_parked, waiting_for, wakes};

// ---- the PENDING timeout --------------------------------------------------------------------------------------

#[test]
fn the_timeout_undoes_whatever_the_first_step_is_doing_and_releases_its_late_success() {
    type Reach = fn(&mut Dialogue);
    let states: [(&str, Reach); 6] = [
        ("waiting", |_| ()),
        ("unknown", |s| {
            s.passes(20 * SECOND);
        }),
        ("backoff", |s| {
            s.passes(899 * SECOND).answers("book execute", Outcome::FailedTransient);
        }),
        ("unsupported", |s| {
            s.passes(899 * SECOND).answers("book execute", Outcome::Unsupported);
        }),
        ("parked", |s| *s = unknown_until_parked("book")),
        ("poisoned", |s| {
            s.happens(Event::Poisoned(Reason::new("poisoned", "")));
        }),
    ];
    for (name, reach) in states {
        let mut stay = waiting_for("book");
        let late = stay.reply("book execute", Outcome::Succeeded);
        reach(&mut stay);
        let left = stay.saga.born_at + TimeDelta::seconds(900) - stay.now;
        stay.passes((left - TimeDelta::milliseconds(1)).to_std().unwrap()).label("NEW");
        stay.sent.clear();
        stay.passes(Duration::from_millis(1)).expect(&["book compensate"]).label("UNDOING");
        assert_eq!(stay.saga.reason.as_ref().unwrap().code, "too_late", "{name}");
        assert!(!stay.saga.parked, "{name}");
        stay.happens(Event::Replied(late)).expect(&[]).label("UNDOING");
        assert_eq!(stay.holds().len(), 1, "{name}: held until it is released");
        stay.succeeds("book compensate").label("CANCELLED");
        assert_eq!(stay.holds(), [], "{name}");
        wakes(&stay);
    }
}

#[test]
fn the_timeout_ends_with_the_step_it_is_about() {
    let mut stay = waiting_for("charge");
    stay.passes(1000 * SECOND).label("BOOKED");
    let mut two = begin(2);
    two.succeeds("book execute").passes(900 * SECOND).label("UNDOING");
    assert!(two.sent.iter().rev().take(2).all(|s| s.kind == Kind::Compensate));
}

// ---- poisoned -------------------------------------------------------------------------------------------------

#[test]
fn a_poisoned_saga_stops_until_an_answer_that_can_be_stored_or_a_person_comes() {
    let poison = || Event::Poisoned(Reason::new("poisoned", "what came for it cannot be stored"));
    let mut stay = waiting_for("charge");
    stay.happens(poison());
    assert_eq!((stay.saga.state(), stay.saga.live), (SagaState::Parked, false));
    stay.happens(poison()).is_ignored(Nothing::Duplicate);
    stay.passes(100 * SECOND).expect(&[]);
    let poisoned = stay.clone();

    stay.succeeds("charge execute").expect(&["confirm execute"]);
    assert_eq!((stay.saga.state(), stay.saga.live), (SagaState::Running, true));
    wakes(&stay);

    let mut stay = poisoned.clone();
    stay.retries().passes(SECOND);
    assert!(!stay.sent.is_empty() && !stay.saga.parked, "what was due meanwhile is done");
    wakes(&stay);

    let mut stay = poisoned.clone();
    stay.cancels().expect(&["charge compensate"]);
    assert_eq!(stay.saga.state(), SagaState::Compensating);
    wakes(&stay);

    let mut stay = poisoned;
    stay.resolves(true, vec![]).is_illegal(Illegal::OnlyRetry);
}

// ---- several parts --------------------------------------------------------------------------------------------

#[test]
fn a_refused_part_undoes_the_others_open_or_not_before_the_steps_before() {
    let mut stay = begin(3);
    stay.succeeds("book execute").refuses("book/1 execute", "full");
    stay.expect(&["book compensate", "book/2 compensate"]).label("UNDOING");
    stay.succeeds("book compensate").label("UNDOING");
    // The open command succeeds late: its compensation is in progress.
    stay.succeeds("book/2 execute").expect(&[]);
    assert_eq!(stay.holds(), [Exposure::new("room_booked", "room-2", 1)]);
    stay.succeeds("book/2 compensate").label("FULL").expect(&[]);
    assert_eq!(stay.holds(), []);
    assert_eq!(stay.saga.reason.as_ref().unwrap().code, "full");
    wakes(&stay);
}

#[test]
fn every_part_of_a_step_is_undone_before_the_step_before_it() {
    let mut stay = begin(2);
    stay.succeeds("book execute").expect(&[]).succeeds("book/1 execute").expect(&["charge execute"]);
    stay.succeeds("charge execute").expect(&["confirm execute"]).refuses("confirm execute", "closed");
    stay.expect(&["charge compensate"]).succeeds("charge compensate");
    stay.expect(&["book compensate", "book/1 compensate"]).succeeds("book/1 compensate").label("UNDOING");
    stay.succeeds("book compensate").label("UNCONFIRMED");
    assert!(stay.timeline().contains("-> book compensate -> book/1 compensate"), "{}", stay.timeline());
    wakes(&stay);
}

#[test]
fn a_part_that_parks_while_another_is_parked_says_so() {
    let mut stay = begin(2);
    stay.succeeds("book execute").succeeds("book/1 execute").cancels();
    stay.succeeds("charge compensate");
    stay.refuses("book compensate", "first").refuses("book/1 compensate", "second");
    let parked: Vec<_> = stay.entries.iter().filter_map(|e| e.did.parked.as_ref()).collect();
    assert_eq!(parked.iter().map(|r| r.code.as_str()).collect::<Vec<_>>(), ["first", "second"]);
    stay.sent.clear();
    stay.retries().expect(&["book/1 compensate"]).retries().expect(&["book compensate"]);
    wakes(&stay);
}

// ---- cancelling -----------------------------------------------------------------------------------------------

#[test]
fn a_cancel_is_a_promise_until_the_pivot_has_succeeded() {
    for step in ["book", "charge", "confirm"] {
        let mut stay = waiting_for(step);
        stay.cancels().label("UNDOING").cancels().is_ignored(Nothing::AlreadyCancelling);
        assert_eq!(stay.saga.state.direction, Direction::Undoing);
        for undone in ["confirm", "charge", "book"].into_iter().skip_while(|s| *s != step) {
            let command = format!("{undone} compensate");
            stay.expect(&[&command]).succeeds(&command);
        }
        stay.label("CANCELLED").cancels().is_illegal(Illegal::Ended);
        wakes(&stay);
    }
    waiting_for("file").cancels().is_illegal(Illegal::PastPivot).label("CONFIRMED");
    waiting_for("nothing").cancels().is_illegal(Illegal::Ended);
    waiting_for("charge")
        .refuses("charge execute", "declined")
        .cancels()
        .is_illegal(Illegal::UndoneOtherwise);
}

#[test]
fn a_parked_saga_can_be_cancelled_before_its_pivot_and_not_after() {
    let mut stay = unknown_until_parked("confirm");
    stay.cancels().expect(&["confirm compensate"]);
    assert_eq!(stay.saga.state(), SagaState::Compensating);
    let mut stay = waiting_for("file");
    stay.refuses("file execute", "no_paper").cancels().is_illegal(Illegal::PastPivot);
}

#[test]
fn a_cancel_in_backoff_or_while_asking_leaves_nothing_to_send_but_compensations() {
    let reach: [fn(&mut Dialogue); 2] = [
        |s| {
            s.answers("charge execute", Outcome::FailedTransient);
        },
        |s| {
            s.passes(12 * SECOND);
        },
    ];
    for reach in reach {
        let mut stay = waiting_for("charge");
        reach(&mut stay);
        stay.sent.clear();
        stay.cancels().expect(&["charge compensate"]).passes(4 * SECOND).expect(&[]);
        // An earlier probe is answered now: this is recorded once, and changes nothing else.
        stay.answers("charge probe", Outcome::NotSeen).expect(&[]);
        stay.answers("charge probe", Outcome::NotSeen).is_ignored(Nothing::Duplicate);
        wakes(&stay);
    }
}

// ---- people ---------------------------------------------------------------------------------------------------

#[test]
fn only_what_is_parked_can_be_retried_or_resolved() {
    let mut stay = waiting_for("charge");
    stay.retries().is_illegal(Illegal::NotParked);
    stay.resolves(true, vec![]).is_illegal(Illegal::NotParked);
    let mut stay = waiting_for("file");
    stay.refuses("file execute", "no_paper").resolves(false, vec![]).is_illegal(Illegal::OnlyRetry);
}

#[test]
fn an_unknown_outcome_resolved_by_evidence_counts_as_its_outcome() {
    let key = || vec![Exposure::new("key_cut", "key", 1)];
    let mut stay = unknown_until_parked("confirm");
    stay.resolves(true, key()).label("CONFIRMED").expect(&["confirm fence", "file execute"]);
    assert!(stay.holds().contains(&key()[0]));
    let mut stay = unknown_until_parked("confirm");
    stay.resolves(false, key()).expect(&["confirm compensate"]).label("UNDOING");
    // Its worker knows no more, and will undo an effect that appears later.
    stay.answers("confirm compensate", Outcome::Unknown).expect(&["charge compensate"]);
    stay.succeeds("charge compensate").succeeds("book compensate").label("UNCONFIRMED");
    assert_eq!(stay.holds(), []);
    // If the evidence was wrong, the effect is undone all the same.
    stay.sent.clear();
    stay.succeeds("confirm execute").expect(&["confirm compensate"]).label("UNCONFIRMED");
    stay.succeeds("confirm compensate").label("UNCONFIRMED").expect(&[]);
    assert_eq!(stay.holds(), []);
    wakes(&stay);
}

#[test]
fn what_was_resolved_as_not_done_is_undone_by_its_worker_all_the_same() {
    let mut stay = unknown_until_parked("charge");
    // A charge that is on its way arrives after the operator has looked, and its reply is lost.
    stay.resolves(false, vec![]).expect(&["charge compensate"]);
    stay.answers("charge compensate", Outcome::InFlight).passes(5 * SECOND).expect(&["charge compensate"]);
    stay.succeeds("charge compensate").expect(&["book compensate"]);
    stay.succeeds("book compensate").label("DECLINED");
    wakes(&stay);
}

#[test]
fn what_succeeds_after_its_compensation_was_resolved_by_hand_is_undone_again() {
    let mut stay = waiting_for("charge");
    stay.cancels().expect(&["charge compensate"]);
    stay.refuses("charge compensate", "closed").resolves(true, vec![]).expect(&["book compensate"]);
    stay.succeeds("book compensate").label("CANCELLED");
    stay.succeeds("charge execute").expect(&["charge compensate"]).label("CANCELLED");
    assert_eq!(stay.holds(), [Exposure::new("money_captured", "EUR", 100)]);
    stay.answers("charge compensate", Outcome::FailedTransient).passes(SECOND).expect(&["charge compensate"]);
    stay.succeeds("charge compensate").succeeds("charge execute").expect(&[]);
    assert_eq!(stay.holds(), []);
    wakes(&stay);
    // But an effect that was known, and was undone by hand, stays undone.
    let mut stay = waiting_for("confirm");
    stay.cancels().succeeds("confirm compensate").refuses("charge compensate", "no").resolves(true, vec![]);
    stay.sent.clear();
    stay.succeeds("charge execute").expect(&[]);
    wakes(&stay);
}

#[test]
fn what_became_due_while_a_saga_was_poisoned_is_due_at_the_operators_retry() {
    let mut stay = waiting_for("charge");
    stay.happens(Event::Poisoned(Reason::new("poisoned", ""))).passes(600 * SECOND).expect(&[]);
    stay.retries();
    assert_eq!(stay.saga.wake_at, Some(stay.now), "not in a past where no look finds it");
    stay.passes(SECOND).expect(&["charge probe", "charge probe", "charge execute"]);
    wakes(&stay);
}

// ---- recovery -------------------------------------------------------------------------------------------------

#[test]
fn recovery_sends_what_waits_for_an_answer_and_nothing_that_is_held() {
    let definition = stay();
    let sent = |stay: &Dialogue| -> Vec<_> {
        let sends = outstanding(&definition, &stay.saga, stay.now - TimeDelta::seconds(30));
        sends.iter().map(|s| (s.kind, s.step, s.part)).collect()
    };
    assert_eq!(sent(&begin(2)), [(Kind::Execute, 0, 0), (Kind::Execute, 0, 1)]);
    let mut stay = waiting_for("charge");
    stay.answers("charge execute", Outcome::FailedTransient);
    assert_eq!(sent(&stay), [], "in backoff");
    stay.cancels();
    assert_eq!(sent(&stay), [(Kind::Compensate, 1, 0)]);
    stay.answers("charge compensate", Outcome::FailedTransient);
    assert_eq!(sent(&stay), [], "a compensation in backoff");
    stay.passes(SECOND);
    assert_eq!(sent(&stay), [(Kind::Compensate, 1, 0)]);
    stay.refuses("charge compensate", "no");
    assert_eq!(sent(&stay), [], "parked");
    let mut stay = waiting_for("charge");
    stay.passes(31 * SECOND);
    assert_eq!(sent(&stay), [], "long ago");
    let mut stay = waiting_for("charge");
    stay.happens(Event::Poisoned(Reason::new("poisoned", "")));
    assert_eq!(sent(&stay), [], "poisoned");
}

#[test]
fn a_reply_that_names_another_kind_or_command_settles_nothing() {
    let mut stay = waiting_for("charge");
    let good = stay.reply("charge execute", Outcome::Succeeded);
    let (mut kind, mut command, mut row) = (good.clone(), good.clone(), good.clone());
    kind.kind = Kind::Compensate;
    command.command_id = id::undo(good.row_key());
    row.target = Some(id::execute(stay.saga.id, "charge", 0, 2));
    for reply in [kind, command, row] {
        stay.happens(Event::Replied(reply)).is_ignored(Nothing::NotMine);
    }
    stay.happens(Event::Replied(good)).label("CHARGED");
}
