//! A worker by the protocol's table, for one saga: one row per command, effects that are counted, and a fate that
//! decides how each call ends.

use std::collections::BTreeMap;

use amends_engine::core::{Call, CommandToSend, Definition, Input, ReplyEvent};
use amends_protocol::{Exposure, Json, Kind, Outcome, Reason, id, negated};
use uuid::Uuid;

/// A command on its way.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) row: Uuid,
    pub(crate) send: CommandToSend,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Started,
    Succeeded,
    Refused,
    FailedTransient,
    FailedForGood,
    Undoing,
    Undone,
    Tombstone,
}

/// The worker's row of a command, and its effect on the world.
#[derive(Debug, Clone)]
pub(crate) struct WorkerRow {
    pub(crate) step: usize,
    pub(crate) part: u16,
    pub(crate) status: Status,
    attempt: u32,
    /// A call got no answer.
    unsure: bool,
    /// A compensation of this attempt is remembered.
    undo: Option<u32>,
    /// The last undo that failed.
    undo_failed: Option<(Outcome, u32)>,
    /// Whether its effect holds.
    pub(crate) effect: bool,
    /// Number of times it took effect.
    pub(crate) effects: u32,
    /// Its success comes after the engine received a different answer: a worker that misleads like this must report the
    /// success in the end.
    pub(crate) owes_reply: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Worker {
    definition: Definition,
    saga: Uuid,
    pub(crate) rows: BTreeMap<Uuid, WorkerRow>,
    /// Answers on their way.
    pub(crate) replies: Vec<ReplyEvent>,
    /// How calls end, in turn; normally if empty.
    pub(crate) fates: Vec<u8>,
    next: usize,
}

impl Worker {
    pub(crate) fn new(definition: Definition, saga: Uuid, fates: Vec<u8>) -> Self {
        Self { definition, saga, rows: BTreeMap::new(), replies: Vec::new(), fates, next: 0 }
    }

    /// Below 100; 0: normally.
    fn fate(&mut self) -> u8 {
        self.next += 1;
        if self.fates.is_empty() { 0 } else { self.fates[self.next % self.fates.len()] % 100 }
    }

    /// Handles an arriving command.
    pub(crate) fn receives(&mut self, sent: &Sent) {
        let fate = self.fate();
        let (kind, attempt) = (sent.send.kind, sent.send.attempt);
        if fate >= 95 {
            return self.says(sent.row, &sent.send, kind, Outcome::Unsupported, attempt);
        }
        let Some(row) = self.rows.get(&sent.row).cloned() else {
            return match kind {
                Kind::Execute if fate >= 93 => {
                    self.says(sent.row, &sent.send, kind, Outcome::Expired, attempt)
                }
                Kind::Execute => self.execute(sent, fate),
                Kind::Probe => self.says(sent.row, &sent.send, kind, Outcome::NotSeen, attempt),
                Kind::Compensate | Kind::Fence => {
                    self.insert(sent, Status::Tombstone);
                    let promise = if kind == Kind::Fence { Outcome::Fenced } else { Outcome::Succeeded };
                    self.says(sent.row, &sent.send, kind, promise, attempt);
                }
            };
        };
        let busy = if row.unsure && fate % 2 == 1 { Outcome::Unknown } else { Outcome::InFlight };
        let undone = match (row.status, kind) {
            (Status::Started, Kind::Compensate) => {
                self.row(sent.row).undo = Some(attempt);
                busy
            }
            (Status::Started, _) | (Status::Undoing, Kind::Compensate) => busy,
            (Status::Undoing | Status::Undone | Status::Tombstone, _) if kind != Kind::Compensate => {
                Outcome::Fenced
            }
            (Status::FailedTransient | Status::FailedForGood, Kind::Fence) => {
                self.row(sent.row).status = Status::Tombstone;
                Outcome::Fenced
            }
            (Status::FailedTransient, Kind::Execute) if attempt > row.attempt => {
                return self.execute(sent, fate);
            }
            (Status::Succeeded, Kind::Compensate) => match row.undo_failed {
                Some((outcome, at)) if attempt <= at => {
                    return self.says(sent.row, &sent.send, kind, outcome, at);
                }
                _ => return self.undo(sent.row, &sent.send, attempt, fate),
            },
            (_, Kind::Compensate) => {
                if row.status != Status::Undone {
                    self.row(sent.row).status = Status::Tombstone;
                }
                Outcome::Succeeded
            }
            (Status::Succeeded, _) => Outcome::Succeeded,
            (Status::Refused, _) => Outcome::Refused,
            (Status::FailedTransient, _) => Outcome::FailedTransient,
            (Status::FailedForGood, _) => Outcome::FailedForGood,
            (Status::Undoing | Status::Undone | Status::Tombstone, _) => Outcome::Fenced,
        };
        let attempt = if kind == Kind::Compensate { attempt } else { row.attempt };
        self.says(sent.row, &sent.send, kind, undone, attempt);
    }

