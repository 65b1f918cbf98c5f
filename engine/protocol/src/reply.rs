//! Replies: the outcome of a command.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Exposure, Json, Kind};

/// The outcome of a command. Only `refused` is a business answer; no other outcome ever counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The command took effect. For a compensation: the effect is undone *or can never happen*.
    Succeeded,
    /// Refused for a business reason; nothing happened.
    Refused,
    /// Certainly without effect, now and later; a higher attempt may succeed.
    FailedTransient,
    /// Certainly without effect, now and later; another attempt would fail too.
    FailedForGood,
    /// Accepted or in progress; another reply follows.
    InFlight,
    /// In answer to a probe: the worker has never received the command.
    NotSeen,
    /// The command will never take effect.
    Fenced,
    /// The command is older than the worker's horizon. This says nothing about the effect.
    Expired,
    /// The worker is older than the message.
    Unsupported,
    /// The worker could not find out whether the command took effect.
    Unknown,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 10] = [
        Self::Succeeded,
        Self::Refused,
        Self::FailedTransient,
        Self::FailedForGood,
        Self::InFlight,
        Self::NotSeen,
        Self::Fenced,
        Self::Expired,
        Self::Unsupported,
        Self::Unknown,
    ];

    /// Returns the word used in messages, timelines and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Succeeded => "succeeded",
            Outcome::Refused => "refused",
            Outcome::FailedTransient => "failed_transient",
            Outcome::FailedForGood => "failed_for_good",
            Outcome::InFlight => "in_flight",
            Outcome::NotSeen => "not_seen",
            Outcome::Fenced => "fenced",
            Outcome::Expired => "expired",
            Outcome::Unsupported => "unsupported",
            Outcome::Unknown => "unknown",
        }
    }

    /// Returns whether this is a business refusal.
    pub fn is_business_answer(self) -> bool {
        self == Outcome::Refused
    }
}

/// Why a command was refused, failed or has an unknown outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// Stable code for programs: `card_declined`.
    pub code: String,
    /// Text for people, without personal data.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
}

impl Reason {
    /// Creates a reason from a code and a text for people.
    pub fn new(code: impl Into<String>, text: impl Into<String>) -> Self {
        Self { code: code.into(), text: text.into() }
    }
}

/// The outcome of a command, sent to the saga's slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    /// The format of this message: 1. A newer one is dead-lettered.
    #[schemars(range(max = 1))]
    pub schema_version: u16,
    /// The answered command.
    pub command_id: Uuid,
    /// Kind of the answered command. A reply settles a command only if kind and id match.
    pub kind: Kind,
    /// Target of the answered command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Uuid>,
    /// The saga that sent the command.
    pub saga_id: Uuid,
    /// The saga's slot, 0–1023; the reply's partition is the slot modulo the number of the reply topic's partitions.
    #[schemars(range(max = 1023))]
    pub slot: u16,
    /// Name of the workflow.
    pub workflow: String,
    /// Version of the workflow.
    #[schemars(range(max = 4_294_967_295_u32))]
    pub workflow_version: u32,
    /// Name of the step.
    pub step: String,
    /// Index of the command within its step.
    pub part: u16,
    /// Echoed from the command.
    pub generation: u16,
    /// The attempt: from 1, below 2^31. For an execute, probe or fence: the attempt of the worker's row, not of the
    /// answered message. For a compensation: the compensation's own attempt; a recorded reply repeats that of the
    /// recorded undo.
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub attempt: u32,
    /// The command's epoch, or the newest that the worker's row has seen.
    #[schemars(range(max = 4_294_967_295_u32))]
    pub epoch: u32,
    /// Echoed from the answered message: a recorded reply repeats that of the message that asks, an outcome after
    /// `in_flight` that of the message that was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<DateTime<Utc>>,
    /// Echoed from the command; a reply without it is rejected.
    pub reply_token: String,
    /// The outcome of the command.
    pub outcome: Outcome,
    /// The result of a success, for the timeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Json>,
    /// Why the command was refused, failed or has an unknown outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Change of what the saga holds, positive or negative.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposure: Vec<Exposure>,
    /// Time of the reply, by the worker's database.
    pub replied_at: DateTime<Utc>,
}

impl Reply {
    /// Returns the id of the execute that this reply is about.
    pub fn row_key(&self) -> Uuid {
        self.target.unwrap_or(self.command_id)
    }
}
