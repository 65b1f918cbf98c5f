//! The worker's row: all that a worker stores about one command, keyed by the id of its *execute*.

use amends_protocol::{Command, Exposure, Json, Kind, Outcome, Reason, Reply, Resolved};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Status of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Committed, not begun.
    Accepted,
    /// An external call is in progress, or its outcome is unknown.
    Started,
    /// The command took effect.
    Succeeded,
    /// Refused for a business reason.
    Refused,
    /// Certainly without effect; a higher attempt may succeed.
    FailedTransient,
    /// Certainly without effect, and another attempt would fail too.
    FailedForGood,
    /// The command took effect, and an external call that undoes it is in progress, or the outcome of that call is
    /// unknown.
    Undoing,
    /// The command took effect and was undone.
    Undone,
    /// The command never took effect and never will.
    Tombstone,
}

impl Status {
    const ALL: [Status; 9] = [
        Status::Accepted,
        Status::Started,
        Status::Succeeded,
        Status::Refused,
        Status::FailedTransient,
        Status::FailedForGood,
        Status::Undoing,
        Status::Undone,
        Status::Tombstone,
    ];

    /// Returns the word stored in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Accepted => "accepted",
            Status::Started => "started",
            Status::Succeeded => "succeeded",
            Status::Refused => "refused",
            Status::FailedTransient => "failed_transient",
            Status::FailedForGood => "failed_for_good",
            Status::Undoing => "undoing",
            Status::Undone => "undone",
            Status::Tombstone => "tombstone",
        }
    }

    /// Returns the status of a row whose execute had this outcome.
    pub fn settled(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Succeeded => Status::Succeeded,
            Outcome::Refused => Status::Refused,
            Outcome::FailedForGood => Status::FailedForGood,
            _ => Status::FailedTransient,
        }
    }

    /// Parses a status from the table.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == word)
    }
}

/// The rest of an answer beside its outcome.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AnswerDetails {
    /// The result of a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Json>,
    /// Why the command was refused, failed or is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Change of what is held, positive or negative.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposure: Vec<Exposure>,
}

impl AnswerDetails {
    /// Creates it from a reason alone.
    pub fn of_reason(reason: Reason) -> Self {
        Self { reason: Some(reason), ..Self::default() }
    }
}

/// The recorded reply of an undo.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UndoRecord {
    /// The outcome of the undo.
    pub outcome: Outcome,
    /// The attempt of the undo.
    pub attempt: u32,
    /// The rest of the reply. (Not flattened: serde cannot read raw JSON through a flattened field.)
    #[serde(default, rename = "said")]
    pub details: AnswerDetails,
}

/// The instance that is calling for a row, and until when no other may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The instance; `None` while the row rests.
    pub owner: Option<Uuid>,
    /// By the worker database's time: when the owner's lease ends, or when a resting row is due.
    pub until: DateTime<Utc>,
}

/// All that a worker stores about one command.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandRow {
    /// The id of the execute.
    pub key: Uuid,
    /// The command's saga.
    pub saga_id: Uuid,
    /// The status of the command.
    pub status: Status,
    /// The attempt of the row.
    pub attempt: u32,
    /// The newest epoch seen.
    pub epoch: u32,
    /// When the execute was first issued, according to the first command received for this row.
    pub issued_at: DateTime<Utc>,
    /// An external call got no answer, or its caller was lost: it may have taken effect, now or later.
    pub unsure: bool,
    /// Set while something external remains to be done for the row.
    pub lease: Option<Lease>,
    /// When the key of the present call was first used.
    pub started_at: Option<DateTime<Utc>>,
    /// The execute, kept only until it is settled, because it may contain personal data.
    pub command: Option<Command>,
    /// The recorded reply of the execute.
    pub details: AnswerDetails,
    /// The compensation that is remembered or was done (its payload is empty).
    pub undo: Option<Command>,
    /// The recorded reply of the compensation.
    pub undone: Option<UndoRecord>,
    /// An operator has settled the execute by evidence from elsewhere: it is not called for again. The outcome of its
    /// earlier calls is still looked up, because a call may have been on its way.
    pub resolved: Option<Resolved>,
}

impl CommandRow {
    /// Creates the row of a command that is not known yet.
    pub fn new(command: &Command) -> Self {
        Self {
            key: command.row_key(),
            saga_id: command.saga_id,
            status: Status::Accepted,
            attempt: command.attempt,
            epoch: command.epoch,
            issued_at: command.effect_issued_at(),
            unsure: false,
            lease: None,
            started_at: None,
            command: None,
            details: AnswerDetails::default(),
            undo: None,
            undone: None,
            resolved: None,
        }
    }

