//! A worker's database: rows with locks, and the inventory's stock.

mod port;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    future::poll_fn,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use amends_inventory::stock::{Books, Ledger, Move, Reserved, Restock, Returned, Stock};
use amends_protocol::Command;
use amends_worker::{
    Due, Locked, Locks, Rows,
    row::{CommandRow, Status},
    store::Error,
};
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::{
    executor::{Micros, World},
    faults::Fault,
    store::short,
    world::{Down, Handle, Site, Watchers, WorldState},
};

/// What a transaction may lock.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Lock {
    Row(Uuid),
    Reservation(Uuid),
    Stock(String),
}

/// The tables of a worker's database.
#[derive(Default)]
pub struct Database {
    skew: i64,
    /// The rows.
    pub rows: BTreeMap<Uuid, CommandRow>,
    /// Stock by product (inventory only).
    pub stock: BTreeMap<String, Stock>,
    /// Reservations by command (inventory only).
    pub reservations: BTreeMap<Uuid, BTreeMap<String, Reserved>>,
    /// Moves (inventory only).
    pub moves: Vec<Move>,
    /// Restocks (inventory only).
    pub restocks: Vec<Restock>,
    locks: BTreeMap<Lock, u64>,
    open: BTreeMap<u64, Vec<Lock>>,
    transactions: u64,
    freed: Watchers,
    releases: u64,
    waiting: BTreeMap<u64, Vec<Lock>>,
    /// Futures that wait for something to become due.
    pub watchers: Watchers,
}

impl Database {
    /// Creates an empty database, whose clock is off by `skew` microseconds.
    pub fn new(skew: i64) -> Self {
        Self { skew, ..Self::default() }
    }

    /// Ends a transaction and releases its locks.
    pub fn release(&mut self, transaction: u64) {
        for lock in self.open.remove(&transaction).unwrap_or_default() {
            self.locks.remove(&lock);
        }
        self.waiting.remove(&transaction);
        self.releases += 1;
        self.freed.wake();
    }

    /// Takes all of these locks, or none if another transaction holds one.
    fn take(&mut self, transaction: u64, locks: Vec<Lock>) -> bool {
        let others = |l: &Lock| self.locks.get(l).is_some_and(|t| *t != transaction);
        if locks.iter().any(others) {
            return false;
        }
        let mine = self.open.entry(transaction).or_default();
        for lock in locks {
            if self.locks.insert(lock.clone(), transaction).is_none() {
                mine.push(lock);
            }
        }
        true
    }

    /// Records that a transaction waits; returns whether that closes a cycle of waiting transactions.
    fn wait(&mut self, transaction: u64, locks: Vec<Lock>) -> bool {
        self.waiting.insert(transaction, locks);
        let (mut reached, mut next) = (BTreeSet::new(), vec![transaction]);
        while let Some(waiter) = next.pop() {
            let wanted = self.waiting.get(&waiter).into_iter().flatten();
            for holder in wanted.filter_map(|lock| self.locks.get(lock)).filter(|holder| **holder != waiter) {
                if *holder == transaction {
                    self.waiting.remove(&transaction);
                    return true;
                }
                if reached.insert(*holder) {
                    next.push(*holder);
                }
            }
        }
        false
    }

    /// Returns when the next row is due, in simulated time.
    pub fn next_due(&self) -> Option<Micros> {
        let base = chrono::DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default();
        let due = self.rows.values().filter_map(|row| row.lease).map(|lease| lease.until).min()?;
        Some((due - base).num_microseconds().map_or(0, |at| (at - self.skew).max(0)) as Micros)
    }

    /// Returns whether an instance is calling for a row.
    pub fn has_calls(&self) -> bool {
        self.rows.values().any(|row| row.lease.is_some_and(|l| l.owner.is_some()))
    }
}

/// The port of one instance.
#[derive(Clone)]
pub struct SimRows {
    /// The instance.
    pub handle: Handle,
    /// Index of the database.
    pub database: usize,
}

