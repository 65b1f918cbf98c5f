//! Ports: what the engine needs from its surroundings. For messages see [`amends_protocol::transport`].

mod odd;

pub use odd::{OddAnswer, OddReason, OddReplies, OddReply};

use std::{future::Future, time::Duration};

use amends_protocol::{Json, transport::Inbound};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::core::{Entry, Known, Requires, Saga};

/// Sagas as they are stored, and the database's time at the read.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The requested sagas that exist and that this program can read.
    pub sagas: Vec<Saga>,
    /// The requested sagas that exist and that this program cannot read.
    pub unreadable: Vec<Unreadable>,
    /// The requested sagas whose part of the store has not answered.
    pub unreachable: Vec<Uuid>,
    /// The database's time.
    pub now: DateTime<Utc>,
}

/// A saga whose row this program cannot read: a newer program wrote it, or it is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The saga.
    pub saga_id: Uuid,
    /// The saga's slot.
    pub slot: u16,
    /// What a program must know to read it.
    pub requires: Requires,
}

/// One saga's next row and the timeline entries that lead to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// The revision that was read. The row is written only if it still has this revision.
    pub read_revision: u32,
    /// The new row.
    pub saga: Saga,
    /// Revisions `read_revision + 1 ..= saga.revision`, in order.
    pub entries: Vec<Entry>,
    /// The input to return, for the commands that follow.
    pub wants: Wants,
}

/// Which input a saga's commands need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wants {
    /// The input without personal fields.
    pub data: bool,
    /// The personal fields.
    pub personal: bool,
}

/// The requested input of a saga.
#[derive(Debug, Clone, PartialEq)]
pub struct Inputs {
    /// The saga.
    pub saga_id: Uuid,
    /// The input without personal fields; `null` if it was not requested.
    pub data: Json,
    /// The personal fields, if they were requested and still exist.
    pub personal: Option<Json>,
}

/// The result of a batch of writes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Committed {
    /// The requested input of the sagas that were written.
    pub written: Vec<Inputs>,
    /// Sagas that were passed over because another transaction holds their row or slot.
    pub locked: Vec<Uuid>,
    /// Parts of the batch that failed, in a store that has several.
    pub failed: Vec<FailedPart>,
}

/// A part of a batch that failed as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct FailedPart {
    /// Its sagas. After [`Error::Data`] none of them was written.
    pub sagas: Vec<Uuid>,
    /// Why it failed.
    pub error: Error,
}

/// Which overdue sagas to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueScan {
    /// The slots to read.
    pub slots: Vec<u16>,
    /// What the program knows. Sagas that it does not cover are left to a newer program.
    pub known: Known,
    /// Sagas to leave out because they were passed over recently.
    pub passed_over: Vec<Uuid>,
    /// Leaves out what was due before this time; for a cheap scan between thorough ones.
    pub not_before: Option<DateTime<Utc>>,
    /// Returns only what has been due for at least this long.
    pub overdue: Duration,
    /// The steps whose sagas are read.
    pub share: DueShare,
    /// Maximum number of sagas, the longest overdue first.
    pub limit: u32,
}

/// Part of the due sagas, selected by their current step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DueShare {
    /// All due sagas.
    #[default]
    All,
    /// Only sagas at these steps.
    At(Vec<&'static str>),
    /// Only sagas at other steps.
    NotAt(Vec<&'static str>),
}

impl DueShare {
    /// Returns whether the share includes sagas at this step.
    pub fn has(&self, step: &str) -> bool {
        match self {
            DueShare::All => true,
            DueShare::At(steps) => steps.contains(&step),
            DueShare::NotAt(steps) => !steps.contains(&step),
        }
    }
}

/// A success that no saga here ordered; an operator must look at it.
#[derive(Debug, Clone, PartialEq)]
pub struct Stray {
    /// The saga that the reply names.
    pub saga_id: Uuid,
    /// The command that the reply answers.
    pub command_id: Uuid,
    /// The whole reply.
    pub reply: Json,
}

/// Why the engine cannot judge a reply now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Deferral {
    /// Another transaction holds the saga's row or slot.
    Locked,
    /// This program does not know the saga's workflow in that version.
    UnknownWorkflow,
    /// This program cannot read the saga's row.
    Unreadable,
    /// The saga's part of the store does not answer.
    Unreachable,
    /// The reply is a success from before a restore. Whether the saga orders it again is known once the saga has ended.
    BeforeRestore,
}

