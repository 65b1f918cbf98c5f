use std::{collections::HashMap, time::Duration};

use amends_protocol::{Exposure, Json, Reason, SCHEMA_VERSION, id};

use super::*;
use crate::{executor::Answer, settings::Settings, store::Locked};

const BINDING: Port = Port {
    idempotent: true,
    first_answer_binds: true,
    can_look_up: true,
    can_void: true,
    keeps_keys_for: Duration::MAX,
};
const LOOSE: Port = Port { first_answer_binds: false, ..BINDING };
const ME: Uuid = Uuid::from_u128(1);
const OTHER: Uuid = Uuid::from_u128(2);

fn execute() -> Command {
    let (saga_id, now) = (Uuid::from_u128(9), DateTime::UNIX_EPOCH);
    Command {
        schema_version: SCHEMA_VERSION,
        command_id: id::execute(saga_id, "pay", 0, 1),
        kind: Kind::Execute,
        target: None,
        saga_id,
        slot: 7,
        business_key: "order".into(),
        workflow: "order".into(),
        workflow_version: 1,
        step: "pay".into(),
        part: 0,
        generation: 1,
        attempt: 1,
        epoch: 0,
        issued_at: now,
        sent_at: Some(now),
        target_issued_at: None,
        resolved: None,
        deadline: now,
        reply_token: String::new(),
        payload: Json::null(),
    }
}

fn about(kind: Kind) -> Command {
    let target = execute().command_id;
    Command { kind, command_id: id::of(kind, target), target: Some(target), ..execute() }
}

/// A row for which this instance is calling.
fn called(status: Status) -> CommandRow {
    let lease = Lease { owner: Some(ME), until: DateTime::UNIX_EPOCH + TimeDelta::seconds(30) };
    let undo = (status == Status::Undoing).then(|| about(Kind::Compensate));
    let command = (status == Status::Started).then(execute);
    let started_at = Some(DateTime::UNIX_EPOCH);
    CommandRow { status, lease: Some(lease), undo, command, started_at, ..CommandRow::new(&execute()) }
}

fn unsure(row: CommandRow) -> CommandRow {
    CommandRow { unsure: true, ..row }
}

fn unwanted(row: CommandRow) -> CommandRow {
    CommandRow { undo: Some(about(Kind::Compensate)), ..row }
}

struct Settled {
    row: CommandRow,
    next: Next,
    replies: Vec<(Kind, Outcome)>,
}

fn settled(row: CommandRow, found: Found, asker: Option<Command>, port: Port) -> Settled {
    let action = if row.status == Status::Started { Action::Execute } else { Action::Undo };
    report(row, action, found, asker, port)
}

fn report(row: CommandRow, action: Action, found: Found, asker: Option<Command>, port: Port) -> Settled {
    let key = row.key;
    let locked = Locked {
        now: DateTime::UNIX_EPOCH + TimeDelta::seconds(5),
        rows: HashMap::from([(key, row)]),
        ..Locked::default()
    };
    let mut unit = UnitOfWork::new(locked, &[], &Settings::new("test"));
    let command = if action == Action::Execute { execute() } else { about(Kind::Compensate) };
    let command = &command;
    let report =
        Report { key, command, action, found, unsure: false, asker: asker.as_ref(), traceparent: None };
    let next = settle(&mut unit, report, port, ME);
    let replies = unit.answered.iter().map(|a| (a.reply.kind, a.reply.outcome)).collect();
    Settled { row: unit.rows[&key].clone(), next, replies }
}

fn done() -> Found {
    Found::Answer(Answer::succeeded(None, vec![Exposure::new("money_captured", "EUR", 2500)]))
}

fn refused() -> Found {
    Found::Answer(Answer::refused("card_declined", ""))
}

fn failed() -> Found {
    Found::Answer(Answer::failed_for_now("out_of_order", ""))
}

fn no_answer() -> Found {
    Found::Answer(Answer::Unknown(Reason::new("no_answer", "")))
}

