//! What a saga's row says of a command, and of its compensation.

use amends_protocol::{Exposure, Outcome, Reason, id};
use chrono::{
    DateTime, Utc,
    serde::{ts_microseconds, ts_microseconds_option},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Definition;

/// An execute, and its compensation if it has one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandState {
    /// Index of its step.
    pub step: usize,
    /// Which of the step's commands.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub part: u16,
    /// From 1.
    #[serde(default = "one16", skip_serializing_if = "is_one16")]
    pub generation: u16,
    /// From 1; never restarted.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub attempt: u32,
    /// When first issued.
    #[serde(with = "ts_microseconds")]
    pub issued_at: DateTime<Utc>,
    /// When the present attempt was issued; its deadline counts from here.
    #[serde(default, with = "ts_microseconds_option", skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<DateTime<Utc>>,
    /// What is known of it.
    pub status: Status,
    /// When there is something to do about it.
    #[serde(default, with = "ts_microseconds_option", skip_serializing_if = "Option::is_none")]
    pub due_at: Option<DateTime<Utc>>,
    /// Questions asked since the last answer.
    #[serde(default, skip_serializing_if = "is_zero32")]
    pub asks: u32,
    /// Attempts that were answered `failed`.
    #[serde(default, skip_serializing_if = "is_zero32")]
    pub failures: u32,
    /// Times in a row that a probe was answered `unknown`.
    #[serde(default, skip_serializing_if = "is_zero32")]
    pub unknowns: u32,
    /// When `unknown` will be no answer any more: the next one parks it. Set by the first in a row.
    #[serde(default, with = "ts_microseconds_option", skip_serializing_if = "Option::is_none")]
    pub parks_at: Option<DateTime<Utc>>,
    /// Why it waits for an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked: Option<Reason>,
    /// What its success brought.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<Exposure>,
    /// Odd answers already in the timeline, so that each is recorded once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub noted: Vec<Outcome>,
    /// Its compensation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Undo>,
}

/// What is known of an execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Sent; within its deadline.
    Waiting,
    /// Nobody knows: being asked after.
    Unknown,
    /// Failed; a further attempt follows.
    Backoff,
    /// Took effect.
    Succeeded,
    /// A business no.
    Refused,
    /// Failed, and the engine gave up on it.
    Failed,
    /// Will never take effect.
    Fenced,
    /// Too old for its worker to know.
    Expired,
    /// An operator has evidence that it took no effect.
    NotDone,
}

impl Status {
    /// Whether an answer is still awaited.
    pub fn is_open(self) -> bool {
        matches!(self, Status::Waiting | Status::Unknown | Status::Backoff)
    }

    /// Whether it is certain, without a compensation, that there is nothing to undo. Evidence from elsewhere says
    /// only how things were when somebody looked: a call may still have been on its way.
    pub fn needs_no_undo(self) -> bool {
        self == Status::Refused
    }
}

/// Why a command goes out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Repeats {
    /// The last attempt was answered as failed.
    Failed,
    /// Nothing was answered in time.
    Silent,
}

/// The compensation of an execute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Undo {
    /// From 1; never restarted.
    pub attempt: u32,
    /// When first issued.
    #[serde(with = "ts_microseconds")]
    pub issued_at: DateTime<Utc>,
    /// The effect is undone or can never happen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub done: bool,
    /// That it is done rests on evidence from elsewhere, not on its worker's word.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_hand: bool,
    /// When to send it again.
    #[serde(default, with = "ts_microseconds_option", skip_serializing_if = "Option::is_none")]
    pub due_at: Option<DateTime<Utc>>,
    /// Sent since the last answer.
    #[serde(default, skip_serializing_if = "is_zero32")]
    pub asks: u32,
    /// Attempts that were answered `failed`.
    #[serde(default, skip_serializing_if = "is_zero32")]
    pub failures: u32,
    /// Times in a row that it was answered `unknown`.
    #[serde(default, skip_serializing_if = "is_zero32")]
    pub unknowns: u32,
    /// When `unknown` will be no answer any more: the next one parks it. Set by the first in a row.
    #[serde(default, with = "ts_microseconds_option", skip_serializing_if = "Option::is_none")]
    pub parks_at: Option<DateTime<Utc>>,
    /// What a success gave back that left something held: it is taken off what is held, once an attempt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given_back: Vec<Exposure>,
    /// The attempt that gave it back.
    #[serde(default, skip_serializing_if = "is_zero32")]
    pub given_back_at: u32,
    /// Why it waits for an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked: Option<Reason>,
}

fn one() -> u32 {
    1
}
pub(super) fn one16() -> u16 {
    1
}
// serde passes references to these.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_one(n: &u32) -> bool {
    *n == 1
}
#[allow(clippy::trivially_copy_pass_by_ref)]
pub(super) fn is_one16(n: &u16) -> bool {
    *n == 1
}
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(n: &u16) -> bool {
    *n == 0
}
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero32(n: &u32) -> bool {
    *n == 0
}

impl CommandState {
    /// The execute's id.
    pub fn id(&self, saga: Uuid, definition: &Definition) -> Uuid {
        id::execute(saga, definition.steps[self.step].name, self.part, self.generation)
    }

    /// When the present attempt's outcome is called unknown.
    pub fn deadline(&self, definition: &Definition) -> DateTime<Utc> {
        self.sent_at.unwrap_or(self.issued_at) + definition.steps[self.step].deadline
    }

    /// Whether it may hold something that no answer has told of yet: until it is settled, and while it is
    /// undone also where it is said that it will never take effect: perhaps only because it is undone.
    pub(super) fn may_hold(&self) -> bool {
        match self.status {
            Status::Fenced => self.undo.is_some(),
            status => status.is_open() || status == Status::Expired,
        }
    }

    /// Whether a success is news although it is called undone: it came after somebody had looked.
    pub(super) fn is_undone_by_hand(&self) -> bool {
        self.undo.as_ref().is_some_and(|u| u.done && u.by_hand) && self.status != Status::Succeeded
    }

    /// Whether its compensation says that there is no effect and never will be.
    pub fn is_undone(&self) -> bool {
        self.undo.as_ref().is_some_and(|u| u.done)
    }

    /// The id of what waits for an operator, if anything does: of the execute, or of its compensation.
    pub fn parked_id(&self, saga: Uuid, definition: &Definition) -> Option<Uuid> {
        let execute = || self.id(saga, definition);
        match (&self.parked, &self.undo) {
            (Some(_), _) => Some(execute()),
            (None, Some(undo)) if undo.parked.is_some() => Some(id::undo(execute())),
            _ => None,
        }
    }

    /// Why it, or its compensation, waits for an operator.
    pub fn parked(&self) -> Option<&Reason> {
        self.parked.as_ref().or_else(|| self.undo.as_ref().and_then(|u| u.parked.as_ref()))
    }

    /// When there is something to do about it or its compensation.
    pub fn due(&self) -> Option<DateTime<Utc>> {
        self.dues().min()
    }

    pub(super) fn dues(&self) -> impl Iterator<Item = DateTime<Utc>> {
        self.due_at.into_iter().chain(self.undo.as_ref().and_then(|u| u.due_at))
    }

    /// Why what is due about it now goes out again, if it is a repetition that can wait.
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
