//! Homes: the parts of the engine's database that have nothing to do with each other. All rows of a saga, of its order
//! and of its slot have the same home, and a statement reads and writes one home only, so that a distributed Postgres
//! can keep each home on one of its nodes. An ordinary Postgres has one home.

use std::{collections::BTreeMap, fmt::Display, num::NonZeroU16};

use amends_pool::{Bounds, Plans, Pool};
use amends_protocol::{SLOTS, id};
use futures::{FutureExt, StreamExt, future::Either, stream};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    lost_commits,
    sentinel::{OnLostCommits, Sentinel, SentinelExaminer},
};

/// Maximum number of homes whose statements run at once: each needs a connection.
const HOMES_AT_ONCE: usize = 4;

/// The engine's database: connections to it, the number of its homes, and the epoch in which it is used.
#[derive(Debug, Clone)]
pub struct Database {
    /// The connections.
    pub pool: Pool,
    /// The homes.
    pub homes: Homes,
    /// The epoch that the program has read at its start. In another one, nothing that rests on what was read before is
    /// written.
    pub epoch: u32,
    /// Remembers what it has acknowledged.
    pub sentinel: Sentinel,
}

impl Database {
    /// Creates connections to a database with this number of homes.
    ///
    /// # Errors
    /// The URL is invalid.
    pub fn connect(
        url: &str,
        max_connections: u32,
        name: &str,
        bounds: Bounds,
        homes: Homes,
    ) -> Result<Self, amends_pool::Error> {
        let plans = if homes == Homes::ONE { Plans::Generic } else { Plans::Custom };
        let pool = Pool::connect_planned(url, max_connections, name, bounds, plans)?;
        Ok(Self { pool, homes, epoch: 0, sentinel: Sentinel::default() })
    }

    /// Uses the database in this epoch. In epoch 0 it was never restored.
    pub fn in_epoch(self, epoch: u32) -> Self {
        Self { epoch, ..self }
    }

    /// Has each new connection examined for commits that are lost, from now on.
    pub fn watch_for_lost_commits(&self, on_lost: OnLostCommits) {
        let Self { pool, homes, epoch, sentinel } = self;
        sentinel.set_on_lost(on_lost);
        pool.examine_new(SentinelExaminer::new(sentinel.clone(), *homes, *epoch));
    }

    /// Begins the epoch after one whose beginning is lost, unless a later one has begun.
    pub(crate) async fn begin_epoch_after(&self, lost: u32) -> Result<(), sqlx::Error> {
        tracing::error!(
            epoch = lost,
            "workers answer commands of an epoch whose beginning the database has lost"
        );
        lost_commits::note(&self.pool, lost, self.sentinel.on_lost(), &[]).await
    }
}

impl From<Pool> for Database {
    /// A database with one home that was never restored.
    fn from(pool: Pool) -> Self {
        Self { pool, homes: Homes::ONE, epoch: 0, sentinel: Sentinel::default() }
    }
}

impl From<PgPool> for Database {
    fn from(pool: PgPool) -> Self {
        Self::from(Pool::from(pool))
    }
}

/// The number of homes of a deployment, 1–1024: a slot's home is the slot modulo this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Homes(NonZeroU16);

impl Homes {
    /// One home, as on an ordinary Postgres.
    pub const ONE: Self = Self(NonZeroU16::MIN);

    /// Returns this number of homes; `None` if it is 0 or above the number of slots.
    pub fn new(count: u16) -> Option<Self> {
        NonZeroU16::new(count).filter(|count| count.get() <= SLOTS).map(Self)
    }

    /// Returns their number.
    pub fn count(self) -> u16 {
        self.0.get()
    }

    /// Returns all homes.
    pub fn all(self) -> impl Iterator<Item = i16> {
        0..(self.count() as i16)
    }

    /// Returns a slot's home.
    pub fn of_slot(self, slot: u16) -> i16 {
        // Below 1024.
        (slot % SLOTS % self.0) as i16
    }

    /// Returns the home of a saga or an order, from its id.
    pub fn of(self, id: Uuid) -> i16 {
        self.of_slot(id::slot(id))
    }

    /// Divides a batch by home; within a home the order stays.
    pub fn divide<T>(
        self,
        batch: impl IntoIterator<Item = T>,
        home: impl Fn(&T) -> i16,
    ) -> BTreeMap<i16, Vec<T>> {
        let mut parts: BTreeMap<i16, Vec<T>> = BTreeMap::new();
        if self == Self::ONE {
            let all: Vec<T> = batch.into_iter().collect();
            if !all.is_empty() {
                parts.insert(0, all);
            }
            return parts;
        }
        for item in batch {
            parts.entry(home(&item)).or_default().push(item);
        }
        parts
    }

    /// Divides ids of sagas or orders by home.
    pub fn divide_ids(self, ids: &[Uuid]) -> BTreeMap<i16, Vec<Uuid>> {
        self.divide(ids.iter().copied(), |id| self.of(*id))
    }

