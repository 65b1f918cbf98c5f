//! Operators settle only the state that they saw.

mod support;

use amends_engine::core::{Event, Illegal, SagaState, Seen};
use amends_engine::dialogue::Dialogue;
use amends_protocol::{Exposure, Outcome, Reason, id};
use support::{SECOND, begin, unknown_until_parked, waiting_for, wakes};
use uuid::Uuid;

/// The pivot's outcome is unknown when an operator looks. While they ask the carrier, the saga is cancelled, and now
/// the refund is parked.
fn moved_meanwhile() -> (Dialogue, Seen) {
    let mut stay = unknown_until_parked("confirm");
    let seen = stay.seen();
    stay.cancels().succeeds("confirm compensate").refuses("charge compensate", "closed_account");
    stay.sent.clear();
    (stay, seen)
}

#[test]
fn evidence_about_one_step_does_not_settle_another() {
    let (stay, seen) = moved_meanwhile();
    assert!(stay.saga.parked);
    for done in [true, false] {
        let mut stay = stay.clone();
        stay.resolves_what_was(seen, done, vec![]).is_illegal(Illegal::Stale);
        assert_eq!(stay.holds().len(), 2, "the money is still held");
    }
    let mut stay = stay;
    stay.retries_what_was(seen).is_illegal(Illegal::Stale).expect(&[]);
    stay.resolves(true, vec![]).expect(&["book compensate"]);
    wakes(&stay);
}

#[test]
fn a_command_that_does_not_wait_cannot_be_settled_by_its_name() {
    let (mut stay, _) = moved_meanwhile();
    let now = stay.seen();
    let execute = |step| id::execute(stay.saga.id, step, 0, 1);
    for other in [execute("charge"), execute("book"), id::undo(execute("confirm")), Uuid::nil()] {
        let seen = Seen { command_id: Some(other), ..now };
        stay.clone().resolves_what_was(seen, true, vec![]).is_illegal(Illegal::Stale);
        stay.clone().retries_what_was(seen).is_illegal(Illegal::Stale);
    }
    assert_eq!(now.command_id, Some(id::undo(execute("charge"))), "the compensation waits, not the charge");
    let nameless = Seen { command_id: None, ..now };
    stay.resolves_what_was(nameless, true, vec![]).is_illegal(Illegal::NeedsCommand);
    stay.retries_what_was(nameless).is_illegal(Illegal::NeedsCommand);
}

#[test]
fn what_was_done_already_is_not_done_again() {
    let mut stay = unknown_until_parked("charge");
    let seen = stay.seen();
    stay.retries_what_was(seen).expect(&["charge probe"]);
    stay.retries_what_was(seen).is_illegal(Illegal::Stale).expect(&[]);
}

#[test]
fn of_two_parts_that_wait_each_is_settled_by_its_name() {
    let mut stay = begin(2);
    stay.succeeds("book execute").succeeds("book/1 execute").cancels().succeeds("charge compensate");
    stay.refuses("book compensate", "first").refuses("book/1 compensate", "second").sent.clear();
    let undo = |part| Some(id::undo(id::execute(stay.saga.id, "book", part, 1)));
    let seen = |stay: &Dialogue, part| Seen { command_id: undo(part), ..stay.seen() };
    let (first, now) = (seen(&stay, 0), seen(&stay, 1));
    let mut other = stay.clone();
    other.retries_what_was(now).expect(&["book/1 compensate"]);
    assert_eq!(other.saga.state(), SagaState::Parked, "the first still waits");
    stay.resolves_what_was(first, true, vec![]);
    assert_eq!(stay.holds(), [Exposure::new("room_booked", "room-1", 1)]);
    stay.retries().expect(&["book/1 compensate"]).succeeds("book/1 compensate").label("CANCELLED");
    wakes(&stay);
}

#[test]
fn a_poisoned_saga_is_retried_without_a_name_and_what_waits_in_it_by_its_own() {
    let mut stay = unknown_until_parked("charge");
    let waiting = stay.seen().command_id;
    stay.happens(Event::Poisoned(Reason::new("poisoned", "")));
    assert_eq!(stay.seen().command_id, None);
    let named = Seen { command_id: waiting, ..stay.seen() };
    stay.retries_what_was(named).is_illegal(Illegal::Stale);
    stay.resolves_what_was(named, true, vec![]).is_illegal(Illegal::Stale);
    stay.resolves(true, vec![]).is_illegal(Illegal::OnlyRetry);
    stay.retries().expect(&[]);
    assert_eq!(stay.saga.parked_reason().unwrap().code, "outcome_unknown");
    stay.retries().expect(&["charge probe"]);
    wakes(&stay);
}

// ---- resend ---------------------------------------------------------------------------------------------------

#[test]
fn what_waits_for_a_backoff_is_sent_when_an_operator_asks_for_it() {
    let mut stay = waiting_for("charge");
    for _ in 0..3 {
        stay.answers("charge execute", Outcome::FailedTransient).passes(2 * SECOND);
    }
    stay.answers("charge execute", Outcome::FailedTransient).sent.clear();
    stay.resends().expect(&["charge execute"]);
    let charge = &stay.saga.state.commands[1];
    assert_eq!((charge.attempt, charge.failures), (5, 4), "the attempt that was to come, and none more");
    wakes(&stay);

    let mut stay = waiting_for("charge");
    stay.answers("charge execute", Outcome::Unknown).resends().expect(&["charge probe"]);
    wakes(&stay);

    let mut stay = waiting_for("charge");
    stay.cancels().answers("charge compensate", Outcome::FailedTransient).sent.clear();
    stay.resends().expect(&["charge compensate"]);
    assert_eq!(stay.saga.state.commands[1].undo.as_ref().unwrap().attempt, 2);
    wakes(&stay);
}

#[test]
fn what_waits_for_an_operator_or_for_nothing_is_not_sent_again() {
    unknown_until_parked("charge").resends().is_illegal(Illegal::NothingToSend);
    waiting_for("nothing").resends().is_illegal(Illegal::NothingToSend);
    let mut stay = waiting_for("charge");
    stay.happens(Event::Poisoned(Reason::new("poisoned", ""))).resends().is_illegal(Illegal::NothingToSend);
}
