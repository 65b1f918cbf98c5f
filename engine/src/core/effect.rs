//! Results of a transition, as data.

use amends_protocol::{Kind, Outcome, Reason, trace::TraceContext};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::command_state::{is_one16, is_zero32, one16};
use super::{CORE_VERSION, CommandState, Definition, Occurrence, Saga, SagaOutcome};

/// The result of a transition.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// The saga changed. The caller writes the change, then sends its commands.
    Changed(Box<Change>),
    /// There is nothing to write.
    Nothing(Nothing),
    /// Nothing was due; only `wake_at` is raised.
    Rescheduled(Option<DateTime<Utc>>),
    /// The requested action is not possible now.
    Illegal(Illegal),
}

/// A saga's next row, its timeline entry, and the commands to send once both are committed.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The new row; its revision is the entry's.
    pub saga: Saga,
    /// The timeline entry.
    pub entry: Entry,
    /// The commands to send.
    pub sends: Vec<CommandToSend>,
}

/// Why there is nothing to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nothing {
    /// The answer or the signal was already recorded.
    Duplicate,
    /// The worker is still executing the command.
    InFlight,
    /// The reply matches no command of this saga. If it is a success, it is an effect that no saga ordered.
    NotMine,
    /// The reply answers a command of this saga, but repeats a different step, part, generation, workflow or slot.
    WrongEcho,
    /// A cancellation is already in progress.
    AlreadyCancelling,
}

/// Why an action is not possible now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    /// The saga has an outcome.
    #[error("the saga has ended")]
    Ended,
    /// The pivot has succeeded.
    #[error("it is past the point of no return")]
    PastPivot,
    /// The saga is being undone, towards a different outcome.
    #[error("it is being undone towards another outcome")]
    UndoneOtherwise,
    /// The saga has changed since the operator looked, or another of its commands waits for the operator.
    #[error("it has moved since it was looked at: look again")]
    Stale,
    /// The request does not name the command to settle.
    #[error("several things may wait for an operator: the command must be named")]
    NeedsCommand,
    /// No command of the saga waits for a time at which it would be sent.
    #[error("nothing of it waits to be sent again")]
    NothingToSend,
    /// The saga does not wait for an operator.
    #[error("the saga is not parked")]
    NotParked,
    /// The parked command never took effect, or the saga is poisoned: it can be retried, not resolved.
    #[error("what is parked can only be retried")]
    OnlyRetry,
    /// A compensation that was not done must be retried.
    #[error("a compensation can be resolved only as done, or retried")]
    UndoneOnly,
    /// The workflow has no step that waits for a signal of this name.
    #[error("its workflow waits for no such signal")]
    UnknownSignal,
    /// The signal has arrived before, with another payload: the first one counts.
    #[error("that signal has arrived before, with another payload")]
    SignalledOtherwise,
    /// The saga is being undone, or the signal's deadline has passed.
    #[error("it no longer waits for that signal")]
    NoLongerAwaited,
    /// The workflow does not understand the signal's payload.
    #[error("its workflow does not understand the signal's payload")]
    MalformedSignal,
    /// After the pivot a saga only goes forward.
    #[error("past the point of no return the signal can only say yes")]
    MustAccept,
    /// Only the other side can say what happened to the command.
    #[error("the outcome is unknown: a reference from the other side is needed")]
    NeedsReference,
}

/// A command to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CommandToSend {
    /// The kind of command.
    pub kind: Kind,
    /// Index of the step.
    pub step: usize,
    /// Index of the command within its step.
    pub part: u16,
    /// Generation of the execute.
    pub generation: u16,
    /// Attempt of the execute or of the compensation.
    pub attempt: u32,
    /// Time of the first issue; all attempts share it.
    pub issued_at: DateTime<Utc>,
    /// Time at which the engine probes for the outcome.
    pub deadline: DateTime<Utc>,
}

impl CommandToSend {
    /// Builds the command of the given kind from the present state of an execute.
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

    /// Returns the command's name in the timeline: `pay execute 2`, `reserve/1 compensate`.
    pub fn name(&self, definition: &Definition) -> String {
        let part = if self.part == 0 { String::new() } else { format!("/{}", self.part) };
        let attempt = match (self.kind, self.attempt) {
            (Kind::Execute | Kind::Compensate, n) if n > 1 => format!(" {n}"),
            _ => String::new(),
        };
        format!("{}{part} {}{attempt}", definition.steps[self.step].name, self.kind.as_str())
    }
}

/// An entry of a saga's append-only timeline: what happened, and what the core decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Revision, from 1, without gaps.
    pub revision: u32,
    /// Version of the rules that decided the entry; a replay uses the same version.
    pub core_version: u16,
    /// The store's epoch in which the entry was written; 0 until the store writes it. After a restore, a saga may have
    /// another entry of a revision that was published before.
    pub epoch: u32,
    /// What happened, and when.
    pub occurrence: Occurrence,
    /// What the core decided.
    pub did: Did,
}

/// The part of an entry that has no column of its own.
#[derive(Serialize, Deserialize)]
struct Body<E, D> {
    event: E,
    #[serde(default)]
    jitter: u16,
    /// Absent for version 1.
    #[serde(default = "one16", skip_serializing_if = "is_one16")]
    core: u16,
    /// Absent for epoch 0.
    #[serde(default, skip_serializing_if = "is_zero32")]
    epoch: u32,
    did: D,
}

impl Entry {
    /// Returns the JSON that a store in this epoch keeps beside revision and time.
    pub fn body(&self, epoch: u32) -> String {
        let (event, did) = (&self.occurrence.event, &self.did);
        let body = Body { event, jitter: self.occurrence.jitter, core: self.core_version, epoch, did };
        serde_json::to_string(&body).expect("entries have string keys and finite numbers only")
    }

    /// Reads an entry from its stored columns.
    ///
    /// # Errors
    /// The entry was decided by newer rules, or is damaged.
    pub fn from_stored(revision: u32, at: DateTime<Utc>, body: &str) -> Result<Self, serde_json::Error> {
        let Body { event, jitter, core, epoch, did } = serde_json::from_str(body)?;
        if core > CORE_VERSION {
            return Err(serde::de::Error::custom(format!(
                "decided by rules {core}, newer than {CORE_VERSION}"
            )));
        }
        Ok(Self { revision, core_version: core, epoch, occurrence: Occurrence { event, at, jitter }, did })
    }
}

/// What the core decided: shown to people, and compared by the check that a later core decides the same.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Did {
    /// The new label, if it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The label that the saga will have, if it began to be undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heading_for: Option<String>,
    /// Time at which the saga is cancelled unless a step has succeeded by then. Set only at birth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_at: Option<DateTime<Utc>>,
    /// The span of the request that the saga was born of. Set only at birth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceContext>,
    /// Time from which an `unknown` answer parks. Set only by the first of consecutive `unknown`s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parks_at: Option<DateTime<Utc>>,
    /// The step concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The attempt concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Commands sent: `pay execute 2`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sent: Vec<String>,
    /// Why the saga parked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked: Option<Reason>,
    /// How the saga ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<SagaOutcome>,
    /// An unexpected answer that was only recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noted: Option<Outcome>,
    /// An event that should be impossible and was mended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<String>,
}