/// A transaction; it leaves nothing when dropped.
pub struct SimTx {
    rows: SimRows,
    open: Open,
    writes: Vec<CommandRow>,
    books: Option<Books>,
}

/// Releases a transaction's locks, however it ends.
struct Open {
    world: Arc<World>,
    database: usize,
    id: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.world.drop_transaction(self.database, self.id);
    }
}

fn away(_: Down) -> Error {
    Error::Unavailable("no answer".to_owned())
}

impl SimRows {
    async fn ask<T: Send + 'static>(
        &self,
        what: &'static str,
        effect: impl FnOnce(&mut WorldState) -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.handle.ask(Site::Rows(self.database), None, what, effect).await.map_err(away)
    }

    /// Asks until the locks are free, then reads.
    async fn locked<T: Send + 'static>(
        &self,
        what: &'static str,
        transaction: u64,
        locks: Vec<Lock>,
        read: impl Fn(&mut WorldState) -> T + Send + Clone + 'static,
    ) -> Result<T, Error> {
        let database = self.database;
        loop {
            let (locks, read) = (locks.clone(), read.clone());
            let locked = self.ask(what, move |s| {
                let db = &mut s.databases[database];
                if !db.open.contains_key(&transaction) {
                    return None;
                }
                if db.take(transaction, locks.clone()) {
                    db.waiting.remove(&transaction);
                    return Some(Ok(read(s)));
                }
                // As in Postgres, one of the waiting transactions fails.
                if db.wait(transaction, locks) {
                    s.coverage.deadlocks += 1;
                    None
                } else {
                    Some(Err(db.releases))
                }
            });
            match locked.await? {
                None => return Err(Error::Unavailable("the transaction is over, or a deadlock".to_owned())),
                Some(Ok(value)) => return Ok(value),
                Some(Err(releases)) => self.freed(releases).await,
            }
        }
    }

    /// Runs a statement that is a transaction of its own, on rows that no other transaction holds. Its answer may be
    /// lost.
    async fn alone<T: Send + 'static>(
        &self,
        what: &'static str,
        keys: Vec<Uuid>,
        effect: impl Fn(&mut WorldState) -> T + Send + Clone + 'static,
    ) -> Result<T, Error> {
        let database = self.database;
        loop {
            let (keys, effect) = (keys.clone(), effect.clone());
            let done = self.handle.ask(Site::Rows(database), Some(Fault::RowsAnswerLost), what, move |s| {
                let db = &s.databases[database];
                if keys.iter().any(|key| db.locks.contains_key(&Lock::Row(*key))) {
                    return Err(db.releases);
                }
                let value = effect(s);
                s.databases[database].watchers.wake();
                Ok(value)
            });
            match done.await.map_err(away)? {
                Ok(value) => return Ok(value),
                Err(releases) => self.freed(releases).await,
            }
        }
    }

    /// Waits until another transaction has ended.
    async fn freed(&self, releases: u64) {
        poll_fn(|cx| {
            let db = &mut self.handle.state().databases[self.database];
            if db.releases != releases {
                return Poll::Ready(());
            }
            db.freed.add(cx.waker());
            Poll::Pending
        })
        .await;
    }
}

impl WorldState {
    fn note_row(&mut self, process: usize, row: &CommandRow) {
        self.note(process, || {
            format!("{} row {} {}", short(row.saga_id), short(row.key), row.status.as_str())
        });
        self.coverage.rows.insert(row.status.as_str());
    }
}

fn read(state: &WorldState, database: usize, keys: &[Uuid]) -> Locked {
    let db = &state.databases[database];
    let rows: HashMap<Uuid, CommandRow> =
        keys.iter().filter_map(|key| db.rows.get(key)).map(|row| (row.key, row.clone())).collect();
    Locked { now: state.instant_at(db.skew), rows, ..Locked::default() }
}
