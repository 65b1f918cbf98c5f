//! Signals: a step that waits for an event from outside instead of a worker's reply.

mod support;

use std::time::Duration;

use amends_engine::core::{
    Actor, Catalog, Definition, Entry, Event, Illegal, Known, Nothing, SagaOutcome, SagaState, Signal,
    Status, StepKind, outstanding,
};
use amends_engine::dialogue::Dialogue;
use amends_engine::operate::explain;
use amends_protocol::{Kind, Outcome, Reason};
use serde_json::json;
use support::{SECOND, asking, asking_first, asking_last, stay, wakes};

const DAY: Duration = Duration::from_secs(86_400);

fn begun(definition: Definition) -> Dialogue {
    let mut saga = Dialogue::begin(definition, json!({ "rooms": 1 }));
    saga.sent.clear();
    saga
}

/// A saga that waits for its signal.
fn waiting(deadline: Option<Duration>) -> Dialogue {
    let mut saga = begun(asking(deadline));
    saga.succeeds("book execute").label("BOOKED").expect(&[]);
    saga
}

fn yes() -> serde_json::Value {
    json!({ "yes": true })
}

fn no() -> serde_json::Value {
    json!({ "yes": false })
}

fn arrivals(saga: &Dialogue) -> usize {
    saga.entries.iter().filter(|e| matches!(e.occurrence.event, Event::Signalled(_))).count()
}

#[test]
fn a_saga_waits_for_its_signal_as_long_as_it_takes_and_needs_no_timer() {
    let mut saga = waiting(None);
    assert_eq!((saga.saga.live, saga.saga.wake_at, saga.saga.state()), (false, None, SagaState::Running));
    saga.passes(400 * DAY).expect(&[]).label("BOOKED");
    saga.happens(Event::Woke).changes_nothing();
    saga.signals("ask", yes()).expect(&["charge execute"]).label("ASKED");
    saga.succeeds("charge execute").succeeds("confirm execute").succeeds("file execute");
    assert_eq!(saga.saga.outcome, Some(SagaOutcome::Completed));
    wakes(&saga);
    insta::assert_snapshot!(saga.timeline());
}

#[test]
fn a_signal_that_says_no_undoes_what_was_done_before() {
    let mut saga = waiting(None);
    saga.signals("ask", no()).label("UNDOING").expect(&["book compensate"]).succeeds("book compensate");
    saga.label("TURNED_DOWN");
    assert_eq!(saga.saga.reason.as_ref().unwrap().code, "said_no");
    wakes(&saga);
}

#[test]
fn an_early_signal_is_kept_until_its_step_begins() {
    for (payload, label, sent) in [(yes(), "ASKED", "charge execute"), (no(), "UNDOING", "book compensate")] {
        let mut saga = begun(asking(Some(DAY)));
        saga.signals("ask", payload).label("NEW").expect(&[]);
        wakes(&saga);
        saga.succeeds("book execute").label(label).expect(&[sent]);
        assert_eq!(arrivals(&saga), 1);
        wakes(&saga);
    }
}

#[test]
fn a_signal_takes_effect_once_and_the_first_one_counts() {
    for reach in [0, 1, 2] {
        let mut saga = if reach == 0 { begun(asking(None)) } else { waiting(None) };
        saga.signals("ask", yes());
        if reach == 2 {
            saga.succeeds("charge execute").succeeds("confirm execute").succeeds("file execute");
        }
        let before = saga.saga.clone();
        saga.signals("ask", yes()).is_ignored(Nothing::Duplicate);
        saga.signals("ask", no()).is_illegal(Illegal::SignalledOtherwise);
        assert_eq!((&saga.saga, arrivals(&saga)), (&before, 1));
        wakes(&saga);
    }
}

#[test]
fn a_signal_that_comes_too_late_changes_nothing() {
    let mut undoing = waiting(None);
    undoing.cancels().signals("ask", yes()).is_illegal(Illegal::NoLongerAwaited);
    undoing.succeeds("book compensate").label("CANCELLED").signals("ask", yes()).is_illegal(Illegal::Ended);
    wakes(&undoing);
    // Its deadline has passed, and the timer has not been read yet. So has the saga's own timeout.
    let mut overdue = waiting(Some(DAY));
    overdue.now += DAY;
    overdue.signals("ask", yes()).is_illegal(Illegal::NoLongerAwaited);
    let mut timed_out = begun(asking(None));
    timed_out.now += 900 * SECOND;
    timed_out.signals("ask", yes()).is_illegal(Illegal::NoLongerAwaited);
}

