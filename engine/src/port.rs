//! What the engine asks of the world. Messages come and go through [`amends_protocol::transport`].

use std::{future::Future, time::Duration};

use amends_protocol::{Json, transport::Inbound};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::core::{Entry, Known, Requires, Saga};

/// Sagas as they are stored, and what time it was in the database when they were read.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// Those of the asked-for that exist and that this program can read.
    pub sagas: Vec<Saga>,
    /// Those that exist and that this program cannot read.
    pub unreadable: Vec<Unreadable>,
    /// The database's time.
    pub now: DateTime<Utc>,
}

/// A saga whose row this program cannot read: a newer program wrote it, or it is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The saga.
    pub saga_id: Uuid,
    /// Its home.
    pub slot: u16,
    /// What a program must know to read it.
    pub requires: Requires,
}

/// One saga's next row and the entries that lead to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// The revision that was read. The write happens only if the row still has it.
    pub read_revision: u32,
    /// The row as it shall be.
    pub saga: Saga,
    /// Revisions `read_revision + 1 ..= saga.revision`, in order.
    pub entries: Vec<Entry>,
    /// What is wanted back, for the commands that follow.
    pub wants: Wants,
}

/// Which input a saga's commands need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wants {
    /// The saga's input.
    pub data: bool,
    /// Its personal fields.
    pub personal: bool,
}

/// A saga's input, as far as it was wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Inputs {
    /// The saga.
    pub saga_id: Uuid,
    /// Everything but personal fields; `null` where it was not wanted.
    pub data: Json,
    /// Personal fields, where wanted and (still) there.
    pub personal: Option<Json>,
}

/// What became of a batch of writes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Committed {
    /// What was wanted back, for the sagas that were written.
    pub written: Vec<Inputs>,
    /// Sagas that were passed over: another transaction holds their row, or their slot.
    pub locked: Vec<Uuid>,
}

/// Which overdue sagas to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueScan {
    /// Homes to look at.
    pub slots: Vec<u16>,
    /// Only sagas that a program can judge that knows this. All others are a newer program's to wake.
    pub known: Known,
    /// Sagas to leave out: they were passed over a moment ago.
    pub passed_over: Vec<Uuid>,
    /// Leave out what was due before; for a cheap scan between thorough ones.
    pub not_before: Option<DateTime<Utc>>,
    /// Only what has been due for at least this long.
    pub overdue: Duration,
    /// The steps whose sagas it is for.
    pub share: DueShare,
    /// At most so many, the longest overdue first.
    pub limit: u32,
}

/// A part of what is due, by the steps that sagas are at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DueShare {
    /// Everything.
    #[default]
    All,
    /// Only sagas at these steps.
    At(Vec<&'static str>),
    /// Only sagas at other steps.
    NotAt(Vec<&'static str>),
}

impl DueShare {
    /// Whether a saga at this step belongs to it.
    pub fn has(&self, step: &str) -> bool {
        match self {
            DueShare::All => true,
            DueShare::At(steps) => steps.contains(&step),
            DueShare::NotAt(steps) => !steps.contains(&step),
        }
    }
}

/// A success that no saga here ordered: to be looked at by an operator.
#[derive(Debug, Clone, PartialEq)]
pub struct Stray {
    /// The saga it named.
    pub saga_id: Uuid,
    /// The command it answered.
    pub command_id: Uuid,
    /// The whole reply.
    pub reply: Json,
}

/// Why a reply cannot be judged here and now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Deferral {
    /// Another transaction holds the saga's row, or its slot.
    Locked,
    /// This program does not know the saga's workflow in that version.
    UnknownWorkflow,
    /// This program cannot read the saga's row.
    Unreadable,
}

impl Deferral {
    /// The word for a table or a metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Deferral::Locked => "locked",
            Deferral::UnknownWorkflow => "unknown_workflow",
            Deferral::Unreadable => "unreadable",
        }
    }
}

impl std::fmt::Display for Deferral {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Deferral::Locked => "another transaction holds its row",
            Deferral::UnknownWorkflow => "this program does not know its workflow in that version",
            Deferral::Unreadable => "this program cannot read its row: a newer program wrote it",
        })
    }
}

/// A reply that cannot be judged here and now. It is kept until an engine can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeferredReply {
    /// The message, as it came.
    pub message: Inbound,
    /// The saga that it is about.
    pub saga_id: Uuid,
    /// The saga's home.
    pub slot: u16,
    /// What a program must know to judge it.
    pub requires: Requires,
    /// Why it waits.
    pub why: Deferral,
    /// How long nobody need look at it.
    pub rest: Duration,
}

impl DeferredReply {
    /// The same for the same bytes: a message that is received again is kept once.
    pub fn id(&self) -> DeferredId {
        DeferredId { saga_id: self.saga_id, digest: Uuid::new_v5(&self.saga_id, &self.message.bytes) }
    }
}