    /// Returns whether nothing is in progress and nothing is on its way.
    pub(crate) fn is_at_rest(&self) -> bool {
        let busy = |r: &WorkerRow| matches!(r.status, Status::Started | Status::Undoing);
        self.replies.is_empty() && !self.rows.values().any(busy)
    }

    /// Ends an external call, or loses its answer.
    pub(crate) fn finishes(&mut self, key: Uuid) {
        let fate = self.fate();
        let row = self.rows[&key].clone();
        let send = self.send(&row);
        match row.status {
            Status::Started => {
                let status = match fate {
                    // While the first call is unsure, the command is never recorded as without effect.
                    _ if row.unsure && fate < 80 => Status::Succeeded,
                    0..50 => Status::Succeeded,
                    50..60 => Status::Refused,
                    60..70 => Status::FailedTransient,
                    70..80 => Status::FailedForGood,
                    _ => return self.row(key).unsure = true,
                };
                self.settles(key, &send, status);
            }
            Status::Undoing if fate < 60 => self.undone(key, &send, row.undo.unwrap_or(1)),
            Status::Undoing => self.row(key).unsure = true,
            _ => {}
        }
    }

    /// A refused command takes effect after all, and the worker reports it.
    pub(crate) fn betrays(&mut self, key: Uuid) {
        let row = self.row(key);
        if row.status == Status::Refused {
            row.owes_reply = true;
            let send = self.send(&self.rows[&key].clone());
            self.settles(key, &send, Status::Succeeded);
        }
    }

    /// An operator settles it by hand, on the other side.
    pub(crate) fn by_hand(&mut self, key: Uuid, effect: bool) {
        let row = self.row(key);
        row.effects += u32::from(effect && !row.effect);
        row.effect = effect;
        row.undo = None;
        row.status = match (effect, row.status) {
            (true, _) => Status::Succeeded,
            (false, Status::Succeeded | Status::Undoing | Status::Undone) => Status::Undone,
            (false, _) => Status::Tombstone,
        };
    }

    /// An operator does it by hand, although the command never arrived.
    pub(crate) fn done_by_hand(&mut self, row: Uuid, step: usize, part: u16) {
        let at = chrono::DateTime::UNIX_EPOCH;
        let kind = Kind::Execute;
        let send = CommandToSend { kind, step, part, generation: 1, attempt: 1, issued_at: at, deadline: at };
        self.insert(&Sent { row, send }, Status::Started);
        self.by_hand(row, true);
    }

    fn execute(&mut self, sent: &Sent, fate: u8) {
        self.insert(sent, Status::Started);
        let status = match fate {
            0..55 => Status::Succeeded,
            55..62 => Status::Refused,
            62..72 => Status::FailedTransient,
            72..75 => Status::FailedForGood,
            _ => return,
        };
        self.settles(sent.row, &sent.send, status);
    }

