//! Every kind of wait of an order's saga, with its word, its sentence and what comes next; and what an operator's action
//! would do, before it is done.

mod support;

use std::fmt::Write;

use amends_engine::{
    core::{Actor, Event, Illegal, Input, Resend},
    dialogue::Dialogue,
    operate::{Kind, NoPlan, Surroundings, WorkerProgress, actions, plan, situation},
};
use amends_protocol::{Exposure, Outcome, Reason};
use chrono::TimeDelta;
use support::{SECOND, order, unknown, waiting_for, workflow};

/// Surroundings in which the worker takes its commands.
fn well() -> Surroundings {
    worker(0, true)
}

fn worker(lag: i64, is_settling: bool) -> Surroundings {
    let last_reply_at = Some("2026-01-01T00:00:00Z".parse().unwrap());
    Surroundings { is_broker_away: false, worker: Some(WorkerProgress { lag, is_settling, last_reply_at }) }
}

fn kind_of(order: &Dialogue, around: &Surroundings) -> Kind {
    situation(&order.saga, Some(&workflow()), around, order.now).kind
}

/// An order whose payment is undone.
fn declined() -> Dialogue {
    let mut declined = waiting_for("pay");
    declined.refuses("pay execute", "card_declined");
    declined
}

#[test]
fn each_situation_has_its_kind_its_sentence_and_what_comes_next() {
    let mut said = String::new();
    let mut note = |expected: Kind, order: &Dialogue, around: &Surroundings| {
        let definition = workflow();
        let found = situation(&order.saga, Some(&definition), around, order.now);
        assert_eq!(found.kind, expected, "{}\n{}", found.sentence, order.timeline());
        let next = found.next.map(|next| format!("{} at {}", next.what, next.at.to_rfc3339()));
        let next = next.unwrap_or_else(|| "nothing".to_owned());
        writeln!(said, "{}\n    {}\n    next: {next}", expected.as_str(), found.sentence).unwrap();
    };
    let paying = waiting_for("pay");
    note(Kind::WaitingForReply, &paying, &well());
    note(Kind::WorkerBehind, &paying, &worker(1_204, true));
    let mut broken = well();
    broken.is_broker_away = true;
    note(Kind::BrokerAway, &paying, &broken);

    let mut old = waiting_for("pay");
    old.now += TimeDelta::seconds(11);
    // Its command is due later.
    old.saga.wake_at = Some(old.now + TimeDelta::seconds(5));
    note(Kind::WorkerAway, &old, &worker(3, false));
    old.saga.wake_at = Some(old.now - TimeDelta::seconds(31));
    note(Kind::EngineAway, &old, &worker(3, false));

    let mut backoff = waiting_for("pay");
    backoff.answers("pay execute", Outcome::FailedTransient);
    note(Kind::Backoff, &backoff, &well());
    // What is due is put off.
    let due = backoff.saga.wake_at.unwrap();
    backoff.now = due + TimeDelta::seconds(1);
    backoff.saga.wake_at = Some(due + TimeDelta::seconds(60));
    note(Kind::WorkerFailing, &backoff, &well());

    let mut asked = waiting_for("pay");
    asked.answers("pay execute", Outcome::Unknown);
    note(Kind::Probing, &asked, &well());
    note(Kind::ParkedOutcomeUnknown, &unknown("pay"), &well());

    note(Kind::Compensating, &declined(), &well());
    let mut slow = declined();
    slow.now += TimeDelta::seconds(11);
    slow.saga.wake_at = Some(slow.now + TimeDelta::seconds(5));
    note(Kind::CompensatingWorkerAway, &slow, &worker(1, false));

    let mut cancelled = waiting_for("pay");
    cancelled.happens(Event::CancelRequested(Actor::new("c-1", "")));
    note(Kind::CancelledMeanwhile, &cancelled, &well());
    cancelled.answers("pay compensate", Outcome::Refused);
    note(Kind::ParkedCompensation, &cancelled, &well());

    let mut shipped = waiting_for("take");
    shipped.refuses("take execute", "no_such_reservation");
    note(Kind::ParkedRetriable, &shipped, &well());

    let mut poisoned = waiting_for("pay");
    poisoned.happens(Event::Poisoned(Reason::new("poisoned", "")));
    note(Kind::Poisoned, &poisoned, &well());

    let mut ended = waiting_for("take");
    ended.succeeds("take execute");
    note(Kind::Ended, &ended, &well());
    insta::assert_snapshot!(said);
}

