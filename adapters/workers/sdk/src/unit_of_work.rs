//! The unit of work of one transaction: the rows that it holds, the changes decided about them so far, and the replies to
//! send after the commit.

use std::collections::{HashMap, HashSet};

use amends_protocol::{Command, Outcome, Reply, wire};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{
    decide::{Decision, Memory, decide},
    outbox::Answered,
    row::CommandRow,
    settings::Settings,
    store::{Error, Locked, Rows},
};

/// What is left for the caller to do about a command; [`UnitOfWork::decide`] has done everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FollowUp {
    /// Execute it.
    Execute,
    /// Undo it.
    Undo,
    /// Look up its outcome externally.
    LookUp,
}

pub(crate) struct UnitOfWork {
    pub(crate) now: DateTime<Utc>,
    pub(crate) rows: HashMap<Uuid, CommandRow>,
    pub(crate) answered: Vec<Answered>,
    memory: Memory,
    passed_over: HashSet<Uuid>,
    inserted: HashSet<Uuid>,
    changed: HashSet<Uuid>,
}

impl UnitOfWork {
    /// Creates it for commands whose rows are locked.
    pub(crate) fn new(locked: Locked, commands: &[&Command], settings: &Settings) -> Self {
        Self {
            now: locked.now,
            inserted: (commands.iter().map(|c| c.row_key()))
                .filter(|k| !locked.rows.contains_key(k) && !locked.passed_over.contains(k))
                .collect(),
            rows: locked.rows,
            passed_over: locked.passed_over,
            memory: settings.memory(),
            answered: Vec::with_capacity(commands.len()),
            changed: HashSet::new(),
        }
    }

    /// Decides about a command. Answers it, or returns what must be done first.
    pub(crate) fn decide(&mut self, command: &Command, traceparent: Option<&str>) -> Option<FollowUp> {
        let (key, now) = (command.row_key(), self.now);
        if self.passed_over.contains(&key) {
            return None;
        }
        if wire::is_newer(command.schema_version) {
            self.answer(command.reply(Outcome::Unsupported, now), traceparent);
            return None;
        }
        let decision = decide(self.rows.get(&key), command, now, self.memory);
        if decision == Decision::Ignore {
            return None;
        }
        if self.rows.get_mut(&key).is_some_and(|row| row.see_epoch(command.epoch)) {
            self.changed.insert(key);
        }
        if self.rows.get_mut(&key).is_some_and(|row| row.see_resolution(command.resolved)) {
            self.changed.insert(key);
        }
        let row = self.rows.get(&key);
        let reply = |row: Option<&CommandRow>, outcome| match row {
            Some(row) => row.reply(command, outcome, now),
            None => command.reply(outcome, now),
        };
        let reply = match decision {
            Decision::Ignore => None,
            Decision::Execute => return Some(FollowUp::Execute),
            Decision::Undo => return Some(FollowUp::Undo),
            Decision::LookUp => return Some(FollowUp::LookUp),
            Decision::Reply(outcome) => Some(reply(row, outcome)),
            Decision::Recorded => row.and_then(|r| r.recorded(command, now)),
            Decision::RecordedUndo => row.and_then(|r| r.recorded_undo(command, now)),
            Decision::Tombstone(outcome) => {
                let row = self.change(command);
                row.make_tombstone();
                Some(row.reply(command, outcome, now))
            }
            Decision::Remember => {
                let row = self.change(command);
                row.undo = Some(command.clone());
                Some(row.reply(command, Outcome::InFlight, now))
            }
        };
        if let Some(reply) = reply {
            self.answer(reply, traceparent);
        }
        None
    }

    /// Returns the row of a command for a change; creates the row if there is none.
    pub(crate) fn change(&mut self, command: &Command) -> &mut CommandRow {
        let key = command.row_key();
        self.changed.insert(key);
        self.rows.entry(key).or_insert_with(|| CommandRow::new(command))
    }

    /// Returns an existing row for a change.
    pub(crate) fn change_row(&mut self, key: Uuid) -> Option<&mut CommandRow> {
        let row = self.rows.get_mut(&key)?;
        self.changed.insert(key);
        Some(row)
    }

    /// Leaves a command, and all others for its row in this batch: the engine sends them again.
    pub(crate) fn pass_over(&mut self, key: Uuid) {
        self.passed_over.insert(key);
    }

    /// Returns the number of rows passed over.
    pub(crate) fn passed_over(&self) -> usize {
        self.passed_over.len()
    }

    pub(crate) fn answer(&mut self, reply: Reply, traceparent: Option<&str>) {
        self.answered.push(Answered { reply, traceparent: traceparent.map(Into::into) });
    }

    /// Writes the changes and commits. Only then may the replies be sent.
    pub(crate) async fn commit<R: Rows>(self, rows: &R, mut tx: R::Tx) -> Result<Vec<Answered>, Error> {
        let changed: Vec<CommandRow> =
            self.changed.iter().filter_map(|key| self.rows.get(key).cloned()).collect();
        let unused: Vec<Uuid> =
            self.inserted.into_iter().filter(|key| !self.rows.contains_key(key)).collect();
        rows.write(&mut tx, &changed).await?;
        rows.remove(&mut tx, &unused).await?;
        rows.commit(tx).await?;
        Ok(self.answered)
    }
}
