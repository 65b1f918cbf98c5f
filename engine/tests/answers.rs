//! What answers do to a saga, rule by rule, where the tables do not show it.

mod support;

use amends_engine::core::{
    Echo, Event, Illegal, Input, Nothing, ReplyEvent, RetryPolicy, SagaOutcome, SagaState, Status,
};
use amends_engine::dialogue::Dialogue;
use amends_protocol::{Exposure, MAX_ATTEMPT, Outcome};
use serde_json::json;
use support::{SECOND, possible, stay, unknown_until_parked, waiting_for, wakes};

// ---- unsupported, not seen, unknown -------------------------------------------------------------------------

#[test]
fn a_worker_too_old_for_a_command_is_asked_ever_more_rarely() {
    let mut stay = waiting_for("charge");
    let mut delays = Vec::new();
    for _ in 0..9 {
        stay.answers("charge execute", Outcome::Unsupported).expect(&[]).label("BOOKED");
        let due = stay.saga.state.commands[1].due_at.unwrap() - stay.now;
        delays.push(due.num_milliseconds());
        stay.passes(due.to_std().unwrap()).expect(&["charge execute"]);
    }
    assert_eq!(delays, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
    assert_eq!(stay.saga.state.commands[1].attempt, 1);
    stay.succeeds("charge execute").label("CHARGED");
    wakes(&stay);
}

#[test]
fn unsupported_heard_twice_is_written_once() {
    let mut stay = waiting_for("charge");
    stay.answers("charge execute", Outcome::Unsupported);
    stay.answers("charge execute", Outcome::Unsupported).is_ignored(Nothing::Duplicate);
}

#[test]
fn not_seen_is_an_answer_to_a_probe_only() {
    let mut stay = waiting_for("charge");
    stay.passes(10 * SECOND).sent.clear();
    assert_eq!(stay.saga.state.commands[1].status, Status::Unknown);
    stay.answers("charge execute", Outcome::NotSeen).expect(&[]);
    stay.answers("charge probe", Outcome::NotSeen).expect(&["charge execute"]);
    assert_eq!(stay.saga.state.commands[1].attempt, 1, "a retry of the same attempt");
    stay.answers("charge probe", Outcome::NotSeen).is_ignored(Nothing::Duplicate).expect(&[]);
}

#[test]
fn one_unknown_delivered_five_times_is_one_unknown() {
    let mut stay = waiting_for("charge");
    stay.passes(10 * SECOND);
    stay.answers("charge probe", Outcome::Unknown);
    for _ in 0..5 {
        stay.answers("charge probe", Outcome::Unknown).changes_nothing();
    }
    assert!(!stay.saga.parked);
}

#[test]
fn an_outcome_that_stays_unknown_parks_and_a_late_answer_goes_on() {
    for (outcome, label, parked) in [
        (Outcome::Succeeded, "CHARGED", false),
        (Outcome::Refused, "UNDOING", false),
        (Outcome::FailedTransient, "BOOKED", false),
        (Outcome::FailedForGood, "UNDOING", false),
        (Outcome::Fenced, "UNDOING", false),
        (Outcome::NotSeen, "BOOKED", false),
        (Outcome::Expired, "UNDOING", false),
        (Outcome::Unknown, "BOOKED", true),
        (Outcome::Unsupported, "BOOKED", true),
        (Outcome::InFlight, "BOOKED", true),
    ] {
        let mut stay = unknown_until_parked("charge");
        assert_eq!(stay.saga.parked_reason().unwrap().code, "outcome_unknown");
        assert!(!stay.saga.live);
        stay.answers("charge probe", outcome).label(label);
        assert_eq!(stay.saga.parked, parked, "{outcome:?}\n{}", stay.timeline());
        assert_eq!(stay.saga.live, !parked, "{outcome:?}\n{}", stay.timeline());
        wakes(&stay);
    }
}

// ---- failures and attempts ------------------------------------------------------------------------------------

#[test]
fn an_old_probes_answer_of_an_older_attempt_does_not_hurry_the_present_one() {
    let mut stay = waiting_for("charge");
    let old = stay.reply("charge probe", Outcome::FailedTransient);
    stay.answers("charge execute", Outcome::FailedTransient).passes(SECOND).expect(&["charge execute"]);
    stay.happens(Event::Replied(old)).expect(&[]).changes_nothing();
}

#[test]
fn a_probe_answered_with_an_older_failure_counts_as_not_seen() {
    let mut stay = waiting_for("charge");
    let old = stay.reply("charge probe", Outcome::FailedTransient);
    stay.answers("charge execute", Outcome::FailedTransient).passes(SECOND).expect(&["charge execute"]);
    stay.passes(10 * SECOND).sent.clear();
    stay.happens(Event::Replied(old)).expect(&["charge execute"]);
    assert_eq!(stay.saga.state.commands[1].attempt, 2);
}

#[test]
fn a_failure_above_the_attempts_sent_costs_one_and_the_next_attempt_is_above_it() {
    let mut stay = waiting_for("charge");
    for (row, next) in [(7, 8), (8, 9), (1_000, 1_001), (MAX_ATTEMPT, MAX_ATTEMPT)] {
        let mut reply = stay.reply("charge execute", Outcome::FailedTransient);
        reply.attempt = row;
        stay.happens(Event::Replied(reply)).label("BOOKED").passes(4 * SECOND).expect(&["charge execute"]);
        assert_eq!(stay.saga.state.commands[1].attempt, next);
    }
    stay.answers("charge execute", Outcome::FailedTransient).label("UNDOING");
    let failed = |stay: &Dialogue| stay.saga.state.commands[1].failures;
    assert_eq!((failed(&stay), stay.saga.reason.as_ref().unwrap().code.as_str()), (5, "unavailable"));
    // A success or refusal counts, whatever the attempt of its row.
    for outcome in [Outcome::Succeeded, Outcome::Refused] {
        let mut stay = waiting_for("charge");
        let mut reply = stay.reply("charge execute", outcome);
        reply.attempt = 9;
        stay.happens(Event::Replied(reply));
        assert!(!stay.saga.state.commands[1].status.is_open());
        wakes(&stay);
    }
}

#[test]
fn a_retriable_step_has_no_limit_whatever_its_policy_says() {
    let mut definition = stay();
    definition.steps[3].retry = RetryPolicy::attempts(Some(2));
    let mut stay = Dialogue::begin(definition, json!({}));
    for step in ["book", "charge", "confirm"] {
        stay.succeeds(&format!("{step} execute"));
    }
    for _ in 0..5 {
        stay.answers("file execute", Outcome::FailedTransient).label("CONFIRMED").passes(60 * SECOND);
    }
    stay.succeeds("file execute");
    assert_eq!(stay.saga.outcome, Some(SagaOutcome::Completed));
}

#[test]
fn a_failed_compensation_adopts_the_rows_attempt_even_where_it_parks() {
    let mut stay = waiting_for("charge");
    stay.cancels().sent.clear();
    let mut refused = stay.reply("charge compensate", Outcome::Refused);
    refused.attempt = 3;
    stay.happens(Event::Replied(refused));
    assert!(stay.saga.parked);
    stay.retries().expect(&["charge compensate"]);
    assert_eq!(stay.saga.state.commands[1].undo.as_ref().unwrap().attempt, 4, "a new attempt for its row");
}

// ---- late successes -------------------------------------------------------------------------------------------

#[test]
fn a_retriable_step_that_took_effect_after_all_is_done() {
    for outcome in [Outcome::FailedForGood, Outcome::Refused, Outcome::Fenced, Outcome::Expired] {
        let mut stay = waiting_for("file");
        stay.answers("file execute", outcome).label("CONFIRMED");
        assert!(stay.saga.parked, "{outcome:?}");
        stay.succeeds("file execute");
        assert_eq!(stay.saga.state(), SagaState::Completed, "{outcome:?}\n{}", stay.timeline());
        wakes(&stay);
    }
}

#[test]
fn an_effect_of_an_earlier_generation_is_an_incident_and_settles_no_other() {
    let mut stay = waiting_for("file");
    let late = stay.reply("file execute", Outcome::Succeeded);
    stay.refuses("file execute", "no_paper").retries().expect(&["file execute"]);
    stay.happens(Event::Replied(late.clone()));
    assert_eq!(stay.entries.last().unwrap().did.incident.as_deref(), Some("late_success"));
    assert_eq!(stay.saga.state(), SagaState::Running);
    stay.happens(Event::Replied(late)).is_ignored(Nothing::Duplicate);
    stay.succeeds("file execute");
    assert_eq!(stay.saga.state(), SagaState::Completed);
    let ids: Vec<_> = stay.saga.state.commands.iter().map(|c| (c.step, c.part, c.generation)).collect();
    assert_eq!(ids, [(0, 0, 1), (1, 0, 1), (2, 0, 1), (3, 0, 1), (3, 0, 2)], "no id comes twice");
    wakes(&stay);
}

#[test]
fn a_success_overtaken_by_the_answer_fenced_is_held_until_it_is_undone() {
    let mut stay = waiting_for("charge");
    let late = stay.reply("charge execute", Outcome::Succeeded);
    stay.cancels();
    // A second delivery of the execute found the row while it was being undone.
    stay.answers("charge execute", Outcome::Fenced);
    assert_eq!(possible(&stay), [Exposure::new("money_captured", "EUR", 100)]);
    stay.happens(Event::Replied(late));
    assert!(stay.holds().contains(&Exposure::new("money_captured", "EUR", 100)));
    assert_eq!(possible(&stay), []);
    stay.succeeds("charge compensate").succeeds("book compensate").label("CANCELLED");
    assert_eq!(stay.holds(), []);
    wakes(&stay);
}

#[test]
fn a_success_after_the_end_of_what_was_refused_is_undone_and_the_outcome_stays() {
    let mut stay = waiting_for("charge");
    let late = stay.reply("charge execute", Outcome::Succeeded);
    stay.refuses("charge execute", "declined").succeeds("book compensate").label("DECLINED").sent.clear();
    assert!(!stay.saga.live);
    stay.happens(Event::Replied(late.clone())).expect(&["charge compensate"]).label("DECLINED");
    assert!(stay.saga.live);
    assert_eq!(stay.saga.outcome, Some(SagaOutcome::Undone));
    assert_eq!(stay.entries.last().unwrap().did.incident.as_deref(), Some("late_success"));
    assert_eq!(stay.holds(), [Exposure::new("money_captured", "EUR", 100)]);
    stay.happens(Event::Replied(late)).is_ignored(Nothing::Duplicate);
    stay.passes(5 * SECOND).expect(&["charge compensate"]);
    stay.succeeds("charge compensate").label("DECLINED").expect(&[]);
    assert!(!stay.saga.live && stay.holds().is_empty());
    wakes(&stay);
}

#[test]
fn an_orphans_refused_compensation_parks_the_ended_saga_until_it_is_resolved() {
    let mut stay = waiting_for("charge");
    let late = stay.reply("charge execute", Outcome::Succeeded);
    stay.refuses("charge execute", "declined").succeeds("book compensate").happens(Event::Replied(late));
    stay.refuses("charge compensate", "closed_account");
    assert_eq!(stay.saga.state(), SagaState::Parked);
    stay.cancels().is_illegal(Illegal::Ended);
    stay.resolves(true, vec![]).label("DECLINED");
    assert_eq!(stay.saga.state(), SagaState::Undone);
    assert_eq!(stay.holds(), []);
    wakes(&stay);
}

#[test]
fn a_success_after_its_compensation_was_done_holds_nothing() {
    let mut stay = waiting_for("book");
    let late = stay.reply("book execute", Outcome::Succeeded);
    stay.cancels().succeeds("book compensate").label("CANCELLED").sent.clear();
    stay.happens(Event::Replied(late)).expect(&[]).label("CANCELLED");
    assert!(!stay.saga.live && stay.holds().is_empty() && possible(&stay).is_empty());
    wakes(&stay);
}

// ---- what is not given back -----------------------------------------------------------------------------------

/// A cancelled saga whose worker reports a charge of 100 as undone, giving back this amount.
fn given_back(amount: i64) -> (Dialogue, ReplyEvent) {
    let mut stay = waiting_for("confirm");
    stay.cancels().succeeds("confirm compensate").sent.clear();
    let mut reply = stay.reply("charge compensate", Outcome::Succeeded);
    reply.exposure = vec![Exposure::new("money_captured", "EUR", -amount)];
    reply.exposure.retain(|e| e.amount != 0);
    stay.happens(Event::Replied(reply.clone()));
    (stay, reply)
}

#[test]
fn what_a_compensation_did_not_give_back_is_still_held_and_parks() {
    for (amount, left) in [(0, 100), (70, 30), (130, -30)] {
        let (mut stay, reply) = given_back(amount);
        assert_eq!(stay.saga.state(), SagaState::Parked, "{}", stay.timeline());
        assert_eq!(stay.saga.parked_reason().unwrap().code, "exposure_not_netted");
        assert!(!stay.saga.state.commands[1].is_undone());
        assert!(stay.holds().contains(&Exposure::new("money_captured", "EUR", left)));
        stay.happens(Event::Replied(reply)).is_ignored(Nothing::Duplicate).passes(600 * SECOND).expect(&[]);
        stay.resolves(true, vec![])
            .expect(&["book compensate"])
            .succeeds("book compensate")
            .label("CANCELLED");
        assert_eq!(stay.holds(), []);
        wakes(&stay);
    }
}

#[test]
fn what_is_given_back_at_last_settles_it_and_what_was_counted_counts_once() {
    let (mut stay, first) = given_back(70);
    stay.retries().expect(&["charge compensate"]);
    // The first answer again: nothing more is given back, and the compensation must not seem to be in progress.
    stay.happens(Event::Replied(first));
    assert_eq!(stay.saga.state(), SagaState::Parked);
    assert!(stay.holds().contains(&Exposure::new("money_captured", "EUR", 30)), "{:?}", stay.holds());
    stay.retries().expect(&["charge compensate"]);
    let mut rest = stay.reply("charge compensate", Outcome::Succeeded);
    rest.exposure = vec![Exposure::new("money_captured", "EUR", -30)];
    stay.happens(Event::Replied(rest)).expect(&["book compensate"]).succeeds("book compensate");
    stay.label("CANCELLED");
    assert_eq!(stay.holds(), []);
    wakes(&stay);
}

#[test]
fn an_attempt_that_says_later_that_it_gave_all_back_settles_it() {
    let (mut stay, mut reply) = given_back(70);
    reply.exposure = vec![Exposure::new("money_captured", "EUR", -100)];
    stay.happens(Event::Replied(reply)).expect(&["book compensate"]).succeeds("book compensate");
    assert_eq!(stay.holds(), []);
    stay.label("CANCELLED");
    wakes(&stay);
}

#[test]
fn nothing_need_be_given_back_of_what_is_not_known_to_have_happened() {
    let mut stay = waiting_for("charge");
    let late = stay.reply("charge execute", Outcome::Succeeded);
    stay.cancels().succeeds("charge compensate").expect(&["charge compensate", "book compensate"]);
    // A success that arrives later was undone or never happened, as its worker has said.
    stay.happens(Event::Replied(late)).succeeds("book compensate").label("CANCELLED");
    assert_eq!(stay.holds(), []);
    wakes(&stay);
}

#[test]
fn an_orphan_that_is_not_given_back_parks_the_ended_saga_and_its_outcome_stays() {
    let mut stay = waiting_for("charge");
    let late = stay.reply("charge execute", Outcome::Succeeded);
    stay.refuses("charge execute", "declined").succeeds("book compensate").happens(Event::Replied(late));
    let mut nothing = stay.reply("charge compensate", Outcome::Succeeded);
    nothing.exposure.clear();
    stay.happens(Event::Replied(nothing)).label("DECLINED");
    assert_eq!((stay.saga.state(), stay.saga.outcome), (SagaState::Parked, Some(SagaOutcome::Undone)));
    wakes(&stay);
}

#[test]
fn what_is_held_beyond_what_a_command_may_hold_counts_and_is_flagged() {
    let input = json!({ "rooms": 1 }).into();
    let beyond =
        |stay: &Dialogue| stay.saga.holds_beyond(&support::stay(), Input { data: &input, personal: None });
    let mut stay = waiting_for("charge");
    assert_eq!(beyond(&stay), []);
    let mut more = stay.reply("charge execute", Outcome::Succeeded);
    more.exposure = vec![Exposure::new("money_captured", "EUR", 130)];
    stay.happens(Event::Replied(more)).label("CHARGED");
    assert!(stay.holds().contains(&Exposure::new("money_captured", "EUR", 130)), "never discarded");
    assert_eq!(beyond(&stay), [Exposure::new("money_captured", "EUR", 30)]);
    // A later step may give back what an earlier one took, but not more.
    let mut takes = stay.reply("confirm execute", Outcome::Succeeded);
    takes.exposure = vec![Exposure::new("room_booked", "room-0", -1)];
    stay.happens(Event::Replied(takes));
    assert_eq!(beyond(&stay), [Exposure::new("money_captured", "EUR", 30)]);
    let mut takes = stay.reply("file execute", Outcome::Succeeded);
    takes.exposure = vec![Exposure::new("room_booked", "room-0", -1)];
    stay.happens(Event::Replied(takes));
    assert!(beyond(&stay).contains(&Exposure::new("room_booked", "room-0", -1)), "{:?}", beyond(&stay));
}

// ---- echoes ---------------------------------------------------------------------------------------------------

#[test]
fn a_reply_that_repeats_another_commands_step_part_generation_workflow_or_slot_settles_nothing() {
    let stay = waiting_for("charge");
    let right = Echo { part: 0, generation: 1, slot: stay.saga.slot, workflow: Some(("stay", 1)) };
    let reply = |echo| ReplyEvent { echo: Some(echo), ..stay.reply("charge execute", Outcome::Refused) };
    for wrong in [
        Echo { part: 1, ..right },
        Echo { generation: 2, ..right },
        Echo { slot: right.slot + 1, ..right },
        Echo { workflow: Some(("stay", 2)), ..right },
        Echo { workflow: Some(("journey", 1)), ..right },
        Echo { workflow: None, ..right },
    ] {
        stay.clone().happens(Event::Replied(reply(wrong))).is_ignored(Nothing::WrongEcho);
    }
    let another = ReplyEvent { step: "book".to_owned(), ..reply(right) };
    stay.clone().happens(Event::Replied(another)).is_ignored(Nothing::WrongEcho);
    let mut stay = stay.clone();
    stay.happens(Event::Replied(reply(right))).label("UNDOING");
    wakes(&stay);
}

#[test]
fn a_compensation_that_a_worker_is_too_old_for_is_sent_sooner_than_after_silence() {
    let mut stay = waiting_for("charge");
    stay.cancels().sent.clear();
    stay.answers("charge compensate", Outcome::Unsupported);
    stay.answers("charge compensate", Outcome::Unsupported).is_ignored(Nothing::Duplicate);
    stay.passes(SECOND).expect(&["charge compensate"]);
    assert_eq!(stay.saga.state.commands[1].undo.as_ref().unwrap().attempt, 1);
}

// ---- expired --------------------------------------------------------------------------------------------------

#[test]
fn expired_is_never_no_effect() {
    let mut stay = waiting_for("charge");
    stay.answers("charge execute", Outcome::Expired).expect(&["charge compensate"]);
    assert_eq!(possible(&stay), [Exposure::new("money_captured", "EUR", 100)]);

    // The engine probes for a step that cannot be undone; it issues a second command only on evidence.
    let mut stay = waiting_for("file");
    stay.answers("file execute", Outcome::Expired).retries().expect(&["file probe"]);
    let mut stay = waiting_for("file");
    stay.answers("file execute", Outcome::Expired)
        .resolves(false, vec![])
        .expect(&["file fence", "file execute"]);
    assert_eq!(stay.saga.state.commands[4].generation, 2);
}