#[test]
fn that_nobody_knows_is_told_to_a_command_that_waited_for_its_call_and_told_once() {
    let first = settled(called(Status::Started), no_answer(), None, BINDING);
    assert_eq!(first.replies, [(Kind::Execute, Outcome::Unknown)]);
    let later = settled(unsure(called(Status::Started)), no_answer(), None, BINDING);
    assert_eq!(later.replies, []);
    let undo = settled(called(Status::Undoing), no_answer(), None, BINDING);
    assert_eq!(undo.replies, [(Kind::Compensate, Outcome::Unknown)]);
}

#[test]
fn trap_2_a_call_without_an_answer_is_not_a_failure() {
    let Settled { row, replies, .. } =
        settled(called(Status::Started), no_answer(), Some(execute()), BINDING);
    assert_eq!((row.status, row.unsure), (Status::Started, true));
    assert_eq!(row.lease.unwrap().owner, None, "it rests");
    assert_eq!(replies, [(Kind::Execute, Outcome::Unknown)]);
}

#[test]
fn trap_3_a_clean_failure_after_an_unanswered_call_is_not_recorded() {
    for status in [Status::Started, Status::Undoing] {
        let Settled { row, .. } = settled(unsure(called(status)), failed(), None, BINDING);
        assert_eq!((row.status, row.unsure), (status, true));
    }
}

#[test]
fn trap_4_a_refusal_after_an_unanswered_call_is_recorded_only_where_the_first_answer_binds() {
    let loose = settled(unsure(called(Status::Started)), refused(), None, LOOSE);
    assert_eq!((loose.row.status, loose.replies), (Status::Started, vec![]));
    let binding = settled(unsure(called(Status::Started)), refused(), None, BINDING);
    assert_eq!(binding.row.status, Status::Refused);
    assert_eq!(binding.replies, [(Kind::Execute, Outcome::Refused)]);
}

#[test]
fn trap_7_an_outcome_is_not_written_over_anothers() {
    for status in [Status::Succeeded, Status::Undoing, Status::Undone, Status::Tombstone, Status::Refused] {
        let row = called(status);
        let late = report(row.clone(), Action::Execute, refused(), None, BINDING);
        assert_eq!((late.row, late.next), (row, Next::Over), "{status:?}");
    }
    let undone = CommandRow { status: Status::Undone, ..called(Status::Undoing) };
    let late = report(undone.clone(), Action::Undo, failed(), None, BINDING);
    assert_eq!(late.row, undone);
}

#[test]
fn what_was_written_down_and_not_told_because_the_answer_to_its_commit_was_lost_is_told() {
    let mut row = called(Status::Undoing);
    row.settle_undo(Outcome::Succeeded, 1, AnswerDetails::default());
    let again = report(row, Action::Undo, done(), None, BINDING);
    assert_eq!(again.replies, [(Kind::Compensate, Outcome::Succeeded)]);
    let mut row = called(Status::Started);
    row.settle(Status::Succeeded, AnswerDetails::default());
    let again = report(row, Action::Execute, done(), None, BINDING);
    assert_eq!(again.replies, [(Kind::Execute, Outcome::Succeeded)]);
}

#[test]
fn whoever_was_late_hears_what_the_row_says() {
    let row = CommandRow { status: Status::Succeeded, ..called(Status::Started) };
    let late = report(row, Action::Execute, no_answer(), Some(execute()), BINDING);
    assert_eq!(late.replies, [(Kind::Execute, Outcome::Succeeded)]);
}

#[test]
fn an_answered_failure_is_recorded_and_the_command_forgotten() {
    let Settled { row, replies, .. } = settled(called(Status::Started), failed(), Some(execute()), BINDING);
    assert_eq!((row.status, row.command, row.lease), (Status::FailedTransient, None, None));
    assert_eq!(replies, [(Kind::Execute, Outcome::FailedTransient)]);
}

