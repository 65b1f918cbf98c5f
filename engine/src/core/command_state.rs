//! State of one command and of its compensation, as stored in a saga's row.

use amends_protocol::{Exposure, Json, Outcome, Reason, id};
use chrono::{
    DateTime, Utc,
    serde::{ts_microseconds, ts_microseconds_option},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Definition;

/// An execute and its compensation, if it has one; or a wait for a signal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandState {
    /// Index of the command's step.
    pub step: usize,
    /// Index of the command within its step.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub part: u16,
    /// Generation, from 1.
    #[serde(default = "one16", skip_serializing_if = "is_one16")]
    pub generation: u16,
    /// Attempt, from 1; it never restarts.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub attempt: u32,
    /// Time of the first issue.
    #[serde(with = "ts_microseconds")]
    pub issued_at: DateTime<Utc>,
    /// Time at which the present attempt was issued; its deadline counts from here.
    #[serde(default, with = "ts_microseconds_option", skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<DateTime<Utc>>,
    /// What the engine knows about the command.
    pub status: Status,
    /// Time of the next action for this command.
    #[serde(default, with = "ts_microseconds_option", skip_serializing_if = "Option::is_none")]
    pub due_at: Option<DateTime<Utc>>,
    /// Number of probes sent since the last answer.
    #[serde(default, skip_serializing_if = "is_zero32")]
    pub asks: u32,
    /// Number of attempts answered `failed`.
    #[serde(default, skip_serializing_if = "is_zero32")]
    pub failures: u32,
    /// Number of consecutive probes answered `unknown`.
    #[serde(default, skip_serializing_if = "is_zero32")]
    pub unknowns: u32,
    /// From this time on, an `unknown` answer parks the command. Set by the first of consecutive `unknown`s.
    #[serde(default, with = "ts_microseconds_option", skip_serializing_if = "Option::is_none")]
    pub parks_at: Option<DateTime<Utc>>,
    /// Why the command waits for an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked: Option<Reason>,
    /// What the command's success brought.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<Exposure>,
    /// Unexpected outcomes that the timeline already records, so that each is recorded once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub noted: Vec<Outcome>,
    /// The compensation of the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Undo>,
}

/// What the engine knows about an execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Sent, and within its deadline.
    Waiting,
    /// The outcome is unknown; the engine probes for it.
    Unknown,
    /// The attempt failed; another attempt follows after the backoff.
    Backoff,
    /// The command took effect.
    Succeeded,
    /// The worker refused the command for a business reason.
    Refused,
    /// The attempts failed, and the engine gave up.
    Failed,
    /// The command will never take effect.
    Fenced,
    /// The command is too old for its worker to know its outcome.
    Expired,
    /// An operator has evidence that the command took no effect.
    NotDone,
    /// No command: the step waits for a signal.
    Awaited,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 10] = [
        Self::Waiting,
        Self::Unknown,
        Self::Backoff,
        Self::Succeeded,
        Self::Refused,
        Self::Failed,
        Self::Fenced,
        Self::Expired,
        Self::NotDone,
        Self::Awaited,
    ];

    /// Returns whether the engine still waits for a worker's answer.
    pub fn is_open(self) -> bool {
        matches!(self, Status::Waiting | Status::Unknown | Status::Backoff)
    }

    /// Returns whether there may be an effect to undo. An operator's evidence that there is none is not enough: it
    /// describes one moment, and a call may still have been on its way then.
    pub fn may_have_effect(self) -> bool {
        self != Status::Refused
    }
}

/// A signal that has arrived. An early one is kept until its step begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArrivedSignal {
    /// Its name, which is that of the step.
    pub name: String,
    /// Its payload, without personal fields.
    pub payload: Json,
    /// When it was delivered.
    #[serde(with = "ts_microseconds")]
    pub at: DateTime<Utc>,
}

/// Why a command is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Repeats {
    /// The last attempt was answered as failed.
    Failed,
    /// No answer arrived in time.
    Silent,
}

