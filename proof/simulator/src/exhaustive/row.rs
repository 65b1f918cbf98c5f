//! One row of a worker with external calls: two instances, each of which may die or be considered dead, and a gateway
//! whose calls may arrive late. The table (`decide`), the row and the effect of an answer are the real code; the order
//! of a round's look-ups is that of `external/round.rs`.

mod calls;
mod space;

use amends_protocol::{Command, Exposure, Json, Kind, Outcome, Reply, Resolved, id, negated};
use amends_worker::{
    Action, Answer, Port,
    decide::{Decision, Memory, decide},
    model::{AnsweredCall, write_down},
    row::{AnswerDetails, CommandRow, Lease, Status},
};
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{Space, saga_id};
use calls::{Call, Charge, Stage};

const MEMORY: Memory = Memory { horizon: TimeDelta::days(14), retention: TimeDelta::days(400) };

/// Limits of what may happen.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Executes that arrive, of rising attempts.
    pub executes: u8,
    /// Compensations that arrive, of rising attempts.
    pub compensations: u8,
    /// Probes that arrive.
    pub probes: u8,
    /// Calls that get no answer in time, and arrive later.
    pub silences: u8,
    /// Calls that are answered "out of order".
    pub refusals: u8,
    /// Instances that die, or whose lease lapses while they are paused.
    pub lapses: u8,
    /// Compensations which say that an operator has resolved the command as not done.
    pub resolutions: u8,
}

/// A command, its compensation, a call that arrives late, a lease that lapses.
pub const SMALL: Budget =
    Budget { executes: 2, compensations: 1, probes: 0, silences: 1, refusals: 0, lapses: 1, resolutions: 0 };
/// The same, with more attempts, a probe, and a gateway that is out of order.
pub const LARGE: Budget =
    Budget { executes: 2, compensations: 2, probes: 1, silences: 2, refusals: 1, lapses: 1, resolutions: 0 };
/// A call that arrives late although an operator has resolved it as not done.
pub const RESOLVED: Budget = Budget { compensations: 2, silences: 2, resolutions: 1, ..SMALL };

/// A state.
#[derive(Debug, Clone)]
pub struct RowSystem {
    row: Option<CommandRow>,
    /// Whether the row's lease has lapsed.
    lapsed: bool,
    calls: [Option<Call>; 2],
    /// Calls on their way to the gateway for which no instance waits.
    late: Vec<Action>,
    charge: Charge,
    charges: u8,
    left: Budget,
    sent: (u32, u32),
    /// A reply said that the command is undone, or will never take effect.
    answered_undone: bool,
    answered_failed: bool,
    /// A call was made for a command that an operator had resolved before.
    called_when_resolved: bool,
}

/// The space.
pub struct OneRow {
    /// Limits of what may happen.
    pub budget: Budget,
    /// A planted bug, which the search must find.
    pub planted: Option<Planted>,
}

/// A rule that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// Trap 1: a look-up that finds nothing turns the row into a tombstone.
    NothingIsTombstone,
    /// Trap 2: a call without an answer counts as failed.
    SilenceFails,
    /// Trap 3: an unsure row forgets that it is unsure.
    ForgetsUnsure,
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default()
}

fn owner(instance: usize) -> Uuid {
    Uuid::from_u128(100 + instance as u128)
}

const PORT: Port = Port {
    idempotent: true,
    first_answer_binds: true,
    can_look_up: true,
    can_void: false,
    keeps_keys_for: std::time::Duration::MAX,
};

fn command(kind: Kind, attempt: u32) -> Command {
    let execute = id::execute(saga_id(), "pay", 0, 1);
    Command {
        schema_version: 1,
        command_id: id::of(kind, execute),
        kind,
        target: (kind != Kind::Execute).then_some(execute),
        saga_id: saga_id(),
        slot: 1,
        business_key: String::new(),
        workflow: "w".to_owned(),
        workflow_version: 1,
        step: "pay".to_owned(),
        part: 0,
        generation: 1,
        attempt,
        epoch: 1,
        issued_at: now(),
        sent_at: None,
        target_issued_at: (kind != Kind::Execute).then(now),
        resolved: None,
        deadline: now(),
        reply_token: String::new(),
        payload: Json::null(),
    }
}

impl OneRow {
    /// Creates a space with these limits.
    pub fn new(budget: Budget) -> Self {
        Self { budget, planted: None }
    }