#[test]
fn a_success_settles_even_an_unsure_row_and_answers_the_probe_as_well() {
    let probe = Some(about(Kind::Probe));
    let Settled { row, replies, .. } = settled(unsure(called(Status::Started)), done(), probe, LOOSE);
    assert_eq!((row.status, row.unsure), (Status::Succeeded, false));
    assert_eq!(replies, [(Kind::Execute, Outcome::Succeeded), (Kind::Probe, Outcome::Succeeded)]);
}

#[test]
fn a_fence_that_waited_for_a_failure_leaves_a_tombstone() {
    let Settled { row, replies, .. } =
        settled(called(Status::Started), failed(), Some(about(Kind::Fence)), BINDING);
    assert_eq!(row.status, Status::Tombstone);
    assert_eq!(replies, [(Kind::Execute, Outcome::FailedTransient), (Kind::Fence, Outcome::Fenced)]);
}

#[test]
fn a_remembered_compensation_undoes_a_success_and_is_content_with_anything_else() {
    let success = settled(unwanted(called(Status::Started)), done(), None, BINDING);
    assert_eq!((success.row.status, success.next), (Status::Undoing, Next::Undo));
    assert_eq!(success.replies, [(Kind::Execute, Outcome::Succeeded)], "the compensation is answered later");

    for (found, status, outcome) in [
        (refused(), Status::Refused, Outcome::Refused),
        (failed(), Status::Tombstone, Outcome::FailedTransient),
        (Found::Voided, Status::Tombstone, Outcome::Fenced),
    ] {
        let it = settled(unwanted(called(Status::Started)), found, None, BINDING);
        assert_eq!((it.row.status, it.next), (status, Next::Over));
        assert_eq!(it.replies, [(Kind::Execute, outcome), (Kind::Compensate, Outcome::Succeeded)]);
    }
}

#[test]
fn a_remembered_compensation_hears_that_nobody_knows() {
    let it = settled(unwanted(called(Status::Started)), no_answer(), Some(execute()), BINDING);
    assert_eq!(it.row.status, Status::Started);
    assert!(it.row.undo.is_some(), "still remembered");
    assert_eq!(it.replies, [(Kind::Execute, Outcome::Unknown), (Kind::Compensate, Outcome::Unknown)]);
}

#[test]
fn what_could_not_be_undone_is_still_held() {
    for (found, outcome) in [(refused(), Outcome::Refused), (failed(), Outcome::FailedTransient)] {
        let it = settled(called(Status::Undoing), found, None, BINDING);
        assert_eq!(it.row.status, Status::Succeeded);
        assert_eq!(it.replies, [(Kind::Compensate, outcome)]);
    }
    let undone = settled(called(Status::Undoing), done(), None, BINDING);
    assert_eq!(undone.row.status, Status::Undone);
}

#[test]
fn the_lease_of_whoever_took_the_call_over_is_left_alone() {
    let lease = Lease { owner: Some(OTHER), until: DateTime::UNIX_EPOCH + TimeDelta::seconds(60) };
    let taken_over = unsure(CommandRow { lease: Some(lease), ..called(Status::Started) });
    let it = settled(taken_over, no_answer(), Some(execute()), BINDING);
    assert_eq!(it.row.lease, Some(lease));
}

#[test]
fn a_resting_row_waits_as_long_again_as_it_has_lasted() {
    let rest = settled(called(Status::Started), no_answer(), None, BINDING);
    let until = rest.row.lease.unwrap().until;
    assert_eq!(until, DateTime::UNIX_EPOCH + TimeDelta::seconds(10));
}

#[test]
fn a_row_that_nobody_can_settle_rests_a_day_at_most() {
    let started_at = Some(DateTime::UNIX_EPOCH - TimeDelta::days(40));
    let rest = settled(CommandRow { started_at, ..called(Status::Started) }, no_answer(), None, BINDING);
    assert_eq!(
        rest.row.lease.unwrap().until,
        DateTime::UNIX_EPOCH + TimeDelta::seconds(5) + TimeDelta::days(1)
    );
}