    /// Returns the outcome of the execute, if there is one.
    pub fn outcome(&self) -> Option<Outcome> {
        match self.status {
            Status::Succeeded => Some(Outcome::Succeeded),
            Status::Refused => Some(Outcome::Refused),
            Status::FailedTransient => Some(Outcome::FailedTransient),
            Status::FailedForGood => Some(Outcome::FailedForGood),
            Status::Undoing | Status::Undone | Status::Tombstone => Some(Outcome::Fenced),
            Status::Accepted | Status::Started => None,
        }
    }

    /// Turns the row into a tombstone: the command never takes effect.
    pub fn make_tombstone(&mut self) {
        self.settle(Status::Tombstone, AnswerDetails::default());
    }

    /// Records the outcome of the execute and deletes what is no longer needed.
    pub fn settle(&mut self, status: Status, details: AnswerDetails) {
        self.status = status;
        self.details = details;
        self.unsure = false;
        self.lease = None;
        self.started_at = None;
        self.command = None;
        self.resolved = None;
    }

    /// Records the outcome of an undo. What could not be undone is still held.
    pub fn settle_undo(&mut self, outcome: Outcome, attempt: u32, details: AnswerDetails) {
        self.status = if outcome == Outcome::Succeeded { Status::Undone } else { Status::Succeeded };
        self.undone = Some(UndoRecord { outcome, attempt, details });
        self.unsure = false;
        self.lease = None;
        self.started_at = None;
        self.undo = None;
    }

    /// Records the newest epoch. Returns whether it is new.
    pub fn see_epoch(&mut self, epoch: u32) -> bool {
        let news = epoch > self.epoch;
        self.epoch = self.epoch.max(epoch);
        news
    }

    /// Records an operator's resolution of the execute, while its outcome is unknown here. Returns whether it is new.
    pub fn see_resolution(&mut self, resolved: Option<Resolved>) -> bool {
        let open = matches!(self.status, Status::Accepted | Status::Started);
        let news = open && resolved.is_some() && resolved != self.resolved;
        if news {
            self.resolved = resolved;
        }
        news
    }

    /// Creates a reply to `asker` from the recorded reply of the execute, or with `outcome` if nothing is recorded.
    pub fn reply(&self, asker: &Command, outcome: Outcome, now: DateTime<Utc>) -> Reply {
        let mut reply = asker.reply(outcome, now);
        reply.epoch = reply.epoch.max(self.epoch);
        if asker.kind != Kind::Compensate {
            reply.attempt = self.attempt;
        }
        reply
    }

    /// Returns the recorded reply of the execute, addressed to `asker`.
    pub fn recorded(&self, asker: &Command, now: DateTime<Utc>) -> Option<Reply> {
        let mut reply = self.reply(asker, self.outcome()?, now);
        if reply.outcome != Outcome::Fenced {
            (reply.result, reply.reason) = (self.details.result.clone(), self.details.reason.clone());
            reply.exposure.clone_from(&self.details.exposure);
        }
        Some(reply)
    }

    /// Returns the recorded reply of the undo, addressed to the compensation that asks.
    pub fn recorded_undo(&self, asker: &Command, now: DateTime<Utc>) -> Option<Reply> {
        let record = self.undone.as_ref()?;
        let mut reply = self.reply(asker, record.outcome, now);
        reply.attempt = record.attempt;
        (reply.result, reply.reason) = (record.details.result.clone(), record.details.reason.clone());
        reply.exposure.clone_from(&record.details.exposure);
        Some(reply)
    }
}

#[cfg(test)]
mod stored {
    use super::*;

    #[test]
    fn an_undo_record_with_a_result_is_read_as_it_was_written() {
        let details = AnswerDetails {
            result: Json::of(&serde_json::json!({ "refundId": 7 })).ok(),
            ..AnswerDetails::default()
        };
        let record = UndoRecord { outcome: Outcome::Succeeded, attempt: 2, details };
        let text = serde_json::to_string(&record).unwrap();
        assert!(text.contains(r#""said":{"#), "as older programs have written it, and read it: {text}");
        assert_eq!(serde_json::from_str::<UndoRecord>(&text).unwrap(), record);
    }
}