    /// Handles a command that arrives at an instance.
    fn receive(
        &self,
        state: &RowSystem,
        instance: usize,
        kind: Kind,
        attempt: u32,
        resolved: Option<Resolved>,
    ) -> RowSystem {
        let mut after = state.clone();
        let command = Command { resolved, ..command(kind, attempt) };
        let mut row = after.row.take();
        let decision = decide(row.as_ref(), &command, now(), MEMORY);
        let mut replies: Vec<Reply> = Vec::new();
        if let Some(row) = &mut row {
            row.see_resolution(resolved);
        }
        match decision {
            Decision::Ignore => {}
            Decision::Reply(outcome) => replies.push(match &row {
                Some(row) => row.reply(&command, outcome, now()),
                None => command.reply(outcome, now()),
            }),
            Decision::Recorded => replies.extend(row.as_ref().and_then(|r| r.recorded(&command, now()))),
            Decision::RecordedUndo => {
                replies.extend(row.as_ref().and_then(|r| r.recorded_undo(&command, now())))
            }
            Decision::Tombstone(outcome) => {
                let row = row.get_or_insert_with(|| CommandRow::new(&command));
                row.make_tombstone();
                replies.push(row.reply(&command, outcome, now()));
            }
            Decision::Remember => {
                let row = row.get_or_insert_with(|| CommandRow::new(&command));
                row.undo = Some(command.clone());
                replies.push(row.reply(&command, Outcome::InFlight, now()));
            }
            Decision::Execute | Decision::Undo | Decision::LookUp => {
                let row = row.get_or_insert_with(|| CommandRow::new(&command));
                match decision {
                    Decision::Execute => {
                        row.status = Status::Started;
                        row.attempt = command.attempt;
                        row.command = Some(command.clone());
                        row.details = AnswerDetails::default();
                        (row.unsure, row.started_at) = (false, None);
                    }
                    Decision::Undo => {
                        row.status = Status::Undoing;
                        row.undo = Some(command.clone());
                        (row.unsure, row.started_at) = (false, None);
                    }
                    _ => {
                        row.unsure = true;
                        if command.kind == Kind::Compensate {
                            row.undo = Some(command.clone());
                        }
                    }
                }
                after.begin(row, instance, Some((kind, attempt)));
            }
        }
        after.row = row;
        after.note_replies(&replies);
        after
    }

    /// Ends a call: its outcome is recorded, and the waiting command is answered.
    fn finish(&self, state: &RowSystem, instance: usize, answer: Answer, unsure: bool) -> RowSystem {
        let mut after = state.clone();
        let (Some(call), Some(row)) = (after.calls[instance].take(), after.row.take()) else { return after };
        let kind = if call.action == Action::Execute { Kind::Execute } else { Kind::Compensate };
        let (mut answer, mut unsure) = (answer, unsure);
        if self.planted == Some(Planted::SilenceFails) && matches!(answer, Answer::Unknown(_)) {
            (answer, unsure) = (Answer::failed_for_now("timeout", ""), false);
        }
        let mut row = row;
        if self.planted == Some(Planted::ForgetsUnsure) {
            (unsure, row.unsure) = (false, false);
        }
        let done = AnsweredCall {
            action: call.action,
            command: command(kind, call.attempt),
            asker: call.asker.map(|(kind, attempt)| command(kind, attempt)),
            unwanted: call.unwanted,
            answer,
            unsure,
        };
        let (mut row, replies, undo) = write_down(row, done, PORT, owner(instance), now());
        if undo {
            let asker = row.undo.as_ref().map(|undo| (Kind::Compensate, undo.attempt));
            after.begin(&mut row, instance, asker);
        } else if row.lease.is_some_and(|l| l.owner.is_none()) {
            after.lapsed = true;
        }
        after.row = Some(row);
        after.note_replies(&replies);
        after
    }
}

impl RowSystem {
    fn note_replies(&mut self, replies: &[Reply]) {
        for reply in replies {
            self.answered_undone |= reply.kind == Kind::Compensate && reply.outcome == Outcome::Succeeded;
            self.answered_undone |= reply.outcome == Outcome::Fenced;
            let failed = matches!(reply.outcome, Outcome::Refused | Outcome::FailedForGood);
            self.answered_failed |= reply.kind == Kind::Execute && failed;
        }
    }
}
