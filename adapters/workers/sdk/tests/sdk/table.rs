//! The table of the protocol, cell by cell, against the pure decision.

use amends_protocol::{Command, Kind, Outcome};
use amends_worker::{
    decide::{
        Decision::{self, Execute, Ignore, LookUp, Recorded, RecordedUndo, Remember, Reply, Tombstone, Undo},
        Memory, decide,
    },
    row::{AnswerDetails, CommandRow, Lease, Status, UndoRecord},
};
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::messages::{about, again, compensate, execute, fence, probe};

const HORIZON: TimeDelta = TimeDelta::days(14);
const RETENTION: TimeDelta = TimeDelta::days(400);
const MEMORY: Memory = Memory { horizon: HORIZON, retention: RETENTION };

fn order() -> Command {
    execute("order")
}

fn now(order: &Command) -> DateTime<Utc> {
    order.issued_at + TimeDelta::minutes(1)
}

fn row(order: &Command, status: Status) -> CommandRow {
    CommandRow { status, ..CommandRow::new(order) }
}

/// A call by some instance; its lease ends after this many seconds.
fn called(order: &Command, status: Status, seconds: i64) -> CommandRow {
    let until = now(order) + TimeDelta::seconds(seconds);
    CommandRow { lease: Some(Lease { owner: Some(Uuid::new_v4()), until }), ..row(order, status) }
}

/// A call without an answer; its next look-up is due after this many seconds.
fn unanswered(order: &Command, status: Status, seconds: i64) -> CommandRow {
    let until = now(order) + TimeDelta::seconds(seconds);
    CommandRow { unsure: true, lease: Some(Lease { owner: None, until }), ..row(order, status) }
}

/// Creates the record of an undo.
fn undone(outcome: Outcome, attempt: u32) -> Option<UndoRecord> {
    Some(UndoRecord { outcome, attempt, details: AnswerDetails::default() })
}

fn verdict(row: Option<&CommandRow>, command: &Command, order: &Command) -> Decision {
    decide(row, command, now(order), MEMORY)
}

/// Checks the cells of one line: execute, compensate, probe, fence, all at the row's attempt and epoch.
fn check(line: &str, row: Option<CommandRow>, order: &Command, expected: [Decision; 4]) {
    let asked = [order.clone(), compensate(order), probe(order), fence(order)];
    for (command, expected) in asked.iter().zip(expected) {
        let decided = verdict(row.as_ref(), command, order);
        assert_eq!(decided, expected, "row: {line}; arrives: {:?}", command.kind);
    }
}

#[test]
fn no_row() {
    let expected =
        [Execute, Tombstone(Outcome::Succeeded), Reply(Outcome::NotSeen), Tombstone(Outcome::Fenced)];
    check("nothing", None, &order(), expected);
}

#[test]
fn accepted() {
    let order = order();
    let expected = [
        Reply(Outcome::InFlight),
        Tombstone(Outcome::Succeeded),
        Reply(Outcome::InFlight),
        Tombstone(Outcome::Fenced),
    ];
    check("accepted", Some(row(&order, Status::Accepted)), &order, expected);
    let due = Lease { owner: None, until: order.issued_at };
    let waiting = CommandRow { lease: Some(due), ..row(&order, Status::Accepted) };
    check("accepted, due", Some(waiting), &order, expected);
}

#[test]
fn started() {
    let order = order();
    let in_flight = Reply(Outcome::InFlight);
    let expected = [in_flight, Remember, in_flight, in_flight];
    check("started", Some(called(&order, Status::Started, 30)), &order, expected);
    let retaken = CommandRow { unsure: true, ..called(&order, Status::Started, 30) };
    check("started, unsure, called for again", Some(retaken), &order, expected);
}

#[test]
fn succeeded() {
    let order = order();
    let expected = [Recorded, Undo, Recorded, Recorded];
    check("succeeded", Some(row(&order, Status::Succeeded)), &order, expected);
}

#[test]
fn refused() {
    let order = order();
    let expected = [Recorded, Reply(Outcome::Succeeded), Recorded, Recorded];
    check("refused", Some(row(&order, Status::Refused)), &order, expected);
}

#[test]
fn failed_transient() {
    let order = order();
    let expected = [Recorded, Tombstone(Outcome::Succeeded), Recorded, Tombstone(Outcome::Fenced)];
    check("failed, transient", Some(row(&order, Status::FailedTransient)), &order, expected);
}

#[test]
fn failed_for_good() {
    let order = order();
    let expected = [Recorded, Tombstone(Outcome::Succeeded), Recorded, Tombstone(Outcome::Fenced)];
    check("failed for good", Some(row(&order, Status::FailedForGood)), &order, expected);
}