/// The compensation of an execute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Undo {
    /// Attempt, from 1; it never restarts.
    pub attempt: u32,
    /// Time of the first issue.
    #[serde(with = "ts_microseconds")]
    pub issued_at: DateTime<Utc>,
    /// The effect is undone or can never happen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub done: bool,
    /// `done` rests on an operator's evidence, not on the worker's answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_hand: bool,
    /// Time at which to send the compensation again.
    #[serde(default, with = "ts_microseconds_option", skip_serializing_if = "Option::is_none")]
    pub due_at: Option<DateTime<Utc>>,
    /// Number of times it was sent since the last answer.
    #[serde(default, skip_serializing_if = "is_zero32")]
    pub asks: u32,
    /// Number of attempts answered `failed`.
    #[serde(default, skip_serializing_if = "is_zero32")]
    pub failures: u32,
    /// Number of consecutive `unknown` answers.
    #[serde(default, skip_serializing_if = "is_zero32")]
    pub unknowns: u32,
    /// From this time on, an `unknown` answer parks the compensation. Set by the first of consecutive `unknown`s.
    #[serde(default, with = "ts_microseconds_option", skip_serializing_if = "Option::is_none")]
    pub parks_at: Option<DateTime<Utc>>,
    /// What a success gave back while something was still held. It is subtracted from what is held, once per attempt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given_back: Vec<Exposure>,
    /// The attempt that gave it back.
    #[serde(default, skip_serializing_if = "is_zero32")]
    pub given_back_at: u32,
    /// Why the compensation waits for an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked: Option<Reason>,
}

fn one() -> u32 {
    1
}
pub(super) fn one16() -> u16 {
    1
}
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_one(n: &u32) -> bool {
    *n == 1
}
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
pub(super) fn is_one16(n: &u16) -> bool {
    *n == 1
}
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(n: &u16) -> bool {
    *n == 0
}
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
pub(super) fn is_zero32(n: &u32) -> bool {
    *n == 0
}

impl CommandState {
    /// Returns the id of the execute.
    pub fn id(&self, saga: Uuid, definition: &Definition) -> Uuid {
        id::execute(saga, definition.steps[self.step].name, self.part, self.generation)
    }

    /// Returns whether there may be an effect to undo. A signal has none.
    pub fn may_have_effect(&self, definition: &Definition) -> bool {
        self.status.may_have_effect() && !definition.is_signal(self.step)
    }

    /// Returns the time from which the present attempt's outcome counts as unknown.
    pub fn deadline(&self, definition: &Definition) -> DateTime<Utc> {
        self.sent_at.unwrap_or(self.issued_at) + definition.steps[self.step].deadline
    }

    /// Returns whether the command may hold something that no answer has reported yet. That is so until the command is
    /// settled. While the command is being undone it also holds for "will never take effect", because the worker may
    /// say so only because of the compensation.
    pub(super) fn may_hold(&self) -> bool {
        match self.status {
            Status::Fenced => self.undo.is_some(),
            status => status.is_open() || status == Status::Expired,
        }
    }

    /// Returns whether a success is news although the command counts as undone: it happened after the operator had
    /// looked.
    pub(super) fn is_undone_by_hand(&self) -> bool {
        self.undo.as_ref().is_some_and(|u| u.done && u.by_hand) && self.status != Status::Succeeded
    }

    /// Returns whether the compensation confirms that there is no effect and never will be.
    pub fn is_undone(&self) -> bool {
        self.undo.as_ref().is_some_and(|u| u.done)
    }

    /// Returns the id of what waits for an operator, if anything does: the execute or its compensation.
    pub fn parked_id(&self, saga: Uuid, definition: &Definition) -> Option<Uuid> {
        let execute = || self.id(saga, definition);
        match (&self.parked, &self.undo) {
            (Some(_), _) => Some(execute()),
            (None, Some(undo)) if undo.parked.is_some() => Some(id::undo(execute())),
            _ => None,
        }
    }

    /// Returns why the command or its compensation waits for an operator.
    pub fn parked(&self) -> Option<&Reason> {
        self.parked.as_ref().or_else(|| self.undo.as_ref().and_then(|u| u.parked.as_ref()))
    }

    /// Returns the time of the next action for the command or its compensation.
    pub fn due(&self) -> Option<DateTime<Utc>> {
        self.dues().min()
    }

    pub(super) fn dues(&self) -> impl Iterator<Item = DateTime<Utc>> {
        self.due_at.into_iter().chain(self.undo.as_ref().and_then(|u| u.due_at))
    }

    /// Returns why the due command is sent again, if the due action is a repetition that can be put off.
    pub(super) fn repeats(&self, now: DateTime<Utc>) -> Option<Repeats> {
        let has_come = |at: Option<DateTime<Utc>>| at.is_some_and(|at| at <= now);
        match (&self.undo, self.status) {
            (Some(undo), _) if has_come(undo.due_at) => match (undo.asks, undo.failures, undo.unknowns) {
                (0, 1.., 0) => Some(Repeats::Failed),
                (1.., ..) => Some(Repeats::Silent),
                _ => None,
            },
            _ if !has_come(self.due_at) => None,
            (_, Status::Backoff) if self.attempt > 1 => Some(Repeats::Failed),
            (_, Status::Unknown) if self.asks > 0 => Some(Repeats::Silent),
            (_, Status::Waiting) => Some(Repeats::Silent),
            _ => None,
        }
    }
}