/// Which deferred reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeferredId {
    /// The saga that it is about.
    pub saga_id: Uuid,
    /// Of its bytes.
    pub digest: Uuid,
}

/// Which deferred replies to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeferredScan {
    /// Only those that a program can judge that knows this.
    pub known: Known,
    /// Homes of this engine. Others' replies are left to them for `abroad`.
    pub slots: Vec<u16>,
    /// How long a reply of another engine's slot must have waited.
    pub abroad: Duration,
    /// At most so many, the longest due first.
    pub limit: u32,
}

/// What a store may answer instead.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Away, or in the way of somebody else: the same again may work (SQLSTATE classes 08, 40, 53, 57).
    #[error("store: {0}")]
    Unavailable(String),
    /// Another transaction holds what is needed, for longer than is waited for it (SQLSTATE 55P03).
    #[error("store: {0}")]
    Locked(String),
    /// Something in the batch cannot be stored (SQLSTATE classes 22, 23).
    #[error("store refused data: {0}")]
    Data(String),
    /// A row cannot be read: written by a newer program, or damaged.
    #[error("store holds what cannot be read: {0}")]
    Unreadable(String),
}

/// Where sagas live. State, timeline and timers of a saga change in one transaction, guarded by its revision.
pub trait SagaStore: Send + Sync {
    /// What time it is by the store's own clock: never ahead of it, and never before what a read has said.
    fn now(&self) -> impl Future<Output = Result<DateTime<Utc>, Error>> + Send;

    /// Reads how often this store was restored to an earlier state.
    fn epoch(&self) -> impl Future<Output = Result<u32, Error>> + Send;

    /// Reads sagas by id.
    fn load(&self, ids: &[Uuid]) -> impl Future<Output = Result<Loaded, Error>> + Send;

    /// Reads live sagas whose `wake_at` has come by the store's own clock, the longest overdue first.
    fn due(&self, scan: &DueScan) -> impl Future<Output = Result<Loaded, Error>> + Send;

    /// Reads live sagas of these slots that wake only after more than `beyond` from now, by `wake_at` and id, above
    /// `after`.
    fn sleeping_beyond(
        &self,
        slots: &[u16],
        beyond: Duration,
        after: Option<(DateTime<Utc>, Uuid)>,
        limit: u32,
    ) -> impl Future<Output = Result<Loaded, Error>> + Send;

    /// Reads live sagas of these slots that may have issued a command within `within`, by id above `after`.
    fn in_flight(
        &self,
        slots: &[u16],
        within: Duration,
        after: Option<Uuid>,
        limit: u32,
    ) -> impl Future<Output = Result<Loaded, Error>> + Send;

    /// Writes a batch in one transaction. Returns those whose revision still was the one read, with the
    /// input they want. Rows that another transaction holds are passed over after a second, so that they stop nobody
    /// else. If the answer to the commit is lost, it is read back, and then nothing is passed over: the caller may rely
    /// on the answer.
    fn commit(&self, writes: &[Write]) -> impl Future<Output = Result<Committed, Error>> + Send;

    /// Raises `wake_at` of sagas that still have this revision. Changes neither revision nor timeline. Returns the sagas
    /// that were passed over because another transaction holds them.
    fn reschedule(
        &self,
        sagas: &[(Uuid, u32, Option<DateTime<Utc>>)],
    ) -> impl Future<Output = Result<Vec<Uuid>, Error>> + Send;

    /// Reads inputs, personal fields included.
    fn inputs(&self, ids: &[Uuid]) -> impl Future<Output = Result<Vec<Inputs>, Error>> + Send;

    /// Keeps strays for an operator; one already kept is kept once.
    fn keep_strays(&self, strays: &[Stray]) -> impl Future<Output = Result<(), Error>> + Send;

    /// Keeps replies that cannot be judged here and now. One that is kept already is due again after its rest.
    fn defer(&self, replies: &[DeferredReply]) -> impl Future<Output = Result<(), Error>> + Send;

    /// Reads deferred replies that are due. They stay until they are forgotten, for a reply may be judged twice.
    fn deferred(
        &self,
        scan: &DeferredScan,
    ) -> impl Future<Output = Result<Vec<(DeferredId, Inbound)>, Error>> + Send;

    /// Forgets deferred replies that were judged.
    fn forget_deferred(&self, ids: &[DeferredId]) -> impl Future<Output = Result<(), Error>> + Send;

    /// Says that this program lives and what it knows. Returns what the others know that have said so within `live`.
    fn announce(
        &self,
        program: Uuid,
        known: &Known,
        live: Duration,
    ) -> impl Future<Output = Result<Vec<Known>, Error>> + Send;
}

/// Time that only runs forward, and jitter. What decides a saga's fate is the store's time.
pub trait Clock: Send + Sync {
    /// Since some moment in the past.
    fn monotonic(&self) -> Duration;
    /// Ends after so long.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send;
    /// Evenly in 0–1000.
    fn jitter(&self) -> u16;
}