#[test]
fn unknown() {
    let order = order();
    let all = [LookUp, LookUp, LookUp, LookUp];
    check("started, lease lapsed", Some(called(&order, Status::Started, -1)), &order, all);
    check("started, lease lapses now", Some(called(&order, Status::Started, 0)), &order, all);
    check("started, unanswered", Some(unanswered(&order, Status::Started, 20)), &order, all);
    check("started, unanswered, due", Some(unanswered(&order, Status::Started, -20)), &order, all);
}

#[test]
fn undoing() {
    let order = order();
    let fenced = Reply(Outcome::Fenced);
    let under_way = [fenced, Reply(Outcome::InFlight), fenced, fenced];
    check("undoing", Some(called(&order, Status::Undoing, 30)), &order, under_way);
    let to_begin = CommandRow { unsure: false, ..unanswered(&order, Status::Undoing, -1) };
    check("undoing, not begun", Some(to_begin), &order, under_way);
    let unknown = [fenced, LookUp, fenced, fenced];
    check("undoing, lease lapsed", Some(called(&order, Status::Undoing, -1)), &order, unknown);
    check("undoing, unanswered", Some(unanswered(&order, Status::Undoing, 20)), &order, unknown);
}

#[test]
fn undone_row() {
    let order = order();
    let fenced = Reply(Outcome::Fenced);
    let row = CommandRow { undone: undone(Outcome::Succeeded, 1), ..row(&order, Status::Undone) };
    check("undone", Some(row), &order, [fenced, RecordedUndo, fenced, fenced]);
}

#[test]
fn tombstone() {
    let order = order();
    let fenced = Reply(Outcome::Fenced);
    let expected = [fenced, Reply(Outcome::Succeeded), fenced, fenced];
    check("tombstone", Some(row(&order, Status::Tombstone)), &order, expected);
}

#[test]
fn only_a_transient_failure_is_done_again_and_only_by_a_higher_attempt() {
    let order = order();
    for status in [Status::Succeeded, Status::Refused, Status::FailedForGood] {
        let decided = verdict(Some(&row(&order, status)), &again(&order, 9), &order);
        assert_eq!(decided, Recorded, "{status:?}");
    }
    for status in [Status::Undoing, Status::Undone, Status::Tombstone] {
        let row = CommandRow { undone: undone(Outcome::Succeeded, 1), ..called(&order, status, 30) };
        assert_eq!(verdict(Some(&row), &again(&order, 9), &order), Reply(Outcome::Fenced), "{status:?}");
    }
    let failed = CommandRow { attempt: 3, ..row(&order, Status::FailedTransient) };
    for (attempt, expected) in [(2, Recorded), (3, Recorded), (4, Execute)] {
        let decided = verdict(Some(&failed), &again(&order, attempt), &order);
        assert_eq!(decided, expected, "attempt {attempt}");
    }
    let higher_probe = again(&probe(&order), 9);
    assert_eq!(verdict(Some(&failed), &higher_probe, &order), Recorded, "a probe changes nothing");
}

#[test]
fn a_failed_undo_is_done_again_by_a_higher_attempt_and_told_to_the_same() {
    let order = order();
    let row = CommandRow {
        attempt: 5,
        undone: undone(Outcome::FailedTransient, 2),
        ..row(&order, Status::Succeeded)
    };
    for (attempt, expected) in [(1, RecordedUndo), (2, RecordedUndo), (3, Undo)] {
        let decided = verdict(Some(&row), &again(&compensate(&order), attempt), &order);
        assert_eq!(decided, expected, "attempt {attempt}");
    }
    let expected = [Recorded, Recorded, Recorded];
    let asked = [order.clone(), probe(&order), fence(&order)];
    assert_eq!(asked.map(|c| verdict(Some(&row), &c, &order)), expected, "its effect stands");
}

#[test]
fn an_undone_row_answers_from_the_record_whatever_the_attempt() {
    let order = order();
    let row = CommandRow { undone: undone(Outcome::Succeeded, 1), ..row(&order, Status::Undone) };
    assert_eq!(verdict(Some(&row), &again(&compensate(&order), 9), &order), RecordedUndo);
}