impl Deferral {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Locked, Self::UnknownWorkflow, Self::Unreadable, Self::Unreachable];

    /// Returns the word used in tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Deferral::Locked => "locked",
            Deferral::UnknownWorkflow => "unknown_workflow",
            Deferral::Unreadable => "unreadable",
            Deferral::Unreachable => "unreachable",
            Deferral::BeforeRestore => "before_restore",
        }
    }
}

impl std::fmt::Display for Deferral {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Deferral::Locked => "another transaction holds its row",
            Deferral::UnknownWorkflow => "this program does not know its workflow in that version",
            Deferral::Unreadable => "this program cannot read its row: a newer program wrote it",
            Deferral::Unreachable => "its part of the store does not answer",
            Deferral::BeforeRestore => "it is a success from before a restore, and its saga has not ended",
        })
    }
}

/// A reply that this engine cannot judge now. It is stored until an engine can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeferredReply {
    /// The message as received.
    pub message: Inbound,
    /// The saga that it is about.
    pub saga_id: Uuid,
    /// The saga's slot.
    pub slot: u16,
    /// What a program must know to judge it.
    pub requires: Requires,
    /// Why it waits.
    pub why: Deferral,
    /// How long it rests before an engine reads it again.
    pub rest: Duration,
}

impl DeferredReply {
    /// Returns the reply's key. Equal bytes have equal keys, so that a message received twice is stored once.
    pub fn id(&self) -> DeferredId {
        DeferredId { saga_id: self.saga_id, digest: Uuid::new_v5(&self.saga_id, &self.message.bytes) }
    }
}

/// Key of a deferred reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeferredId {
    /// The saga that it is about.
    pub saga_id: Uuid,
    /// Digest of the message's bytes.
    pub digest: Uuid,
}

/// Which deferred replies to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeferredScan {
    /// What the program knows. Replies that it does not cover are left out.
    pub known: Known,
    /// The slots of this engine. Replies of other slots are read only after `abroad`.
    pub slots: Vec<u16>,
    /// How long a reply of another engine's slot must have waited.
    pub abroad: Duration,
    /// Maximum number of replies, the longest due first.
    pub limit: u32,
}

/// Errors of the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The store is unavailable or another transaction interfered; a retry may succeed (SQLSTATE classes 08, 40, 53,
    /// 57).
    #[error("store: {0}")]
    Unavailable(String),
    /// Another transaction held a lock for longer than the lock timeout (SQLSTATE 55P03).
    #[error("store: {0}")]
    Locked(String),
    /// A value in the batch cannot be stored (SQLSTATE classes 22, 23).
    #[error("store refused data: {0}")]
    Data(String),
    /// A row cannot be read: a newer program wrote it, or it is damaged.
    #[error("store holds what cannot be read: {0}")]
    Unreadable(String),
    /// The store was restored to an earlier state since this program has read its epoch. The program may remember what
    /// the store no longer contains: it must end, and nothing of it is written.
    #[error("store: {0}")]
    OtherEpoch(String),
}

/// Seconds since 1970 from which epochs that follow a restore are numbered: 2020-01-01T00:00:00Z.
pub const EPOCHS_FROM: i64 = 1_577_836_800;

/// The store of sagas. State, timeline and timers of a saga change in one transaction, guarded by its revision.
///
/// A store may have several parts, each with sagas of its own, on several servers. It then reads and writes each part by
/// itself, and [`load`](Self::load) and [`commit`](Self::commit) report the parts that fail instead of failing.
///
/// A program uses a store in one epoch, that of its start. In another epoch, writes that rest on what was read before
/// fail with [`Error::OtherEpoch`], and so does [`announce`](Self::announce).
pub trait SagaStore: Send + Sync {
    /// Returns the time of the store's own clock: never ahead of it, and never before the time that a read returned.
    fn now(&self) -> impl Future<Output = Result<DateTime<Utc>, Error>> + Send;

    /// Reads this store's epoch: whenever it was set back to an earlier state, a greater one begins.
    fn epoch(&self) -> impl Future<Output = Result<u32, Error>> + Send;

