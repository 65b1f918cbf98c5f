//! What happens to a saga.

use amends_protocol::{Exposure, Json, Kind, Outcome, Reason, Reply};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Definition;

/// An event, when it was decided, and the randomness that the decision may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Occurrence {
    /// What happened.
    pub event: Event,
    /// The engine's database's time.
    pub at: DateTime<Utc>,
    /// 0–1000, drawn by the runtime; see [`super::RetryPolicy::delay`].
    #[serde(default)]
    pub jitter: u16,
}

/// Any input to a transition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The saga was born with this input, personal fields apart. Only ever the first.
    Started(Json),
    /// A worker answered.
    Replied(ReplyEvent),
    /// Its `wake_at` has come.
    Woke,
    /// Somebody wants it undone.
    CancelRequested(Actor),
    /// An operator wants what is parked tried again.
    RetryRequested(Retry),
    /// An operator wants what waits for its time sent again now.
    ResendRequested(Resend),
    /// An operator knows, from elsewhere, what became of what is parked.
    Resolved(Resolution),
    /// The row could not be written with what had come.
    Poisoned(Reason),
}

/// Who did something, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Subject of the request.
    pub who: String,
    /// In their words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl Actor {
    /// Who and why.
    pub fn new(who: impl Into<String>, why: impl Into<String>) -> Self {
        Self { who: who.into(), why: why.into() }
    }
}

/// What an operator saw when they decided. Their action settles that, and nothing else: a saga that has moved since
/// is another saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// The saga's revision.
    pub revision: u32,
    /// The command (or compensation) that waits for an operator. None where the saga is poisoned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_id: Option<Uuid>,
}

/// An operator's wish that what is parked be tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Who and why.
    pub by: Actor,
    /// What they saw.
    pub seen: Seen,
}

/// An operator's wish that nobody wait any longer for a backoff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resend {
    /// Who and why.
    pub by: Actor,
    /// What they saw, if it matters to them: what is sent again cannot take effect twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
}

/// A resolution by hand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resolution {
    /// Who and why.
    pub by: Actor,
    /// What they saw.
    pub seen: Seen,
    /// Whether it was done.
    pub done: bool,
    /// Evidence from the other side: a bank's or a carrier's reference.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reference: String,
    /// What the step holds if it was done, by the definition and the saga's input.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposure: Vec<Exposure>,
}

/// What a reply says, without what only the edge needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplyEvent {
    /// The command that is answered.
    pub command_id: Uuid,
    /// Its kind.
    pub kind: Kind,
    /// The execute that it is about, where it is about another command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Uuid>,
    /// Name of the step.
    pub step: String,
    /// The attempt that the worker's row stands at.
    pub attempt: u32,
    /// What became of it.
    pub outcome: Outcome,
    /// What a success brought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Json>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What the saga holds more or less since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposure: Vec<Exposure>,
    /// What else it repeats of its command.
    #[serde(skip)]
    pub echo: Option<Echo>,
}

/// What a reply repeats of its command besides the ids: compared with the command, and not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// Which of the step's commands.
    pub part: u16,
    /// Of the execute.
    pub generation: u16,
    /// The saga's home.
    pub slot: u16,
    /// Name and version of the workflow; none if this program does not know it.
    pub workflow: Option<(&'static str, u32)>,
}

impl Echo {
    /// What a reply repeats; `definition` is that of the workflow which it names.
    pub fn of(reply: &Reply, definition: Option<&Definition>) -> Self {
        let &Reply { part, generation, slot, .. } = reply;
        Self { part, generation, slot, workflow: definition.map(|d| (d.name, d.version)) }
    }
}

impl ReplyEvent {
    /// The execute that it is about.
    pub fn row_key(&self) -> Uuid {
        self.target.unwrap_or(self.command_id)
    }
}

impl From<Reply> for ReplyEvent {
    fn from(reply: Reply) -> Self {
        Self {
            target: reply.target,
            command_id: reply.command_id,
            kind: reply.kind,
            step: reply.step,
            attempt: reply.attempt,
            outcome: reply.outcome,
            result: reply.result,
            reason: reply.reason,
            exposure: reply.exposure,
            echo: None,
        }
    }
}

impl Event {
    /// The word for a timeline: what happened.
    pub fn name(&self) -> &'static str {
        match self {
            Event::Started(_) => "started",
            Event::Replied(reply) => reply.outcome.as_str(),
            Event::Woke => "woke",
            Event::CancelRequested(_) => "cancel_requested",
            Event::RetryRequested(_) => "retry_requested",
            Event::ResendRequested(_) => "resend_requested",
            Event::Resolved(_) => "resolved",
            Event::Poisoned(_) => "poisoned",
        }
    }
}