#[test]
fn beyond_the_horizon_and_without_a_row_nothing_is_done_and_nothing_promised() {
    let order = order();
    let ask = |kind, age| {
        let command = if kind == Kind::Execute { order.clone() } else { about(kind, &order) };
        decide(None, &command, order.issued_at + age, MEMORY)
    };
    let beyond = HORIZON + TimeDelta::milliseconds(1);
    assert_eq!(ask(Kind::Execute, beyond), Reply(Outcome::Expired));
    for kind in [Kind::Compensate, Kind::Probe, Kind::Fence] {
        assert_eq!(ask(kind, beyond), Reply(Outcome::Unknown), "{kind:?}");
    }
    assert_eq!(ask(Kind::Execute, HORIZON), Execute);
    assert_eq!(ask(Kind::Compensate, HORIZON), Tombstone(Outcome::Succeeded));
    assert_eq!(ask(Kind::Probe, HORIZON), Reply(Outcome::NotSeen));
    assert_eq!(ask(Kind::Fence, HORIZON), Tombstone(Outcome::Fenced));
}

/// A compensation for a step of three weeks ago is issued today. Its row, if there was one, is gone: it may have held
/// money, and a tombstone would give that up.
#[test]
fn a_compensation_without_a_row_is_as_old_as_its_target() {
    let order = order();
    let now = order.issued_at + HORIZON + TimeDelta::days(7);
    for kind in [Kind::Compensate, Kind::Probe, Kind::Fence] {
        let young =
            Command { issued_at: now, target_issued_at: Some(order.issued_at), ..about(kind, &order) };
        assert_eq!(decide(None, &young, now, MEMORY), Reply(Outcome::Unknown), "{kind:?}");
        let fresh = Command { target_issued_at: Some(now), ..young.clone() };
        assert_ne!(decide(None, &fresh, now, MEMORY), Reply(Outcome::Unknown), "{kind:?}");
    }
    // An engine that does not send the time: the saga's birth is the earliest possible one.
    let silent = Command { issued_at: now, target_issued_at: None, ..compensate(&order) };
    assert_eq!(decide(None, &silent, now, MEMORY), Reply(Outcome::Unknown));
}

#[test]
fn beyond_the_retention_of_its_saga_a_row_may_have_gone_however_young_the_command() {
    let order = order();
    let now = order.issued_at + RETENTION + TimeDelta::seconds(1);
    let late = Command { issued_at: now, ..order.clone() };
    assert_eq!(decide(None, &late, now, MEMORY), Reply(Outcome::Expired));
    let undo = Command { issued_at: now, target_issued_at: Some(now), ..compensate(&order) };
    assert_eq!(decide(None, &undo, now, MEMORY), Reply(Outcome::Unknown));
    let row = row(&order, Status::Succeeded);
    assert_eq!(decide(Some(&row), &undo, now, MEMORY), Undo, "the row first");
}

#[test]
fn a_row_is_believed_however_old_the_command() {
    let order = order();
    let late = order.issued_at + HORIZON * 2;
    let ask = |row: &CommandRow, command: &Command| decide(Some(row), command, late, MEMORY);
    let succeeded = row(&order, Status::Succeeded);
    assert_eq!(ask(&succeeded, &order), Recorded);
    assert_eq!(ask(&succeeded, &compensate(&order)), Undo);
    let failed = row(&order, Status::FailedTransient);
    assert_eq!(ask(&failed, &again(&order, 2)), Execute);
    assert_eq!(ask(&failed, &fence(&order)), Tombstone(Outcome::Fenced));
}

#[test]
fn a_deadline_that_has_passed_refuses_nothing() {
    let order = Command { deadline: DateTime::UNIX_EPOCH, ..order() };
    assert_eq!(verdict(None, &order, &order), Execute);
}

#[test]
fn a_row_that_has_seen_a_newer_epoch_ignores_older_commands() {
    let order = order();
    let statuses = [
        Status::Accepted,
        Status::Started,
        Status::Succeeded,
        Status::Refused,
        Status::FailedTransient,
        Status::FailedForGood,
        Status::Undoing,
        Status::Undone,
        Status::Tombstone,
    ];
    for status in statuses {
        let row = CommandRow { epoch: 2, undone: undone(Outcome::Succeeded, 1), ..row(&order, status) };
        for kind in [Kind::Execute, Kind::Compensate, Kind::Probe, Kind::Fence] {
            let about = if kind == Kind::Execute { again(&order, 2) } else { about(kind, &order) };
            let older = Command { epoch: 1, ..about.clone() };
            assert_eq!(verdict(Some(&row), &older, &order), Ignore, "{status:?}, {kind:?}");
            for epoch in [2, 3] {
                let same = Command { epoch, ..about.clone() };
                assert_ne!(verdict(Some(&row), &same, &order), Ignore, "{status:?}, {kind:?}, {epoch}");
            }
        }
    }
}