#[test]
fn a_signal_that_no_step_waits_for_or_that_says_nothing_is_refused() {
    let mut saga = waiting(None);
    saga.signals("charge", yes()).is_illegal(Illegal::UnknownSignal);
    saga.signals("other", yes()).is_illegal(Illegal::UnknownSignal);
    for payload in [json!(null), json!({}), json!({ "yes": "yes" }), json!([true])] {
        saga.signals("ask", payload).is_illegal(Illegal::MalformedSignal);
    }
    assert_eq!(saga.entries.len(), 2);
}

#[test]
fn a_step_is_given_up_when_its_signal_does_not_come_in_time() {
    let mut saga = waiting(Some(2 * DAY));
    assert!(saga.saga.live);
    saga.passes(2 * DAY - SECOND).label("BOOKED").expect(&[]);
    saga.passes(SECOND).label("UNDOING").expect(&["book compensate"]);
    let reason = saga.saga.reason.clone().unwrap();
    assert_eq!((reason.code.as_str(), reason.text.as_str()), ("signal_overdue", "ask"));
    saga.succeeds("book compensate").label("TURNED_DOWN");
    wakes(&saga);
}

#[test]
fn a_wait_for_a_signal_is_cancelled_like_any_step_and_never_compensated() {
    let mut saga = waiting(None);
    saga.cancels()
        .label("UNDOING")
        .expect(&["book compensate"])
        .succeeds("book compensate")
        .label("CANCELLED");
    wakes(&saga);
    // Nor is a signal that has arrived, if a later step is given up.
    let mut saga = waiting(None);
    saga.signals("ask", yes()).refuses("charge execute", "declined");
    saga.expect(&["charge execute", "book compensate"]).succeeds("book compensate").label("DECLINED");
    wakes(&saga);
    // The first step: there is nothing to undo at all.
    let mut saga = begun(asking_first());
    saga.cancels().label("CANCELLED").expect(&[]);
    assert_eq!(saga.saga.outcome, Some(SagaOutcome::Undone));
    wakes(&saga);
}

#[test]
fn a_signal_may_be_the_point_of_no_return() {
    let mut saga = begun(asking_first());
    assert!(!saga.saga.live && saga.saga.outcome.is_none());
    saga.signals("ask", yes()).expect(&["file execute"]).cancels().is_illegal(Illegal::PastPivot);
    saga.succeeds("file execute");
    assert_eq!(saga.saga.outcome, Some(SagaOutcome::Completed));
    wakes(&saga);
    let mut saga = begun(asking_first());
    saga.signals("ask", no()).label("TURNED_DOWN").expect(&[]);
    assert_eq!(saga.saga.outcome, Some(SagaOutcome::Undone));
    wakes(&saga);
}

#[test]
fn past_the_point_of_no_return_a_signal_can_only_say_yes() {
    let mut saga = begun(asking_last());
    saga.signals("ask", no()).is_illegal(Illegal::MustAccept);
    saga.succeeds("confirm execute").signals("ask", no()).is_illegal(Illegal::MustAccept);
    saga.signals("ask", yes()).expect(&["file execute"]).succeeds("file execute");
    assert_eq!(saga.saga.outcome, Some(SagaOutcome::Completed));
    wakes(&saga);
}

#[test]
fn no_reply_and_no_operator_can_stand_for_a_signal() {
    for deadline in [None, Some(DAY)] {
        let mut saga = waiting(deadline);
        for kind in ["execute", "probe", "compensate", "fence"] {
            for outcome in Outcome::ALL {
                saga.answers(&format!("ask {kind}"), outcome).is_ignored(Nothing::NotMine);
            }
        }
        saga.resends().is_illegal(Illegal::NothingToSend);
        saga.retries().is_illegal(Illegal::NotParked);
        saga.resolves(true, vec![]).is_illegal(Illegal::NotParked);
        assert_eq!(outstanding(&asking(deadline), &saga.saga, saga.saga.born_at), []);
        assert_eq!(saga.saga.state.commands[1].status, Status::Awaited);
    }
}

