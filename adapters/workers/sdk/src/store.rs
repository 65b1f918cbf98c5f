//! The port to the worker's database: the rows.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    time::Duration,
};

use amends_pool::sqlstate;
use amends_protocol::Command;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::row::CommandRow;

/// Errors of the worker's database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data is at fault (SQLSTATE class 22, 23 or 54, or an unreadable row): a retry would fail again.
    #[error("data at fault: {0}")]
    Poison(String),
    /// Another transaction held a row for longer than the lock timeout (SQLSTATE 55P03). Only what needs that row has
    /// to wait.
    #[error("a row is locked by another transaction")]
    Locked,
    /// The database or the connection to it is at fault: a retry helps.
    #[error("database: {0}")]
    Unavailable(String),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if sqlstate::is_locked(&error) {
            return Error::Locked;
        }
        // Class and constraint name the fault; the message itself may quote the data.
        match error.as_database_error() {
            Some(e) if sqlstate::is_data_fault(&error) => Error::Poison(format!(
                "SQLSTATE {}{}",
                e.code().unwrap_or_default(),
                e.constraint().map(|c| format!(", constraint {c}")).unwrap_or_default()
            )),
            _ => Error::Unavailable(error.to_string()),
        }
    }
}

/// What to do about a row that another transaction has locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locks {
    /// Wait for it, up to the lock timeout: then [`Error::Locked`].
    Wait,
    /// Leave the row, and whatever needs it.
    PassOver,
}

/// Which rows are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Rows to begin, and calls whose instance was lost.
    Sure,
    /// Rows of which a call got no answer. Some of them may never be settled.
    Unsure,
}

/// Rows that this transaction holds locked.
#[derive(Debug, Clone, Default)]
pub struct Locked {
    /// The database's time, taken after the locks.
    pub now: DateTime<Utc>,
    /// The rows that existed; keys without a row are this transaction's to fill or remove.
    pub rows: HashMap<Uuid, CommandRow>,
    /// The keys that were passed over: nothing may be concluded about them.
    pub passed_over: HashSet<Uuid>,
}

/// The table of rows.
pub trait Rows: Send + Sync {
    /// A transaction; it leaves nothing when dropped.
    type Tx: Send;

    /// Returns the database's time, or slightly less.
    fn now(&self) -> impl Future<Output = Result<DateTime<Utc>, Error>> + Send;

    /// Inserts the rows whose keys do not exist, in a transaction of its own; returns those keys. After an error the
    /// insert may have happened: read the rows.
    fn insert(&self, rows: &[CommandRow]) -> impl Future<Output = Result<HashSet<Uuid>, Error>> + Send;

    /// Writes rows that `owner` is calling for and that have not changed since, in a transaction of its own; returns
    /// their keys. (A change is another owner, a remembered compensation, a later attempt, or a call without an
    /// answer.) After an error the write may have happened: read the rows.
    fn settle(
        &self,
        owner: Uuid,
        rows: &[CommandRow],
    ) -> impl Future<Output = Result<HashSet<Uuid>, Error>> + Send;

    /// Begins a transaction.
    fn begin(&self) -> impl Future<Output = Result<Self::Tx, Error>> + Send;

    /// Inserts or locks the rows of these commands, in the order of their keys. It is the first statement of a
    /// transaction, so that two instances cannot decide about one row at once.
    fn lock(
        &self,
        tx: &mut Self::Tx,
        commands: &[&Command],
        locks: Locks,
    ) -> impl Future<Output = Result<Locked, Error>> + Send;

    /// Inserts rows that should be new, as the last statement of a transaction; returns whether all were. If not, the
    /// transaction must be dropped. It does not wait for transactions that hold one of them, because they began with
    /// their rows ([`Rows::lock`]) and may be waiting for what this transaction already holds.
    fn insert_in(
        &self,
        tx: &mut Self::Tx,
        rows: &[CommandRow],
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Locks existing rows, in the order of their keys.
    fn get(
        &self,
        tx: &mut Self::Tx,
        keys: &[Uuid],
        locks: Locks,
    ) -> impl Future<Output = Result<Locked, Error>> + Send;

    /// Locks rows for which an external action is due, oldest first, passing over those that others hold.
    fn due(
        &self,
        tx: &mut Self::Tx,
        which: Due,
        limit: usize,
    ) -> impl Future<Output = Result<Locked, Error>> + Send;

    /// Writes rows that this transaction holds.
    fn write(&self, tx: &mut Self::Tx, rows: &[CommandRow])
    -> impl Future<Output = Result<(), Error>> + Send;

    /// Removes rows that this transaction inserted and does not need.
    fn remove(&self, tx: &mut Self::Tx, keys: &[Uuid]) -> impl Future<Output = Result<(), Error>> + Send;

    /// Commits. After an error the commit may have happened: read the rows.
    fn commit(&self, tx: Self::Tx) -> impl Future<Output = Result<(), Error>> + Send;

    /// Renews the leases of an owner's calls; passes over rows that others hold, whose leases are renewed the next
    /// time.
    fn renew(
        &self,
        owner: Uuid,
        keys: &[Uuid],
        lease: Duration,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Completes if the database answers.
    fn ping(&self) -> impl Future<Output = Result<(), Error>> + Send;
}
