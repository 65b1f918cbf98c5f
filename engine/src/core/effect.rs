//! What a transition comes to, as data.

use amends_protocol::{Kind, Outcome, Reason};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::command_state::{is_one16, one16};
use super::{CORE_VERSION, CommandState, Definition, Occurrence, Saga, SagaOutcome};

/// What a transition comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// The saga moved on: to be written, and then to be sent.
    Changed(Box<Change>),
    /// Nothing is to be written.
    Nothing(Nothing),
    /// Nothing was due; only `wake_at` is to be raised.
    Rescheduled(Option<DateTime<Utc>>),
    /// Somebody asked for what is not possible now.
    Illegal(Illegal),
}

/// A saga's next row, the timeline entry that goes with it, and the commands to send once both are committed.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The row as it will be; its revision is the entry's.
    pub saga: Saga,
    /// Its timeline entry.
    pub entry: Entry,
    /// Commands to send.
    pub sends: Vec<CommandToSend>,
}

/// Why there is nothing to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nothing {
    /// Heard before.
    Duplicate,
    /// The worker is at it.
    InFlight,
    /// No command of this saga: if a success, an effect that nobody ordered.
    NotMine,
    /// It answers a command of this saga and repeats another's step, part, generation, workflow or slot.
    WrongEcho,
    /// A cancellation that is already on its way.
    AlreadyCancelling,
}

/// Why an action is not possible now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    /// It has an outcome.
    #[error("the saga has ended")]
    Ended,
    /// The pivot has succeeded.
    #[error("it is past the point of no return")]
    PastPivot,
    /// It is being undone, towards something else.
    #[error("it is being undone towards another outcome")]
    UndoneOtherwise,
    /// It has moved since the operator looked, or something else of it waits for them.
    #[error("it has moved since it was looked at: look again")]
    Stale,
    /// What is to be settled is not named.
    #[error("several things may wait for an operator: the command must be named")]
    NeedsCommand,
    /// Nothing of it waits for a time at which it would be sent.
    #[error("nothing of it waits to be sent again")]
    NothingToSend,
    /// It does not wait for an operator.
    #[error("the saga is not parked")]
    NotParked,
    /// What is parked never took effect, or its row is poisoned: it can be tried again, not resolved.
    #[error("what is parked can only be retried")]
    OnlyRetry,
    /// A compensation that was not done must be retried.
    #[error("a compensation can be resolved only as done, or retried")]
    UndoneOnly,
    /// Only the other side can say what became of it.
    #[error("the outcome is unknown: a reference from the other side is needed")]
    NeedsReference,
}

/// A command to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CommandToSend {
    /// What is asked.
    pub kind: Kind,
    /// Index of the step.
    pub step: usize,
    /// Which of the step's commands.
    pub part: u16,
    /// Of the execute.
    pub generation: u16,
    /// Of the execute, or of the compensation.
    pub attempt: u32,
    /// Stable over attempts.
    pub issued_at: DateTime<Utc>,
    /// When the engine will ask.
    pub deadline: DateTime<Utc>,
}

impl CommandToSend {
    /// The command of this kind that is to go out for an execute as it stands.
    pub(super) fn of(definition: &Definition, command: &CommandState, kind: Kind) -> Self {
        let &CommandState { step, part, generation, .. } = command;
        let (attempt, issued_at, deadline) = match (kind, &command.undo) {
            (Kind::Compensate, Some(u)) => {
                (u.attempt, u.issued_at, u.issued_at + definition.steps[step].deadline)
            }
            _ => (command.attempt, command.issued_at, command.deadline(definition)),
        };
        Self { kind, step, part, generation, attempt, issued_at, deadline }
    }

    /// How a timeline calls it: `pay execute 2`, `reserve/1 compensate`.
    pub(super) fn name(&self, definition: &Definition) -> String {
        let part = if self.part == 0 { String::new() } else { format!("/{}", self.part) };
        let attempt = match (self.kind, self.attempt) {
            (Kind::Execute | Kind::Compensate, n) if n > 1 => format!(" {n}"),
            _ => String::new(),
        };
        format!("{}{part} {}{attempt}", definition.steps[self.step].name, self.kind.as_str())
    }
}

/// One entry of a saga's append-only history: what happened and what was decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// From 1, without a gap.
    pub revision: u32,
    /// The rules by which it was decided; it is replayed by them.
    pub core_version: u16,
    /// What happened, when.
    pub occurrence: Occurrence,
    /// What was decided.
    pub did: Did,
}

/// What of an entry has no column of its own.
#[derive(Serialize, Deserialize)]
struct Body<E, D> {
    event: E,
    #[serde(default)]
    jitter: u16,
    /// Absent: the first.
    #[serde(default = "one16", skip_serializing_if = "is_one16")]
    core: u16,
    did: D,
}

impl Entry {
    /// The JSON that is stored beside revision and instant.
    pub fn body(&self) -> String {
        let (event, did) = (&self.occurrence.event, &self.did);
        let body = Body { event, jitter: self.occurrence.jitter, core: self.core_version, did };
        serde_json::to_string(&body).expect("entries have string keys and finite numbers only")
    }

    /// An entry from what is stored.
    ///
    /// # Errors
    /// What does not fit: the entry was decided by newer rules, or is damaged.
    pub fn from_stored(revision: u32, at: DateTime<Utc>, body: &str) -> Result<Self, serde_json::Error> {
        let Body { event, jitter, core, did } = serde_json::from_str(body)?;
        if core > CORE_VERSION {
            return Err(serde::de::Error::custom(format!(
                "decided by rules {core}, newer than {CORE_VERSION}"
            )));
        }
        Ok(Self { revision, core_version: core, occurrence: Occurrence { event, at, jitter }, did })
    }
}

/// What was decided, for people and for the check that a later core decides the same.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Did {
    /// The new label, where it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The label it will have, where it began to be undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heading_for: Option<String>,
    /// When it will be cancelled unless a step has succeeded by then; with the birth only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_at: Option<DateTime<Utc>>,
    /// When `unknown` will be no answer any more; with the first in a row only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parks_at: Option<DateTime<Utc>>,
    /// The step it concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The attempt it concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Commands sent: `pay execute 2`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sent: Vec<String>,
    /// Why it parked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked: Option<Reason>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<SagaOutcome>,
    /// An odd answer, recorded and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noted: Option<Outcome>,
    /// What should be impossible, and was mended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<String>,
}
