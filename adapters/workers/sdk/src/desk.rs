//! One transaction's worth of decisions: the rows it holds, what was decided about them so far, and the
//! replies that follow once it has committed.

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

/// What is left for the caller to do about a command; all else the desk has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// Do it.
    Execute,
    /// Undo it.
    Undo,
    /// Ask outside what became of it.
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
    /// A desk for commands whose rows are locked.
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

    /// Decides about a command. Answers it, or says what has to be done first.
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

    /// The row of a command, to be changed; made if there is none.
    pub(crate) fn change(&mut self, command: &Command) -> &mut CommandRow {
        let key = command.row_key();
        self.changed.insert(key);
        self.rows.entry(key).or_insert_with(|| CommandRow::new(command))
    }

    /// A row that there is, to be changed.
    pub(crate) fn change_row(&mut self, key: Uuid) -> Option<&mut CommandRow> {
        let row = self.rows.get_mut(&key)?;
        self.changed.insert(key);
        Some(row)
    }

    /// Leaves a command, and whatever else comes for its row in this batch: the engine sends it again.
    pub(crate) fn pass_over(&mut self, key: Uuid) {
        self.passed_over.insert(key);
    }

    /// How many rows were passed over.
    pub(crate) fn passed_over(&self) -> usize {
        self.passed_over.len()
    }

    pub(crate) fn answer(&mut self, reply: Reply, traceparent: Option<&str>) {
        self.answered.push(Answered { reply, traceparent: traceparent.map(Into::into) });
    }

    /// Writes what changed and commits. The replies may go out then, and not before.
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

/// Splits a batch: executes that are the only word about their row and that a worker without that row would do at
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

/// How often one batch waits for locked rows until it gives up those commands that it has not done yet.
const LOCK_TIMEOUTS_MAX: u32 = 8;

/// A part of a batch: one transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) deliveries: &'a [Delivery],
    /// What the transaction does about rows that others hold.
    pub(crate) locks: Locks,
}

/// A batch in parts: halved whenever its data is at fault, until the command that causes it is alone; and done again
/// past the rows that others hold, once waiting for them has not helped.
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

    /// Puts the halves of a part back, in order; one that cannot be halved is the poison.
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

    /// A part has waited in vain for a row that another transaction holds: it is done again past such rows. What cannot
    /// be done so either (a row that somebody is inserting cannot be seen, and so not passed over) is halved until the
    /// command that needs it is alone. That one is left: the engine sends it again. So is the rest, once the batch has
    /// waited often enough.
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

/// Counts commands (or outcomes) that were left because others held their rows.
pub(crate) fn count_passed_over(settings: &Settings, commands: usize) {
    if commands > 0 {
        tracing::warn!(worker = settings.name, commands, "passed over: another transaction holds their rows");
        metrics::counter!("amends_worker_passed_over_total", "worker" => settings.name.clone())
            .increment(commands as u64);
    }
}
