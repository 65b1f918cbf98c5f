//! What a command does to its row: the table of the protocol, and nothing else. Pure.

use amends_protocol::{Command, Kind, Outcome, id};
use chrono::{DateTime, TimeDelta, Utc};

use crate::row::{CommandRow, Status};

/// The state of a row at a given time: the rows of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowState {
    /// There is no row.
    Nothing,
    /// Committed, not begun.
    Accepted,
    /// An external call is in progress.
    Started,
    /// The command took effect.
    Succeeded,
    /// Refused for a business reason.
    Refused,
    /// Without effect; a higher attempt may succeed.
    FailedTransient,
    /// Without effect, for good.
    FailedForGood,
    /// A call got no answer, and none is in progress.
    Unknown,
    /// An undo call is in progress.
    Undoing,
    /// An undo call got no answer, and none is in progress.
    UndoUnknown,
    /// The effect was undone.
    Undone,
    /// The command never takes effect.
    Tombstone,
}

/// What to do about a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Do nothing: the row has seen a newer epoch.
    Ignore,
    /// Answer with this outcome; the row stays as it is.
    Reply(Outcome),
    /// Answer with the recorded reply of the execute.
    Recorded,
    /// Answer with the recorded reply of the undo.
    RecordedUndo,
    /// Execute, at the command's attempt.
    Execute,
    /// Undo, at the command's attempt.
    Undo,
    /// Write a tombstone, and answer with this outcome.
    Tombstone(Outcome),
    /// Remember the compensation until the outcome is known, and answer `in_flight`.
    Remember,
    /// Look up the outcome externally, and answer then; a compensation is remembered.
    LookUp,
}

/// Returns the state of a row. A lapsed lease means that its caller was lost: the outcome of the call is unknown.
pub fn state(row: Option<&CommandRow>, now: DateTime<Utc>) -> RowState {
    let Some(row) = row else { return RowState::Nothing };
    // A row without an owner that is not unsure has yet to begin its (undo) call.
    let called = row.lease.is_some_and(|l| if l.owner.is_some() { l.until > now } else { !row.unsure });
    match row.status {
        Status::Accepted => RowState::Accepted,
        Status::Started if called => RowState::Started,
        Status::Started => RowState::Unknown,
        Status::Succeeded => RowState::Succeeded,
        Status::Refused => RowState::Refused,
        Status::FailedTransient => RowState::FailedTransient,
        Status::FailedForGood => RowState::FailedForGood,
        Status::Undoing if called => RowState::Undoing,
        Status::Undoing => RowState::UndoUnknown,
        Status::Undone => RowState::Undone,
        Status::Tombstone => RowState::Tombstone,
    }
}

/// The age up to which a worker can answer for a command without a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Maximum age of an execute that arrives for the first time.
    pub horizon: TimeDelta,
    /// How long after a saga's birth the rows of its commands are certainly kept.
    pub retention: TimeDelta,
}

impl Memory {
    /// Returns whether a row of this command would still exist if there had ever been one, and its execute may still
    /// arrive.
    fn reaches(self, command: &Command, now: DateTime<Utc>) -> bool {
        now - command.effect_issued_at() <= self.horizon
            && now - id::born_at(command.row_key()) <= self.retention
    }
}

/// Decides about a command: first by its row, then by the age of the execute that it is, or is about.
pub fn decide(row: Option<&CommandRow>, command: &Command, now: DateTime<Utc>, memory: Memory) -> Decision {
    use Decision::{Execute, Ignore, LookUp, Recorded, RecordedUndo, Remember, Reply, Tombstone, Undo};
    use Kind as K;
    use RowState as S;

    if row.is_some_and(|r| command.epoch < r.epoch) {
        return Ignore;
    }
    let too_old = !memory.reaches(command, now);
    let another_attempt = row.is_some_and(|r| command.attempt > r.attempt);
    let undo_failed_before =
        row.and_then(|r| r.undone.as_ref()).is_some_and(|record| command.attempt <= record.attempt);

    match (state(row, now), command.kind) {
        (S::Nothing, K::Execute) if too_old => Reply(Outcome::Expired),
        (S::Nothing, _) if too_old => Reply(Outcome::Unknown),
        (S::Nothing, K::Execute) => Execute,
        (S::Nothing, K::Compensate) => Tombstone(Outcome::Succeeded),
        (S::Nothing, K::Probe) => Reply(Outcome::NotSeen),
        (S::Nothing, K::Fence) => Tombstone(Outcome::Fenced),

        (S::Accepted, K::Execute | K::Probe) => Reply(Outcome::InFlight),
        (S::Accepted, K::Compensate) => Tombstone(Outcome::Succeeded),
        (S::Accepted, K::Fence) => Tombstone(Outcome::Fenced),

        (S::Started, K::Compensate) => Remember,
        (S::Started, K::Execute | K::Probe | K::Fence) => Reply(Outcome::InFlight),

        (S::Succeeded, K::Compensate) if undo_failed_before => RecordedUndo,
        (S::Succeeded, K::Compensate) => Undo,
        (S::Succeeded, K::Execute | K::Probe | K::Fence) => Recorded,

        (S::Refused, K::Compensate) => Reply(Outcome::Succeeded),
        (S::Refused, K::Execute | K::Probe | K::Fence) => Recorded,

        (S::FailedTransient, K::Execute) if another_attempt => Execute,
        (S::FailedTransient | S::FailedForGood, K::Execute | K::Probe) => Recorded,
        (S::FailedTransient | S::FailedForGood, K::Compensate) => Tombstone(Outcome::Succeeded),
        (S::FailedTransient | S::FailedForGood, K::Fence) => Tombstone(Outcome::Fenced),

        (S::Unknown, _) => LookUp,

        (S::Undoing, K::Compensate) => Reply(Outcome::InFlight),
        (S::UndoUnknown, K::Compensate) => LookUp,
        (S::Undone, K::Compensate) => RecordedUndo,
        (S::Undoing | S::UndoUnknown | S::Undone, K::Execute | K::Probe | K::Fence) => Reply(Outcome::Fenced),

        (S::Tombstone, K::Compensate) => Reply(Outcome::Succeeded),
        (S::Tombstone, K::Execute | K::Probe | K::Fence) => Reply(Outcome::Fenced),
    }
}
