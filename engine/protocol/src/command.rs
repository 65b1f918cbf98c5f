//! Commands: requests to a worker.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Json, Reply, id};

/// The highest attempt: rows store it in a signed 32-bit column.
pub const MAX_ATTEMPT: u32 = i32::MAX as u32;

/// What a command asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Do the step's work.
    Execute,
    /// Undo the target, or make sure that it can never take effect.
    Compensate,
    /// Report whether the target took effect, without changing anything.
    Probe,
    /// Promise that the target will never take effect, or report that it did.
    Fence,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Execute, Self::Compensate, Self::Probe, Self::Fence];

    /// Returns the word used in messages, timelines and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Execute => "execute",
            Kind::Compensate => "compensate",
            Kind::Probe => "probe",
            Kind::Fence => "fence",
        }
    }
}

/// An operator's evidence of the outcome of an execute that its worker cannot settle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Resolved {
    /// The execute took effect.
    Done,
    /// The execute took no effect.
    NotDone,
}

impl Resolved {
    /// Returns the word used in messages and in the worker's row.
    pub fn as_str(self) -> &'static str {
        match self {
            Resolved::Done => "done",
            Resolved::NotDone => "notDone",
        }
    }

    /// Parses the word stored in the worker's row.
    pub fn of(word: &str) -> Option<Self> {
        [Resolved::Done, Resolved::NotDone].into_iter().find(|r| r.as_str() == word)
    }
}

/// A request to a worker to act on one step of one saga.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = crate::schema::only_an_execute_has_no_target)]
pub struct Command {
    /// The format of this message; at present 1.
    pub schema_version: u16,
    /// The command's id: the same for every attempt, computed from saga, step, part and generation.
    pub command_id: Uuid,
    /// What the worker is asked to do.
    pub kind: Kind,
    /// The `execute` that a compensate, probe or fence is about; absent from an execute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Uuid>,
    /// The saga that sent the command.
    pub saga_id: Uuid,
    /// The saga's slot, 0–1023.
    #[schemars(range(max = 1023))]
    pub slot: u16,
    /// The saga's business key, for people (an order's id). Effects are never keyed by it.
    pub business_key: String,
    /// Name of the workflow.
    pub workflow: String,
    /// Version of the workflow.
    #[schemars(range(max = 4_294_967_295_u32))]
    pub workflow_version: u32,
    /// Name of the step.
    pub step: String,
    /// Index of the command within its step, from 0.
    pub part: u16,
    /// Counts from 1. It rises when a command is settled for good and its step is tried anew.
    #[schemars(range(min = 1))]
    pub generation: u16,
    /// The attempt: from 1, below 2^31, never restarted. A compensation counts its own attempts.
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub attempt: u32,
    /// Epoch of the engine's database: whenever that was set back to an earlier state, a greater one begins.
    #[schemars(range(max = 4_294_967_295_u32))]
    pub epoch: u32,
    /// Time of the first issue, by the engine's database; the same for all attempts.
    pub issued_at: DateTime<Utc>,
    /// Time at which this message was sent, by the engine's database: new at each sending. The reply repeats it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<DateTime<Utc>>,
    /// Time at which the target was first issued; absent from an execute. A worker without a row for the target judges
    /// the command's age by it: a compensation is younger than what it undoes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_issued_at: Option<DateTime<Utc>>,
    /// Only in a compensate or fence: an operator has settled the target by evidence from elsewhere. The worker does
    /// not call the external system for it again; it only looks up the outcome of the calls that it has made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Resolved>,
    /// Time at which the engine starts to probe for the outcome. For information: a worker refuses nothing because of
    /// it.
    pub deadline: DateTime<Utc>,
    /// Token that the reply repeats; a reply without it is rejected.
    pub reply_token: String,
    /// The step's arguments. `null` for all kinds except execute.
    #[serde(default)]
    pub payload: Json,
}

impl Command {
    /// Returns the key of the worker's row: the id of the *execute* that this command is, or is about.
    ///
    /// ```
    /// # use amends_protocol::*;
    /// # fn f(undo: &Command) {
    /// assert_eq!(undo.row_key(), undo.target.unwrap());
    /// # }
    /// ```
    pub fn row_key(&self) -> Uuid {
        self.target.unwrap_or(self.command_id)
    }

    /// Returns the time at which the execute that this command is, or is about, was first issued; the earliest possible
    /// time if the message does not contain it.
    ///
    /// A compensation has its own date, long after its target's. Judged by that date, a compensation for an effect
    /// whose row is gone would be answered like one whose execute never arrived.
    pub fn effect_issued_at(&self) -> DateTime<Utc> {
        match (self.kind, self.target_issued_at) {
            (Kind::Execute, _) | (Kind::Probe | Kind::Fence, None) => self.issued_at,
            (_, Some(issued_at)) => issued_at,
            (Kind::Compensate, None) => id::born_at(self.row_key()),
        }
    }

    /// Creates a reply that echoes this command; the caller fills in the remaining fields.
    pub fn reply(&self, outcome: crate::Outcome, replied_at: DateTime<Utc>) -> Reply {
        Reply {
            schema_version: crate::SCHEMA_VERSION,
            command_id: self.command_id,
            kind: self.kind,
            target: self.target,
            saga_id: self.saga_id,
            slot: self.slot,
            workflow: self.workflow.clone(),
            workflow_version: self.workflow_version,
            step: self.step.clone(),
            part: self.part,
            generation: self.generation,
            attempt: self.attempt,
            epoch: self.epoch,
            sent_at: self.sent_at,
            reply_token: self.reply_token.clone(),
            outcome,
            result: None,
            reason: None,
            exposure: Vec::new(),
            replied_at,
        }
    }

    /// Returns what is wrong with the message although its JSON is valid; `None` if it is correct.
    pub fn fault(&self) -> Option<&'static str> {
        if self.slot >= crate::SLOTS {
            return Some("slot: out of 0-1023");
        }
        if !(1..=MAX_ATTEMPT).contains(&self.attempt) || self.generation == 0 {
            return Some("attempt, generation: count from 1; an attempt stays below 2^31");
        }
        match (self.kind, self.target) {
            (Kind::Execute, Some(_)) => Some("target: an execute has none"),
            (Kind::Execute, None) => None,
            (_, None) => Some("target: missing"),
            (kind, Some(target)) if self.command_id != id::of(kind, target) => {
                Some("commandId: does not belong to its kind and target")
            }
            _ => None,
        }
    }
}
