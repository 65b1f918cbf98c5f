//! What an answer does to a row whose outcome was not known. Pure.
//!
//! A row leaves `started` only by the answer to a call under its key, or by a look-up that finds one; and an answer is
//! recorded only if the row still waits for it. While the row is unsure `failed` is never recorded, nor `refused`
//! unless the port's first answer binds.

use amends_protocol::{Command, Kind, Outcome, Reply};
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::round::{Finished, Found};
use crate::{
    executor::{Action, Port},
    row::{AnswerDetails, CommandRow, Lease, Status},
    unit_of_work::UnitOfWork,
};

/// The longest rest of a row that cannot be settled. The rest doubles up to this; a question about the row ends it at
/// once.
const REST_LONGEST: TimeDelta = TimeDelta::days(1);

/// What to record: the row, which of its two calls, and what was found.
pub(super) struct Report<'a> {
    pub(super) key: Uuid,
    /// The command of the call.
    pub(super) command: &'a Command,
    pub(super) action: Action,
    pub(super) found: Found,
    pub(super) unsure: bool,
    pub(super) asker: Option<&'a Command>,
    pub(super) traceparent: Option<&'a str>,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// No further call.
    Over,
    /// Call for the remembered compensation: the row is `undoing` now.
    Undo,
}

/// Returns the row after a plain outcome: the first call under its key was answered, and only the execute is waiting
/// for the answer. `None` for anything else.
pub(super) fn settled(done: &Finished) -> Option<CommandRow> {
    let Finished { call, found: Found::Answer(answer), unsure: false } = done else { return None };
    if call.work.action != Action::Execute || call.unwanted {
        return None;
    }
    // Another kind of command must be answered from the row.
    if call.asker.as_ref().is_some_and(|asker| asker.command.kind != Kind::Execute) {
        return None;
    }
    let (outcome, details) = answer.clone().split();
    if outcome == Outcome::Unknown {
        return None;
    }
    let mut row = CommandRow::new(&call.work.command);
    row.settle(Status::settled(outcome), details);
    Some(row)
}

/// Settles a row, if the answer settles it, and answers the waiting commands.
pub(super) fn settle(unit: &mut UnitOfWork, report: Report<'_>, port: Port, owner: Uuid) -> Next {
    let Report { key, command, action, found, unsure, asker, traceparent } = report;
    let now = unit.now;
    let Some(row) = unit.change_row(key).filter(|row| waits_for(row, action)) else {
        // Another writer was first, and its outcome stands; or this outcome was already recorded, and the answer to
        // that commit was lost. The waiting command is answered from the row (again): it may not be sent again.
        let _ = unit.decide(asker.unwrap_or(command), traceparent);
        return Next::Over;
    };
    let first_round = !row.unsure;
    row.unsure |= unsure;
    let (outcome, details) = match found {
        Found::Voided => (Outcome::Fenced, AnswerDetails::default()),
        Found::Answer(answer) => answer.split(),
    };
    let counts = counts(outcome, row.unsure, port);
    let mut replies = Vec::new();
    // A call begun from its row has no asker; but that its outcome is unknown is news to the command itself, once.
    let itself = match action {
        Action::Execute => row.command.clone(),
        Action::Undo => row.undo.clone(),
    };
    let next = match action {
        _ if !counts => {
            let asker = asker.or(itself.as_ref().filter(|_| first_round));
            rest(row, asker, details, now, owner, &mut replies)
        }
        Action::Execute => settle_execute(row, outcome, details, now, &mut replies),
        Action::Undo => settle_undo(row, outcome, details, now, &mut replies),
    };
    for reply in replies {
        unit.answer(reply, traceparent);
    }
    if let Some(asker) = asker.filter(|a| counts && matches!(a.kind, Kind::Probe | Kind::Fence)) {
        let _ = unit.decide(asker, traceparent);
    }
    next
}

fn waits_for(row: &CommandRow, action: Action) -> bool {
    match action {
        Action::Execute => row.status == Status::Started,
        Action::Undo => row.status == Status::Undoing,
    }
}

/// Returns whether an answer is an outcome.
fn counts(outcome: Outcome, unsure: bool, port: Port) -> bool {
    match outcome {
        Outcome::Succeeded | Outcome::Fenced => true,
        Outcome::Refused => !unsure || port.first_answer_binds,
        Outcome::FailedTransient | Outcome::FailedForGood => !unsure,
        _ => false,
    }
}

/// Leaves an unknown row to wait for another round, which the recovery loop or the next question begins.
fn rest(
    row: &mut CommandRow,
    asker: Option<&Command>,
    details: AnswerDetails,
    now: DateTime<Utc>,
    owner: Uuid,
    replies: &mut Vec<Reply>,
) -> Next {
    row.unsure = true;
    if row.lease.is_some_and(|l| l.owner == Some(owner)) {
        // Doubling: as long again as it has lasted so far.
        let lasted = row.started_at.map_or(TimeDelta::zero(), |started| now - started);
        let pause = lasted.clamp(TimeDelta::seconds(1), REST_LONGEST);
        row.lease = Some(Lease { owner: None, until: now + pause });
    }
    let Some(asker) = asker else { return Next::Over };
    let remembered = row.undo.as_ref().filter(|undo| undo.command_id != asker.command_id);
    for command in [Some(asker), remembered].into_iter().flatten() {
        let mut reply = row.reply(command, Outcome::Unknown, now);
        reply.reason.clone_from(&details.reason);
        replies.push(reply);
    }
    Next::Over
}

fn settle_execute(
    row: &mut CommandRow,
    outcome: Outcome,
    details: AnswerDetails,
    now: DateTime<Utc>,
    replies: &mut Vec<Reply>,
) -> Next {
    let command = row.command.clone();
    match outcome {
        Outcome::Fenced => row.make_tombstone(),
        _ => row.settle(Status::settled(outcome), details),
    }
    replies.extend(command.and_then(|c| row.recorded(&c, now)));
    let Some(undo) = row.undo.take() else { return Next::Over };
    match row.status {
        Status::Succeeded => {
            row.status = Status::Undoing;
            row.undo = Some(undo);
            return Next::Undo;
        }
        Status::Refused => {}
        _ => row.make_tombstone(),
    }
    replies.push(row.reply(&undo, Outcome::Succeeded, now));
    Next::Over
}

fn settle_undo(
    row: &mut CommandRow,
    outcome: Outcome,
    details: AnswerDetails,
    now: DateTime<Utc>,
    replies: &mut Vec<Reply>,
) -> Next {
    if let Some(undo) = row.undo.clone() {
        row.settle_undo(outcome, undo.attempt, details);
        replies.extend(row.recorded_undo(&undo, now));
    }
    Next::Over
}

#[cfg(test)]
#[path = "settle_tests.rs"]
mod tests;