    fn insert(&mut self, sent: &Sent, status: Status) {
        let (step, part, attempt) = (sent.send.step, sent.send.part, sent.send.attempt);
        let row = WorkerRow {
            step,
            part,
            status,
            attempt,
            unsure: false,
            undo: None,
            undo_failed: None,
            effect: false,
            effects: 0,
            owes_reply: false,
        };
        let row = WorkerRow { owes_reply: self.rows.get(&sent.row).is_some_and(|r| r.owes_reply), ..row };
        self.rows.insert(sent.row, row);
    }

    fn settles(&mut self, key: Uuid, send: &CommandToSend, status: Status) {
        let row = self.row(key);
        row.status = status;
        row.unsure = false;
        let (attempt, undo) = (row.attempt, row.undo.take());
        let outcome = match status {
            Status::Succeeded => {
                row.effect = true;
                row.effects += 1;
                Outcome::Succeeded
            }
            Status::Refused => Outcome::Refused,
            Status::FailedTransient => Outcome::FailedTransient,
            _ => Outcome::FailedForGood,
        };
        self.says(key, send, Kind::Execute, outcome, attempt);
        match undo {
            Some(attempt) if outcome == Outcome::Succeeded => self.undo(key, send, attempt, 0),
            Some(attempt) => {
                self.row(key).status = Status::Tombstone;
                self.says(key, send, Kind::Compensate, Outcome::Succeeded, attempt);
            }
            None => {}
        }
    }

    fn undo(&mut self, key: Uuid, send: &CommandToSend, attempt: u32, fate: u8) {
        let outcome = match fate {
            0..60 => return self.undone(key, send, attempt),
            60..75 => Outcome::FailedTransient,
            75..82 => Outcome::Refused,
            _ => {
                let row = self.row(key);
                (row.status, row.undo) = (Status::Undoing, Some(attempt));
                return;
            }
        };
        self.row(key).undo_failed = Some((outcome, attempt));
        self.says(key, send, Kind::Compensate, outcome, attempt);
    }

    fn undone(&mut self, key: Uuid, send: &CommandToSend, attempt: u32) {
        let row = self.row(key);
        (row.status, row.effect, row.unsure) = (Status::Undone, false, false);
        self.says(key, send, Kind::Compensate, Outcome::Succeeded, attempt);
    }

    fn says(&mut self, key: Uuid, send: &CommandToSend, kind: Kind, outcome: Outcome, attempt: u32) {
        let step = &self.definition.steps[send.step];
        let data = Json::null();
        let call = Call {
            saga_id: self.saga,
            business_key: "",
            part: send.part,
            input: Input { data: &data, personal: None },
            signals: &[],
        };
        let held = (step.may_hold)(&call);
        let exposure: Vec<Exposure> = match (kind, self.rows.get(&key).map(|r| r.status)) {
            (Kind::Execute | Kind::Probe, _) if outcome == Outcome::Succeeded => held,
            (Kind::Compensate, Some(Status::Undone)) if outcome == Outcome::Succeeded => negated(&held),
            _ => Vec::new(),
        };
        let reason = (outcome == Outcome::Refused).then(|| Reason::new("no", ""));
        self.replies.push(ReplyEvent {
            echo: None,
            command_id: id::of(kind, key),
            kind,
            target: (kind != Kind::Execute).then_some(key),
            step: step.name.to_owned(),
            attempt,
            outcome,
            result: None,
            reason,
            exposure,
        });
    }

    fn row(&mut self, key: Uuid) -> &mut WorkerRow {
        self.rows.get_mut(&key).expect("a row that is there")
    }

    fn send(&self, row: &WorkerRow) -> CommandToSend {
        let at = chrono::DateTime::UNIX_EPOCH;
        CommandToSend {
            kind: Kind::Execute,
            step: row.step,
            part: row.part,
            generation: 1,
            attempt: row.attempt,
            issued_at: at,
            deadline: at,
        }
    }
}