#[test]
fn a_saga_of_an_unknown_version_and_one_whose_timeout_comes_first_say_so() {
    let order = order();
    assert_eq!(situation(&order.saga, None, &well(), order.now).kind, Kind::UnknownVersion);
    let mut late = waiting_for("reserve");
    let timeout = late.saga.state.timeout_at.unwrap();
    for command in &mut late.saga.state.commands {
        command.due_at = Some(timeout + TimeDelta::seconds(1));
    }
    late.now = timeout - TimeDelta::seconds(1);
    late.saga.wake_at = Some(timeout);
    assert_eq!(kind_of(&late, &well()), Kind::TimeoutPending);
}

#[test]
fn a_worker_that_was_sent_a_command_just_now_is_not_called_away() {
    assert_eq!(kind_of(&waiting_for("pay"), &worker(1, false)), Kind::WaitingForReply);
}

#[test]
fn an_effect_that_is_found_after_the_end_is_an_orphan_being_undone() {
    let mut order = waiting_for("pay");
    order.cancels().answers("pay compensate", Outcome::Refused);
    order.resolves(true, Vec::new()).succeeds("reserve compensate");
    assert_eq!(kind_of(&order, &well()), Kind::Ended, "{}", order.timeline());
    order.answers("pay execute", Outcome::Succeeded);
    assert_eq!(kind_of(&order, &well()), Kind::OrphanBeingUndone, "{}", order.timeline());
}

#[test]
fn an_action_is_listed_with_the_reason_for_which_it_is_not_legal() {
    let paying = waiting_for("pay");
    let listed = actions(&paying.saga, &workflow(), paying.now);
    let why = |name: &str| listed.iter().find(|action| action.name == name).unwrap().refused.clone();
    assert_eq!((why("cancel"), why("resend")), (None, None));
    assert_eq!(why("retry").unwrap(), Illegal::NotParked.to_string());
    assert_eq!(why("signal").unwrap(), Illegal::UnknownSignal.to_string());
}

#[test]
fn a_plan_says_what_a_cancellation_would_send_and_give_back_and_changes_nothing() {
    let order = waiting_for("ship");
    let (definition, (_, data)) = (workflow(), order.birth());
    let input = Input { data: &data, personal: None };
    let event = Event::CancelRequested(Actor::new("olga", "the customer called"));
    let planned = plan(&order.saga, &definition, input, &event, order.now).unwrap();
    assert_eq!(planned.revision, order.saga.revision);
    let effects = &planned.effects;
    assert_eq!(effects.label, ("PAID".to_owned(), "CANCELLING".to_owned()));
    assert_eq!(effects.commands, ["ship compensate"]);
    assert!(effects.held.contains(&Exposure::new("money_captured", "EUR", -2500)), "{effects:?}");
    assert!(effects.held.contains(&Exposure::new("stock_reserved", "mug-blue", -2)), "{effects:?}");
    assert!(!effects.is_reversible);

    // The same plan later is the same; one with another reason or at another revision is another.
    let later = plan(&order.saga, &definition, input, &event, order.now + TimeDelta::seconds(9)).unwrap();
    assert_eq!(later.basis, planned.basis);
    let other = Event::CancelRequested(Actor::new("olga", "another reason"));
    let of = |event, order: &Dialogue| plan(&order.saga, &definition, input, event, order.now).unwrap().basis;
    assert_ne!(of(&other, &order), planned.basis);
    let mut moved = waiting_for("ship");
    moved.answers("ship execute", Outcome::Unknown);
    assert_ne!(of(&event, &moved), planned.basis);
}

#[test]
fn what_is_not_possible_or_would_change_nothing_has_no_plan() {
    let mut order = waiting_for("pay");
    let (definition, (_, data)) = (workflow(), order.birth());
    let input = Input { data: &data, personal: None };
    let cancel = Event::CancelRequested(Actor::new("olga", "why"));
    let resend = Event::ResendRequested(Resend { by: Actor::new("olga", "why"), seen: None });
    assert!(plan(&order.saga, &definition, input, &resend, order.now).unwrap().effects.is_reversible);
    order.cancels();
    let refused = plan(&order.saga, &definition, input, &cancel, order.now).unwrap_err();
    assert_eq!(refused, NoPlan::ChangesNothing);
    order.succeeds("pay compensate").succeeds("reserve compensate").passes(SECOND);
    let refused = plan(&order.saga, &definition, input, &cancel, order.now).unwrap_err();
    assert_eq!(refused, NoPlan::Illegal(Illegal::Ended));
}
