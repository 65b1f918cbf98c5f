//! A request that a worker act.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Json, Reply, id};

/// The highest attempt: rows keep it in 32 bits with a sign.
pub const MAX_ATTEMPT: u32 = i32::MAX as u32;

/// What a command asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Do the step's work.
    Execute,
    /// Undo the target, or make sure that it can never happen.
    Compensate,
    /// Say whether the target took effect. Changes nothing.
    Probe,
    /// Promise that the target will never take effect, or say that it did.
    Fence,
}

impl Kind {
    /// The word used on the wire, in timelines and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Execute => "execute",
            Kind::Compensate => "compensate",
            Kind::Probe => "probe",
            Kind::Fence => "fence",
        }
    }
}

/// What a person has evidence of: what became of an execute that its worker cannot settle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Resolved {
    /// It took effect.
    Done,
    /// It took no effect.
    NotDone,
}

impl Resolved {
    /// The word used on the wire and in the worker's row.
    pub fn as_str(self) -> &'static str {
        match self {
            Resolved::Done => "done",
            Resolved::NotDone => "notDone",
        }
    }

    /// The resolution of a word in the worker's row.
    pub fn of(word: &str) -> Option<Self> {
        [Resolved::Done, Resolved::NotDone].into_iter().find(|r| r.as_str() == word)
    }
}

/// A request that a worker act on one step of one saga.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = crate::schema::only_an_execute_has_no_target)]
pub struct Command {
    /// The format of this message; 1 now.
    pub schema_version: u16,
    /// The same for every attempt; computed from saga, step, part and generation.
    pub command_id: Uuid,
    /// What is asked.
    pub kind: Kind,
    /// The `execute` that a compensate, probe or fence is about; absent from an execute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Uuid>,
    /// The saga that asks.
    pub saga_id: Uuid,
    /// The saga's home, 0–1023.
    #[schemars(range(max = 1023))]
    pub slot: u16,
    /// What the saga is about, for people (an order's id). Effects are never keyed by it.
    pub business_key: String,
    /// Name of the workflow.
    pub workflow: String,
    /// Version of the workflow.
    #[schemars(range(max = 4_294_967_295_u32))]
    pub workflow_version: u32,
    /// Name of the step.
    pub step: String,
    /// Which of the step's commands this is, from 0.
    pub part: u16,
    /// Rises when a command is settled for good and its step is tried anew; from 1.
    #[schemars(range(min = 1))]
    pub generation: u16,
    /// From 1, below 2^31; never restarted. A compensation counts its own.
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub attempt: u32,
    /// How often the engine's database was restored to an earlier state.
    #[schemars(range(max = 4_294_967_295_u32))]
    pub epoch: u32,
    /// When the command was first issued, by the engine's database; stable over attempts.
    pub issued_at: DateTime<Utc>,
    /// When this message was sent, by the engine's database: new at each sending. The reply repeats it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<DateTime<Utc>>,
    /// When the target was first issued; absent for an execute. Where a worker has no row, this is the command's age:
    /// a compensation is younger than what it undoes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_issued_at: Option<DateTime<Utc>>,
    /// Of a compensate or a fence: a person has settled the target by evidence from elsewhere. The worker does not
    /// call for it again; it only looks up what became of the calls that it has made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Resolved>,
    /// When the engine will start to ask what became of it. Information: a worker refuses nothing for it.
    pub deadline: DateTime<Utc>,
    /// Repeated in the reply, which is not believed without it.
    pub reply_token: String,
    /// What the step needs to know. Empty (`null`) for everything but an execute.
    #[serde(default)]
    pub payload: Json,
}

impl Command {
    /// The key of the worker's row: the id of the *execute* that this command is, or is about.
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

    /// When the execute that this command is, or is about, was first issued: at the earliest possible time where the
    /// message does not say.
    ///
    /// A compensation has a date of its own, long after its target's. Judged by that, a compensation for an effect whose
    /// row has gone would be answered as one whose execute never came.
    pub fn effect_issued_at(&self) -> DateTime<Utc> {
        match (self.kind, self.target_issued_at) {
            (Kind::Execute, _) | (Kind::Probe | Kind::Fence, None) => self.issued_at,
            (_, Some(issued_at)) => issued_at,
            (Kind::Compensate, None) => id::born_at(self.row_key()),
        }
    }

    /// A reply that echoes this command; the caller fills in what it has to say.
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

    /// What is wrong with the message beyond its JSON; `None` if nothing.
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
