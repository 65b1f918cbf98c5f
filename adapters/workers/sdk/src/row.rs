//! The worker's row: all that a worker remembers of one command, keyed by the id of its *execute*.

use amends_protocol::{Command, Exposure, Json, Kind, Outcome, Reason, Reply, Resolved};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a row says of its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Committed, not begun.
    Accepted,
    /// A call outside is under way, or nobody knows what became of it.
    Started,
    /// It took effect.
    Succeeded,
    /// A business no.
    Refused,
    /// Certainly without effect; a higher attempt may do it.
    FailedTransient,
    /// Certainly without effect, and another attempt would fail too.
    FailedForGood,
    /// It took effect, and a call outside that undoes it is under way, or nobody knows what became of that.
    Undoing,
    /// It took effect and was undone.
    Undone,
    /// It never took effect and never will.
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

    /// The word in the table.
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

    /// The status of a row whose execute came out so.
    pub fn settled(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Succeeded => Status::Succeeded,
            Outcome::Refused => Status::Refused,
            Outcome::FailedForGood => Status::FailedForGood,
            _ => Status::FailedTransient,
        }
    }

    /// The status of a word in the table.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == word)
    }
}

/// What an answer said beyond its outcome.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// What a success brought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Json>,
    /// Why it was refused, failed or is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What is held more (or less) since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposure: Vec<Exposure>,
}

impl Said {
    /// Nothing but a reason.
    pub fn because(reason: Reason) -> Self {
        Self { reason: Some(reason), ..Self::default() }
    }
}

/// The recorded reply of an undo.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UndoRecord {
    /// What became of it.
    pub outcome: Outcome,
    /// At which attempt.
    pub attempt: u32,
    /// What it said. (Not flattened: serde cannot read raw JSON through a flattened field.)
    #[serde(default)]
    pub said: Said,
}

/// Who is calling for a row, and until when nobody else may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The instance that calls; none while the row rests.
    pub owner: Option<Uuid>,
    /// By the worker database's time: until when the owner's lease lasts, or when a resting row is due.
    pub until: DateTime<Utc>,
}

/// All that a worker remembers of one command.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandRow {
    /// The id of the execute.
    pub key: Uuid,
    /// Its saga.
    pub saga_id: Uuid,
    /// What became of it.
    pub status: Status,
    /// The attempt that the row stands at.
    pub attempt: u32,
    /// The newest epoch seen.
    pub epoch: u32,
    /// When the execute was first issued, as far as the first command seen for this row says.
    pub issued_at: DateTime<Utc>,
    /// A call outside got no answer, or its caller was lost: it may have taken effect, now or later.
    pub unsure: bool,
    /// Set while something outside is still to be done for the row.
    pub lease: Option<Lease>,
    /// When the key of the present call was first used.
    pub started_at: Option<DateTime<Utc>>,
    /// The execute, kept only until it is settled: it may carry personal data.
    pub command: Option<Command>,
    /// The recorded reply of the execute.
    pub said: Said,
    /// The compensation that is remembered or was done (its payload is empty).
    pub undo: Option<Command>,
    /// The recorded reply of the compensation.
    pub undone: Option<UndoRecord>,
    /// A person has settled the execute by evidence from elsewhere: it is not called for again. What its calls came to
    /// is still looked up, for a call may have been on its way.
    pub resolved: Option<Resolved>,
}

impl CommandRow {
    /// The row of a command that nothing is known of yet.
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
            said: Said::default(),
            undo: None,
            undone: None,
            resolved: None,
        }
    }

    /// The outcome of the execute, where there is one.
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

    /// Makes it certain that the command never takes effect.
    pub fn bury(&mut self) {
        self.settle(Status::Tombstone, Said::default());
    }

    /// Records the outcome of the execute and forgets what is no longer needed.
    pub fn settle(&mut self, status: Status, said: Said) {
        self.status = status;
        self.said = said;
        self.unsure = false;
        self.lease = None;
        self.started_at = None;
        self.command = None;
        self.resolved = None;
    }

    /// Records the outcome of an undo. What could not be undone is still held.
    pub fn settle_undo(&mut self, outcome: Outcome, attempt: u32, said: Said) {
        self.status = if outcome == Outcome::Succeeded { Status::Undone } else { Status::Succeeded };
        self.undone = Some(UndoRecord { outcome, attempt, said });
        self.unsure = false;
        self.lease = None;
        self.started_at = None;
        self.undo = None;
    }

    /// Notes the newest epoch. Returns whether it is news.
    pub fn see_epoch(&mut self, epoch: u32) -> bool {
        let news = epoch > self.epoch;
        self.epoch = self.epoch.max(epoch);
        news
    }

    /// Notes what a person says became of the execute, while nobody here knows. Returns whether it is news.
    pub fn see_resolution(&mut self, resolved: Option<Resolved>) -> bool {
        let open = matches!(self.status, Status::Accepted | Status::Started);
        let news = open && resolved.is_some() && resolved != self.resolved;
        if news {
            self.resolved = resolved;
        }
        news
    }

    /// A reply to `asker` from what the row records of the execute, or `outcome` where it records nothing.
    pub fn reply(&self, asker: &Command, outcome: Outcome, now: DateTime<Utc>) -> Reply {
        let mut reply = asker.reply(outcome, now);
        reply.epoch = reply.epoch.max(self.epoch);
        if asker.kind != Kind::Compensate {
            reply.attempt = self.attempt;
        }
        reply
    }

    /// The recorded reply of the execute, for `asker`.
    pub fn recorded(&self, asker: &Command, now: DateTime<Utc>) -> Option<Reply> {
        let mut reply = self.reply(asker, self.outcome()?, now);
        if reply.outcome != Outcome::Fenced {
            (reply.result, reply.reason) = (self.said.result.clone(), self.said.reason.clone());
            reply.exposure.clone_from(&self.said.exposure);
        }
        Some(reply)
    }

    /// The recorded reply of the undo, for the compensation that asks.
    pub fn recorded_undo(&self, asker: &Command, now: DateTime<Utc>) -> Option<Reply> {
        let record = self.undone.as_ref()?;
        let mut reply = self.reply(asker, record.outcome, now);
        reply.attempt = record.attempt;
        (reply.result, reply.reason) = (record.said.result.clone(), record.said.reason.clone());
        reply.exposure.clone_from(&record.said.exposure);
        Some(reply)
    }
}

#[cfg(test)]
mod stored {
    use super::*;

    #[test]
    fn an_undo_record_with_a_result_is_read_as_it_was_written() {
        let said = Said { result: Json::of(&serde_json::json!({ "refundId": 7 })).ok(), ..Said::default() };
        let record = UndoRecord { outcome: Outcome::Succeeded, attempt: 2, said };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<UndoRecord>(&text).unwrap(), record);
    }
}
