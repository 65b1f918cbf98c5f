//! What the loops ask of the worker's database: the rows.

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

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data is at fault (SQLSTATE class 22, 23 or 54, or a row that cannot be read): repeating it would fail again.
    #[error("data at fault: {0}")]
    Poison(String),
    /// Another transaction has kept a row locked for longer than a statement waits (SQLSTATE 55P03). Only what needs
    /// that row has to wait for it.
    #[error("a row is locked by another transaction")]
    Locked,
    /// The database or the way to it is at fault: repeating helps.
    #[error("database: {0}")]
    Unavailable(String),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if sqlstate::is_locked(&error) {
            return Error::Locked;
        }
        // A class and a constraint name the fault; the message itself may quote what was sent.
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
    /// Wait for it, as long as the database lets a statement wait: then [`Error::Locked`].
    Wait,
    /// Leave it, and whatever needs it.
    PassOver,
}

/// Which rows are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Those to begin, and calls whose instance was lost.
    Sure,
    /// Those of which a call has got no answer. Some of them may never be settled.
    Unsure,
}

/// Rows that this transaction holds locked.
#[derive(Debug, Clone, Default)]
pub struct Locked {
    /// The database's time, taken after the locks.
    pub now: DateTime<Utc>,
    /// The rows that there were; the keys without one are this transaction's to fill or remove.
    pub rows: HashMap<Uuid, CommandRow>,
    /// The keys that were passed over: nothing may be concluded about them.
    pub passed_over: HashSet<Uuid>,
}

/// The table of rows.
pub trait Rows: Send + Sync {
    /// A transaction. Dropped, it leaves nothing.
    type Tx: Send;

    /// The database's time, a little late at most.
    fn now(&self) -> impl Future<Output = Result<DateTime<Utc>, Error>> + Send;

    /// Inserts rows, each if there is none of its key, in a transaction of its own; answers for which keys. After an
    /// error it may have happened: ask the rows.
    fn insert(&self, rows: &[CommandRow]) -> impl Future<Output = Result<HashSet<Uuid>, Error>> + Send;

    /// Writes rows that `owner` calls for and that nobody has touched since, in a transaction of its own; answers for
    /// which keys. (Touched: another owner, a compensation remembered, a later attempt, an answer that never came.)
    /// After an error it may have happened: ask the rows.
    fn settle(
        &self,
        owner: Uuid,
        rows: &[CommandRow],
    ) -> impl Future<Output = Result<HashSet<Uuid>, Error>> + Send;

    /// Begins a transaction.
    fn begin(&self) -> impl Future<Output = Result<Self::Tx, Error>> + Send;

    /// Inserts or locks the rows of these commands, in the order of their keys. The first statement of a
    /// transaction, so that two instances cannot decide about one row at once.
    fn lock(
        &self,
        tx: &mut Self::Tx,
        commands: &[&Command],
        locks: Locks,
    ) -> impl Future<Output = Result<Locked, Error>> + Send;

    /// Inserts rows that nobody has met before, as the last statement of a transaction: answers whether all were new.
    /// If not, the transaction must be dropped. It waits for nobody who is at one of them: what this transaction holds
    /// already, others may be waiting for, who began with their rows ([`Rows::lock`]).
    fn insert_in(
        &self,
        tx: &mut Self::Tx,
        rows: &[CommandRow],
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Locks rows that there are, in the order of their keys.
    fn get(
        &self,
        tx: &mut Self::Tx,
        keys: &[Uuid],
        locks: Locks,
    ) -> impl Future<Output = Result<Locked, Error>> + Send;

    /// Locks rows for which something outside is due, oldest first, passing over those that others hold.
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

    /// Commits. After an error it may have happened: ask the rows.
    fn commit(&self, tx: Self::Tx) -> impl Future<Output = Result<(), Error>> + Send;

    /// Renews the leases of an owner's calls; passes over rows that others hold, whose leases last until next time.
    fn renew(
        &self,
        owner: Uuid,
        keys: &[Uuid],
        lease: Duration,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Ends if the database answers.
    fn ping(&self) -> impl Future<Output = Result<(), Error>> + Send;
}
