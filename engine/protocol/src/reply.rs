//! The outcome of a command.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Exposure, Json, Kind};

/// What became of a command. Only `refused` is a business answer; none of the others ever
/// counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done. For a compensation: the effect is undone *or can never happen*.
    Succeeded,
    /// A business no; nothing happened.
    Refused,
    /// Certainly without effect, now and later; a higher attempt may succeed.
    FailedTransient,
    /// Certainly without effect, now and later; another attempt would fail too.
    FailedForGood,
    /// Accepted or under way; a reply follows.
    InFlight,
    /// To a probe: never heard of.
    NotSeen,
    /// The command will never take effect.
    Fenced,
    /// Issued longer ago than the worker's horizon; says nothing about the effect.
    Expired,
    /// The worker is older than the message.
    Unsupported,
    /// Nobody could say whether it took effect.
    Unknown,
}

impl Outcome {
    /// The word used on the wire, in timelines and in logs.
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

    /// Whether this is a business "no".
    pub fn is_business_answer(self) -> bool {
        self == Outcome::Refused
    }
}

/// Why something was refused, failed or cannot be known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// Stable, for programs: `card_declined`.
    pub code: String,
    /// For people; no personal data.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
}

impl Reason {
    /// A reason of a code and a sentence for people.
    pub fn new(code: impl Into<String>, text: impl Into<String>) -> Self {
        Self { code: code.into(), text: text.into() }
    }
}

/// The outcome of a command, sent to the saga's home.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    /// The format of this message: 1. A newer one is dead-lettered.
    #[schemars(range(max = 1))]
    pub schema_version: u16,
    /// The command that is answered.
    pub command_id: Uuid,
    /// Its kind: a reply settles a command only if kind and id are that command's.
    pub kind: Kind,
    /// Its target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Uuid>,
    /// Its saga.
    pub saga_id: Uuid,
    /// The saga's home, 0–1023; the reply's partition is this modulo the reply topic's count.
    #[schemars(range(max = 1023))]
    pub slot: u16,
    /// Name of the workflow.
    pub workflow: String,
    /// Version of the workflow.
    #[schemars(range(max = 4_294_967_295_u32))]
    pub workflow_version: u32,
    /// Name of the step.
    pub step: String,
    /// Which of the step's commands.
    pub part: u16,
    /// Echoed from the command.
    pub generation: u16,
    /// From 1, below 2^31. Of an execute, a probe or a fence: the attempt at which the worker's row stands, not the asker's. Of a
    /// compensation: the compensation's own, which a recorded reply repeats from the undo that it records.
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub attempt: u32,
    /// The command's, or the newest that the worker's row has seen.
    #[schemars(range(max = 4_294_967_295_u32))]
    pub epoch: u32,
    /// Echoed from the message that is answered: a recorded reply repeats that of the message that asks, an outcome after
    /// `in_flight` that of the message that was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<DateTime<Utc>>,
    /// Echoed from the command: a reply without it is not believed.
    pub reply_token: String,
    /// What became of it.
    pub outcome: Outcome,
    /// What a success brought, for the timeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Json>,
    /// Why it was refused, failed or is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What the saga holds more (or less) since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposure: Vec<Exposure>,
    /// When, by the worker's database.
    pub replied_at: DateTime<Utc>,
}

impl Reply {
    /// The execute that this reply is about.
    pub fn row_key(&self) -> Uuid {
        self.target.unwrap_or(self.command_id)
    }
}