    /// Begins the epoch after one whose beginning this store has lost, unless a later one has begun.
    fn begin_epoch_after(&self, lost: u32) -> impl Future<Output = Result<(), Error>> + Send;

    /// Reads sagas by id.
    fn load(&self, ids: &[Uuid]) -> impl Future<Output = Result<Loaded, Error>> + Send;

    /// Reads live sagas whose `wake_at` has passed by the store's own clock, the longest overdue first.
    fn due(&self, scan: &DueScan) -> impl Future<Output = Result<Loaded, Error>> + Send;

    /// Reads live sagas of these slots that wake later than `beyond` from now, ordered by `wake_at` and id, above
    /// `after`.
    fn sleeping_beyond(
        &self,
        slots: &[u16],
        beyond: Duration,
        after: Option<(DateTime<Utc>, Uuid)>,
        limit: u32,
    ) -> impl Future<Output = Result<Loaded, Error>> + Send;

    /// Reads live sagas of these slots that may have issued a command within `within`, ordered by id, above `after`.
    fn in_flight(
        &self,
        slots: &[u16],
        within: Duration,
        after: Option<Uuid>,
        limit: u32,
    ) -> impl Future<Output = Result<Loaded, Error>> + Send;

    /// Writes a batch, what belongs to one part of the store in one transaction. Returns the sagas whose revision was still the one read, with the requested
    /// input. Rows that another transaction holds are passed over after a lock timeout, so that they do not stop the
    /// others. If the answer to the commit is lost, the store reads the result back and passes over nothing: the caller
    /// may rely on the answer.
    fn commit(&self, writes: &[Write]) -> impl Future<Output = Result<Committed, Error>> + Send;

    /// Raises `wake_at` of sagas that still have this revision. Changes neither revision nor timeline. Returns the
    /// sagas that were passed over because another transaction holds them.
    fn reschedule(
        &self,
        sagas: &[(Uuid, u32, Option<DateTime<Utc>>)],
    ) -> impl Future<Output = Result<Vec<Uuid>, Error>> + Send;

    /// Reads inputs, including personal fields.
    fn inputs(&self, ids: &[Uuid]) -> impl Future<Output = Result<Vec<Inputs>, Error>> + Send;

    /// Stores strays for an operator; a stray that is already stored is not stored again.
    fn keep_strays(&self, strays: &[Stray]) -> impl Future<Output = Result<(), Error>> + Send;

    /// Counts odd replies by saga and reason, and stores the last of each. `odd` contains each saga and reason at most
    /// once. Replies of sagas that do not exist here are left out, so that made-up ids cannot fill the store. The notes
    /// are for operators, and the call must not wait: rows that another transaction holds are left out as well.
    fn note_odd(&self, odd: &[OddReplies]) -> impl Future<Output = Result<(), Error>> + Send;

    /// Stores replies that cannot be judged now, in another part of the store if their own does not answer. A reply that is already stored is due again after its rest.
    fn defer(&self, replies: &[DeferredReply]) -> impl Future<Output = Result<(), Error>> + Send;

    /// Reads deferred replies that are due. They stay until `forget_deferred`, because a reply may be judged twice.
    fn deferred(
        &self,
        scan: &DeferredScan,
    ) -> impl Future<Output = Result<Vec<(DeferredId, Inbound)>, Error>> + Send;

    /// Deletes deferred replies that were judged.
    fn forget_deferred(&self, ids: &[DeferredId]) -> impl Future<Output = Result<(), Error>> + Send;

    /// Announces that this program is live, and what it knows. Returns what the other programs know that have announced
    /// themselves within `live`.
    fn announce(
        &self,
        program: Uuid,
        known: &Known,
        live: Duration,
    ) -> impl Future<Output = Result<Vec<Known>, Error>> + Send;
}

/// A clock that only runs forward, and jitter. Decisions about sagas use the store's time instead.
pub trait Clock: Send + Sync {
    /// Returns the time since some moment in the past.
    fn monotonic(&self) -> Duration;
    /// Completes after the duration.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send;
    /// Returns a random number, uniform in 0–1000.
    fn jitter(&self) -> u16;
}
