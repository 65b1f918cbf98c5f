//! The decisions of one transaction: the rows that it holds, what was decided about them so far, and the replies to
//! send after the commit.

use std::collections::{HashMap, HashSet, VecDeque};

use amends_protocol::{
    Command, Outcome, Reply,
    halving::{Halved, halve},
    wire,
};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{
    decide::{Decision, Memory, decide},
    inbox::Delivery,
    outbox::Answered,
    row::CommandRow,
    settings::Settings,
    store::{Error, Locked, Locks, Rows},
};

/// What is left for the caller to do about a command; the desk has done everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// Execute it.
    Execute,
    /// Undo it.
    Undo,
    /// Look up its outcome externally.
    Ask,
}

pub(crate) struct Desk {
    pub(crate) now: DateTime<Utc>,
    pub(crate) rows: HashMap<Uuid, CommandRow>,
    pub(crate) answered: Vec<Answered>,
    memory: Memory,
    passed_over: HashSet<Uuid>,
    inserted: HashSet<Uuid>,
    changed: HashSet<Uuid>,
}

impl Desk {
    /// Creates a desk for commands whose rows are locked.
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
    pub(crate) fn hear(&mut self, command: &Command, traceparent: Option<&str>) -> Option<Ruling> {
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
        let say = |row: Option<&CommandRow>, outcome| match row {
            Some(row) => row.reply(command, outcome, now),
            None => command.reply(outcome, now),
        };
        let reply = match decision {
            Decision::Ignore => None,
            Decision::Execute => return Some(Ruling::Execute),
            Decision::Undo => return Some(Ruling::Undo),
            Decision::Ask => return Some(Ruling::Ask),
            Decision::Say(outcome) => Some(say(row, outcome)),
            Decision::Recorded => row.and_then(|r| r.recorded(command, now)),
            Decision::RecordedUndo => row.and_then(|r| r.recorded_undo(command, now)),
            Decision::Bury(outcome) => {
                let row = self.change(command);
                row.bury();
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

/// Splits a batch: executes that are the only command for their row and that a worker without that row would run at
/// once, and all the rest.
pub(crate) fn apart(
    deliveries: Vec<Delivery>,
    now: DateTime<Utc>,
    settings: &Settings,
) -> (Vec<Delivery>, Vec<Delivery>) {
    let memory = settings.memory();
    let mut words: HashMap<Uuid, usize> = HashMap::with_capacity(deliveries.len());
    for delivery in &deliveries {
        *words.entry(delivery.command.row_key()).or_default() += 1;
    }
    deliveries.into_iter().partition(|Delivery { command, .. }| {
        words.get(&command.row_key()) == Some(&1)
            && !wire::is_newer(command.schema_version)
            && decide(None, command, now, memory) == Decision::Execute
    })
}

/// How many times one batch waits for locked rows before it leaves the commands that are not done yet.
const LOCK_TIMEOUTS_MAX: u32 = 8;

/// A part of a batch: one transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) deliveries: &'a [Delivery],
    /// What the transaction does about rows that others hold.
    pub(crate) locks: Locks,
}

/// The parts of a batch. A part whose data is at fault is halved until the command that causes it is alone. A part that
/// waited in vain for locked rows is done again without those rows.
pub(crate) struct Parts<'a> {
    parts: VecDeque<Part<'a>>,
    lock_timeouts: u32,
}

impl<'a> Parts<'a> {
    pub(crate) fn new(deliveries: &'a [Delivery], locks: Locks) -> Self {
        Self { parts: VecDeque::from([Part { deliveries, locks }]), lock_timeouts: 0 }
    }

    pub(crate) fn next(&mut self) -> Option<Part<'a>> {
        self.parts.pop_front()
    }

    /// Puts back the halves of a part, in order; returns the poison if the part cannot be halved.
    pub(crate) fn halve(&mut self, part: Part<'a>) -> Option<&'a Delivery> {
        match halve(part.deliveries)? {
            Halved::Alone(poison) => Some(poison),
            Halved::Halves(first, second) => {
                self.parts.push_front(Part { deliveries: second, ..part });
                self.parts.push_front(Part { deliveries: first, ..part });
                None
            }
        }
    }

    /// Handles a part that waited in vain for a row that another transaction holds: it is done again, passing such rows
    /// over. If that fails too (a row being inserted is invisible, and so cannot be passed over), the part is halved
    /// until the command that needs the row is alone. That command is left; the engine sends it again. So are all
    /// others once the batch has waited often enough.
    pub(crate) fn pass_over(&mut self, part: Part<'a>, settings: &Settings) {
        self.lock_timeouts += 1;
        if self.lock_timeouts > LOCK_TIMEOUTS_MAX {
            return count_passed_over(settings, part.deliveries.len());
        }
        match part.locks {
            Locks::Wait => self.parts.push_front(Part { locks: Locks::PassOver, ..part }),
            Locks::PassOver => {
                if self.halve(part).is_some() {
                    count_passed_over(settings, 1);
                }
            }
        }
    }
}

/// Counts commands (or outcomes) that were left because other transactions held their rows.
pub(crate) fn count_passed_over(settings: &Settings, commands: usize) {
    if commands > 0 {
        tracing::warn!(
            worker = settings.name,
            commands,
            "commands were passed over: another transaction holds their rows"
        );
        metrics::counter!("amends_worker_passed_over_total", "worker" => settings.name.clone())
            .increment(commands as u64);
    }
}