#[test]
fn a_deadline_keeps_its_time_though_the_clock_was_set_back() {
    let mut saga = waiting(Some(DAY));
    // A wake-up that has nothing to do raises the time of the next.
    saga.passes(5 * SECOND);
    let due = saga.saga.state.commands[1].due_at;
    saga.now -= 7200 * SECOND;
    assert!(
        !saga.saga.sleeps_too_long(saga.now, stay().timer_reach()),
        "a promise to people is no forgotten timer"
    );
    saga.happens(Event::Woke).changes_nothing();
    assert_eq!(saga.saga.wake_at, due);
    saga.happens(Event::Poisoned(Reason::new("poisoned", ""))).retries();
    assert_eq!(saga.saga.wake_at, due);
}

#[test]
fn a_signal_that_can_be_stored_mends_a_poisoned_saga() {
    let mut saga = waiting(None);
    saga.happens(Event::Poisoned(Reason::new("poisoned", "")));
    assert!(saga.saga.parked);
    saga.signals("ask", yes()).expect(&["charge execute"]);
    assert!(!saga.saga.parked);
    wakes(&saga);
}

#[test]
fn an_explanation_names_the_signal_and_its_deadline() {
    let saga = waiting(None);
    let explained = explain(&saga.saga, Some(&asking(None)));
    assert_eq!(explained.sentence, "Waits for the signal `ask`, since 2026-01-01T00:00:00.000Z.");
    assert_eq!(explained.until, None);
    let saga = waiting(Some(DAY));
    let explained = explain(&saga.saga, Some(&asking(Some(DAY))));
    assert_eq!(
        explained.sentence,
        "Waits for the signal `ask`, since 2026-01-01T00:00:00.000Z; unless it comes by 2026-01-02T00:00:00.000Z, the step is given up."
    );
    assert_eq!(explained.until, saga.saga.state.commands[1].due_at);
}

#[test]
fn labels_of_the_definition_are_replaced_by_those_that_the_input_chooses() {
    let relabel =
        |_: &amends_protocol::Json| vec![("TURNED_DOWN", "KEPT"), ("ASKED", "PARTLY"), ("CANCELLED", "KEPT")];
    let of = || begun(Definition { relabel, ..asking_first() });
    let mut declined = of();
    declined.label("NEW").signals("ask", no()).label("KEPT");
    let mut cancelled = of();
    cancelled.cancels().label("KEPT");
    let mut accepted = of();
    accepted.signals("ask", yes()).label("PARTLY");
    for saga in [declined, cancelled, accepted] {
        wakes(&saga);
    }
}

#[test]
fn a_program_without_the_workflow_judges_nothing_of_it() {
    // Only a workflow's definition has signals, and a program knows each workflow by its name and version. One that does
    // not know signals knows no workflow that has them.
    let catalog = Catalog::new(vec![stay()]).unwrap();
    let saga = waiting(None);
    assert!(!Known::of(&catalog).covers(&amends_engine::core::Requires::of(&saga.saga)));
    // Its row and its entries say so themselves, in words that such a program cannot read.
    assert!(saga.saga.state.to_json().contains("\"status\":\"awaited\""));
    let mut saga = saga;
    saga.signals("ask", yes());
    let entry = saga.entries.last().unwrap();
    assert!(entry.body(0).starts_with("{\"event\":{\"signalled\":"), "{}", entry.body(0));
    assert_eq!(&Entry::from_stored(entry.revision, entry.occurrence.at, &entry.body(0)).unwrap(), entry);
}

#[test]
fn a_signal_is_an_event_with_an_author() {
    let signal = Signal { name: "ask".into(), payload: yes().into(), by: Actor::new("o-1", "all is well") };
    let mut saga = waiting(None);
    saga.happens(Event::Signalled(signal.clone()));
    assert_eq!(saga.entries.last().unwrap().occurrence.event, Event::Signalled(signal));
    assert!(saga.sent.iter().all(|sent| sent.kind == Kind::Execute));
    assert_eq!(asking_first().steps[0].kind, StepKind::Pivot);
}
