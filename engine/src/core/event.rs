//! Events: the inputs of a transition.

use amends_protocol::{Exposure, Json, Kind, Outcome, Reason, Reply};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Definition;

/// An event, the time of the decision, and the randomness that the decision may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Occurrence {
    /// What happened.
    pub event: Event,
    /// Current time of the engine's database.
    pub at: DateTime<Utc>,
    /// A random number, 0–1000, drawn by the runtime; see [`super::RetryPolicy::delay`].
    #[serde(default)]
    pub jitter: u16,
}

/// Any input to a transition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The saga was born with this input, without personal fields. Always the first event, and only the first.
    Started(Json),
    /// A worker answered.
    Replied(ReplyEvent),
    /// The saga's `wake_at` has passed.
    Woke,
    /// A user asked for cancellation.
    CancelRequested(Actor),
    /// An operator asked to retry the parked command.
    RetryRequested(Retry),
    /// An operator asked to send a waiting command again at once.
    ResendRequested(Resend),
    /// An operator has evidence of what happened to the parked command.
    Resolved(Resolution),
    /// The row could not be stored with the new events.
    Poisoned(Reason),
    /// Something happened that a step may wait for.
    Signalled(Signal),
}

/// The person or program that acted, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Subject of the request's token.
    pub who: String,
    /// Reason, in the actor's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl Actor {
    /// Creates an actor with its reason.
    pub fn new(who: impl Into<String>, why: impl Into<String>) -> Self {
        Self { who: who.into(), why: why.into() }
    }
}

/// The state that an operator saw when deciding. The action settles only that state: if the saga has changed since, the
/// action is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// The saga's revision.
    pub revision: u32,
    /// The command or compensation that waits for an operator. `None` if the saga is poisoned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_id: Option<Uuid>,
}

/// An operator's request to retry the parked command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// The operator and the reason.
    pub by: Actor,
    /// The state that the operator saw.
    pub seen: Seen,
}

/// An operator's request to send a command now, without waiting for its backoff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resend {
    /// The operator and the reason.
    pub by: Actor,
    /// The state that the operator saw. Optional, because a command that is sent again cannot take effect twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
}

/// An operator's statement of what happened to the parked command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resolution {
    /// The operator and the reason.
    pub by: Actor,
    /// The state that the operator saw.
    pub seen: Seen,
    /// Whether the command took effect.
    pub done: bool,
    /// Evidence from the other side: a bank's or a carrier's reference.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reference: String,
    /// What the step holds if the command took effect, computed from the definition and the saga's input.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposure: Vec<Exposure>,
}

/// A signal: an event from outside, delivered by name. It takes effect at most once for a saga.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    /// The name of the step that waits for it.
    pub name: String,
    /// The payload, without personal fields.
    pub payload: Json,
    /// The person or program that delivers it, and why.
    pub by: Actor,
}

/// The content of a reply, without the fields that only the adapter needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplyEvent {
    /// The answered command.
    pub command_id: Uuid,
    /// Kind of the answered command.
    pub kind: Kind,
    /// The execute concerned, if the answered command is not itself an execute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Uuid>,
    /// Name of the step.
    pub step: String,
    /// The attempt recorded in the worker's row.
    pub attempt: u32,
    /// The outcome of the command.
    pub outcome: Outcome,
    /// The result of a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Json>,
    /// Why the command did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Change of what the saga holds, positive or negative.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposure: Vec<Exposure>,
    /// The remaining fields that the reply repeats of its command.
    #[serde(skip)]
    pub echo: Option<Echo>,
}

/// Fields besides the ids that a reply repeats of its command. They are compared with the command and not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// Index of the command within its step.
    pub part: u16,
    /// Generation of the execute.
    pub generation: u16,
    /// The saga's slot.
    pub slot: u16,
    /// Name and version of the workflow; `None` if this program does not know it.
    pub workflow: Option<(&'static str, u32)>,
}

impl Echo {
    /// Extracts the repeated fields; `definition` belongs to the workflow that the reply names.
    pub fn of(reply: &Reply, definition: Option<&Definition>) -> Self {
        let &Reply { part, generation, slot, .. } = reply;
        Self { part, generation, slot, workflow: definition.map(|d| (d.name, d.version)) }
    }
}

impl ReplyEvent {
    /// Returns the id of the execute concerned.
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
    /// Returns the event's name for the timeline.
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
            Event::Signalled(_) => "signalled",
        }
    }
}