    /// Divides slots by home.
    pub fn divide_slots(self, slots: &[u16]) -> BTreeMap<i16, Vec<u16>> {
        self.divide(slots.iter().copied(), |slot| self.of_slot(*slot))
    }
}

/// Asks each home for its part of an answer, some homes at once; returns the parts in the order of the homes.
///
/// # Errors
/// The first error, once all homes have answered: a statement that is being executed is not given up.
pub fn each_home<P, R, E, F>(
    parts: impl IntoIterator<Item = (i16, P)>,
    ask: impl Fn(i16, P) -> F,
) -> impl Future<Output = Result<Vec<R>, E>>
where
    F: Future<Output = Result<R, E>>,
{
    ask_each(parts, ask).map(|answers| answers.into_iter().collect())
}

/// The same, for what is read again soon: a home that fails does not keep the others from being read.
///
/// # Errors
/// The first error, if no home has answered.
pub fn answering_homes<P, R, E, F>(
    parts: impl IntoIterator<Item = (i16, P)>,
    ask: impl Fn(i16, P) -> F,
) -> impl Future<Output = Result<Vec<R>, E>>
where
    E: Display,
    F: Future<Output = Result<R, E>>,
{
    ask_each(parts, ask).map(answering)
}

/// What several homes have answered, and the parts of those that have failed.
#[derive(Debug)]
pub struct Answers<P, R, E> {
    /// The answers, in the order of the homes.
    pub answers: Vec<R>,
    /// The parts without an answer.
    pub failed: Vec<(P, E)>,
}

/// The same, with the parts of the homes that fail, for callers that go on without them.
///
/// # Errors
/// The error of a database with one home.
pub async fn answers_of_homes<P: Clone, R, E: Display, F: Future<Output = Result<R, E>>>(
    homes: Homes,
    parts: BTreeMap<i16, P>,
    ask: impl Fn(i16, P) -> F,
) -> Result<Answers<P, R, E>, E> {
    if homes == Homes::ONE {
        return Ok(Answers { answers: each_home(parts, ask).await?, failed: Vec::new() });
    }
    let asked: Vec<P> = parts.values().cloned().collect();
    let mut all = Answers { answers: Vec::with_capacity(asked.len()), failed: Vec::new() };
    for (part, answer) in asked.into_iter().zip(ask_each(parts, ask).await) {
        match answer {
            Ok(answer) => all.answers.push(answer),
            Err(error) => {
                note_failure(&error);
                all.failed.push((part, error));
            }
        }
    }
    Ok(all)
}

/// Counts and logs the failure of one of several homes.
pub(crate) fn note_failure(error: &impl Display) {
    metrics::counter!("amends_postgres_homes_failed_total").increment(1);
    tracing::warn!(%error, "a home of the database fails; the others go on");
}

fn answering<R, E: Display>(all: Vec<Result<R, E>>) -> Result<Vec<R>, E> {
    let (mut answers, mut failed) = (Vec::new(), None);
    for answer in all {
        match answer {
            Ok(answer) => answers.push(answer),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        Some(error) if answers.is_empty() => Err(error),
        Some(error) => {
            note_failure(&error);
            Ok(answers)
        }
        None => Ok(answers),
    }
}

fn ask_each<P, R, F: Future<Output = R>>(
    parts: impl IntoIterator<Item = (i16, P)>,
    ask: impl Fn(i16, P) -> F,
) -> impl Future<Output = Vec<R>> {
    let mut parts = parts.into_iter();
    match (parts.next(), parts.next()) {
        // As with one Postgres: the future is not moved about.
        (Some((home, part)), None) => Either::Left(ask(home, part).map(|answer| vec![answer])),
        (first, second) => {
            let parts = first.into_iter().chain(second).chain(parts);
            let asked: Vec<F> = parts.map(|(home, part)| ask(home, part)).collect();
            Either::Right(stream::iter(asked).buffered(HOMES_AT_ONCE).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_follows_from_the_slot_at_the_end_of_an_id() {
        let homes = Homes::new(48).unwrap();
        assert_eq!(homes.of(id::at_slot(Uuid::now_v7(), 100)), 4);
        assert_eq!(homes.of_slot(1023), 15);
        assert_eq!(Homes::ONE.of_slot(1023), 0);
        assert!(Homes::new(0).is_none() && Homes::new(SLOTS + 1).is_none());
    }

    #[tokio::test]
    async fn a_home_that_fails_does_not_keep_the_others_from_being_read() {
        let asked = |failing: i16| async move {
            let ask = |home: i16, ()| async move { if home >= failing { Err("away") } else { Ok(home) } };
            let parts = || (0..3).map(|home| (home, ()));
            (each_home(parts(), ask).await, answering_homes(parts(), ask).await)
        };
        assert_eq!(asked(3).await, (Ok(vec![0, 1, 2]), Ok(vec![0, 1, 2])));
        assert_eq!(asked(2).await, (Err("away"), Ok(vec![0, 1])));
        assert_eq!(asked(0).await, (Err("away"), Err("away")));
    }
}
