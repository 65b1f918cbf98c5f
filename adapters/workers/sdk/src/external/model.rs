//! What an answer does to a row, as a function: for searches over the states of a row.

use std::collections::HashMap;

use amends_protocol::{Command, Reply};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    Asker, Call,
    round::{Finished, Found},
    settle::{Next, Report, settle, settled},
};
use crate::{
    executor::{Action, Answer, Port, Work},
    row::{CommandRow, Status},
    settings::Settings,
    store::Locked,
    unit_of_work::UnitOfWork,
};

/// A call with its answer (`Answer::Unknown` if there was none).
#[derive(Debug, Clone)]
pub struct AnsweredCall {
    /// Execute or undo.
    pub action: Action,
    /// The command of the call.
    pub command: Command,
    /// The command that waits for the answer.
    pub asker: Option<Command>,
    /// A compensation was remembered when the call began.
    pub unwanted: bool,
    /// The port's answer.
    pub answer: Answer,
    /// A call of this round, or an earlier one, got no answer.
    pub unsure: bool,
}

/// Records the answer as the loop does: first as a plain outcome, if it is one and the row has not changed; otherwise
/// on the locked row. Returns the row, the replies, and whether to call for the remembered compensation now.
pub fn write_down(
    row: CommandRow,
    done: AnsweredCall,
    port: Port,
    owner: Uuid,
    now: DateTime<Utc>,
) -> (CommandRow, Vec<Reply>, bool) {
    let settings = Settings::new("model");
    let AnsweredCall { action, command, asker, unwanted, answer, unsure } = done;
    let (key, found) = (row.key, Found::Answer(answer));
    let asker = asker.map(|command| Asker { command, traceparent: None });
    let work = Work { action, command, held: row.details.exposure.clone() };
    let call = Call { work, unsure: false, unwanted, resolved: None, stale: false, asker, permit: None };
    let done = Finished { call, found, unsure };
    let mine = row.lease.is_some_and(|l| l.owner == Some(owner));
    if let Some(plain) = settled(&done)
        && row.status == Status::Started
        && mine
        && row.undo.is_none()
        && !row.unsure
        && (row.attempt, row.epoch) == (plain.attempt, plain.epoch)
    {
        let mut row = row;
        row.settle(plain.status, plain.details);
        let reply = row.recorded(&done.call.work.command, now);
        return (row, reply.into_iter().collect(), false);
    }
    let locked = Locked { now, rows: HashMap::from([(key, row.clone())]), ..Locked::default() };
    let mut unit = UnitOfWork::new(locked, &[], &settings);
    let report = Report {
        key,
        command: &done.call.work.command,
        action,
        found: done.found.clone(),
        unsure: done.unsure,
        asker: done.call.asker.as_ref().map(|a| &a.command),
        traceparent: None,
    };
    let next = settle(&mut unit, report, port, owner);
    let row = unit.rows.remove(&key).unwrap_or(row);
    (row, unit.answered.into_iter().map(|a| a.reply).collect(), next == Next::Undo)
}
