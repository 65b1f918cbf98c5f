//! The lost-commit sentinel: notices that the database no longer contains what it has acknowledged to this process, as
//! after a failover to a standby that had not received everything.
//!
//! Whatever replaces a database ends its connections, and what a failover loses is the newest. So each new connection is
//! examined before anything else uses it: the database must still have the newest write that it acknowledged in each
//! slot. If it does not, every saga that this process remembers is compared, the lost ones are noted (table
//! `lost_commits`), and the next epoch begins: from then on the database refuses whatever rests on what was read before,
//! and the process ends.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use amends_engine::core::Saga;
use amends_pool::Examiner;
use futures::future::BoxFuture;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    Homes,
    columns::int,
    deployment,
    lost_commits::{self, Lost},
};

/// Maximum number of sagas remembered: a few megabytes. At least half as many are kept.
const REMEMBERED_MOST: usize = 40_000;
/// For how long a saga that has vanished counts as lost: shorter than any retention of history.
const VANISHES_AFTER: Duration = Duration::from_secs(12 * 60 * 60);
/// Maximum number of lost sagas that are logged; all are in the table.
const LOGGED_MOST: usize = 100;
/// Number of sagas that a statement compares.
const COMPARED_AT_ONCE: usize = 1_000;
/// For how long the homes of a node that has failed are not asked again: each question waits for the node, and a caller
/// waits for the connection meanwhile.
const AWAY_FOR: Duration = Duration::from_secs(10);

/// What happens once commits are found to be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnLostCommits {
    /// The next epoch begins, as by `amends restore`; programs that start go on in it.
    #[default]
    NextEpoch,
    /// The same, but no program starts in it until `amends restore` was run.
    Stop,
}

/// What the database has acknowledged to this process. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Sentinel(Arc<Mutex<Remembered>>);

#[derive(Debug, Default)]
struct Remembered {
    /// The saga that was written last, by slot.
    newest: HashMap<u16, (Uuid, Acknowledged)>,
    /// All of them, in two halves: the older one is forgotten as a whole.
    newer: HashMap<Uuid, Acknowledged>,
    older: HashMap<Uuid, Acknowledged>,
    on_lost: OnLostCommits,
}

/// A saga's newest acknowledged state.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Acknowledged {
    revision: u32,
    at: Instant,
    /// What was born with it, if this process has done that.
    business_key: Option<Arc<str>>,
}

impl Sentinel {
    /// Remembers sagas whose write is acknowledged: id, slot and revision of each.
    pub fn acknowledged(&self, sagas: impl Iterator<Item = (Uuid, u16, u32)>) {
        let mut remembered = self.remembered();
        let at = Instant::now();
        for (id, slot, revision) in sagas {
            remembered.keep(id, slot, Acknowledged { revision, at, business_key: None });
        }
    }

    /// Remembers sagas whose birth is acknowledged.
    pub fn acknowledged_births<'s>(&self, sagas: impl Iterator<Item = &'s Saga>) {
        let mut remembered = self.remembered();
        let at = Instant::now();
        for Saga { id, slot, revision, business_key, .. } in sagas {
            let business_key = Some(business_key.as_str().into());
            remembered.keep(*id, *slot, Acknowledged { revision: *revision, at, business_key });
        }
    }

    /// Sets what happens once commits are found to be lost.
    pub(crate) fn set_on_lost(&self, on_lost: OnLostCommits) {
        self.remembered().on_lost = on_lost;
    }

    pub(crate) fn on_lost(&self) -> OnLostCommits {
        self.remembered().on_lost
    }

    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remembered {
    fn keep(&mut self, id: Uuid, slot: u16, mut acknowledged: Acknowledged) {
        if let Some(before) = self.newer.remove(&id).or_else(|| self.older.remove(&id)) {
            // Concurrent writes may be acknowledged in another order than that of their revisions.
            acknowledged.revision = acknowledged.revision.max(before.revision);
            acknowledged.business_key = acknowledged.business_key.or(before.business_key);
        }
        if self.newer.len() >= REMEMBERED_MOST / 2 {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newest.insert(slot, (id, acknowledged.clone()));
        self.newer.insert(id, acknowledged);
    }

    fn newest(&self) -> HashMap<Uuid, Acknowledged> {
        self.newest.values().cloned().collect()
    }

    fn all(&self) -> HashMap<Uuid, Acknowledged> {
        let halves = self.older.iter().chain(&self.newer);
        let all = halves.map(|(id, acknowledged)| (*id, acknowledged.clone()));
        all.chain(self.newest()).collect()
    }
}

/// Examines new connections for lost commits.
#[derive(Debug)]
pub(crate) struct SentinelExaminer {
    sentinel: Sentinel,
    homes: Homes,
    epoch: u32,
    /// Homes that could not be asked lately, and when that was found.
    away: Mutex<HashMap<i16, Instant>>,
}

impl Examiner for SentinelExaminer {
    fn examine<'c>(&'c self, connection: &'c mut PgConnection) -> BoxFuture<'c, Result<(), sqlx::Error>> {
        Box::pin(self.compare(connection))
    }
}

impl SentinelExaminer {
    pub(crate) fn new(sentinel: Sentinel, homes: Homes, epoch: u32) -> Self {
        Self { sentinel, homes, epoch, away: Mutex::default() }
    }

    /// Compares what the database has with what it has acknowledged.
    ///
    /// # Errors
    /// It has lost commits, which are noted; or it cannot tell, or cannot note it.
    async fn compare(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        // The beginning of this program's epoch is a commit that may be lost, too.
        let is_earlier = self.epoch > 0 && deployment::epoch(&mut *connection).await? < self.epoch;
        let newest = self.sentinel.remembered().newest();
        if !is_earlier && self.lacking(connection, newest).await?.is_empty() {
            return Ok(());
        }
        if sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut *connection).await? {
            return Err(sqlx::Error::Protocol("this server is a standby that lags".to_owned()));
        }
        let all = self.sentinel.remembered().all();
        let lost = self.lacking(connection, all).await?;
        tracing::error!(sagas = lost.len(), "the database has lost commits that it had acknowledged");
        for Lost { saga_id, acknowledged, found, business_key } in lost.iter().take(LOGGED_MOST) {
            let business_key = business_key.as_deref();
            tracing::error!(%saga_id, business_key, acknowledged, found, "a saga's newest commit is lost");
        }
        lost_commits::note(&mut *connection, self.epoch, self.sentinel.on_lost(), &lost).await?;
        // In another epoch this fails, with the error that ends the process.
        sqlx::query("SELECT is_epoch($1)").bind(int(self.epoch)).execute(connection).await?;
        Ok(())
    }

    /// Returns those of these sagas whose acknowledged state the database does not have.
    async fn lacking(
        &self,
        connection: &mut PgConnection,
        mut sagas: HashMap<Uuid, Acknowledged>,
    ) -> Result<Vec<Lost>, sqlx::Error> {
        let ids: Vec<Uuid> = sagas.keys().copied().collect();
        let mut found: BTreeMap<Uuid, i32> = BTreeMap::new();
        for (home, ids) in self.homes.divide_ids(&ids) {
            for ids in ids.chunks(COMPARED_AT_ONCE) {
                let answer = match self.is_away(home) {
                    true => None,
                    false => Some(revisions(connection, home, ids).await),
                };
                match answer {
                    Some(Ok(rows)) => {
                        found.extend(rows);
                        continue;
                    }
                    Some(Err(sqlx::Error::Database(_))) if self.homes != Homes::ONE => {
                        self.note_away(connection, home).await;
                    }
                    Some(Err(error)) => return Err(error),
                    None => {}
                }
                // A home that is away does not keep the others from being used.
                ids.iter().for_each(|id| drop(sagas.remove(id)));
            }
        }
        let lost = sagas.into_iter().filter_map(|(saga_id, Acknowledged { revision, at, business_key })| {
            let found = found.get(&saga_id).map(|revision| revision.unsigned_abs());
            let is_lost = match found {
                Some(found) => found < revision,
                None => at.elapsed() < VANISHES_AFTER,
            };
            is_lost.then_some(Lost { saga_id, acknowledged: revision, found, business_key })
        });
        Ok(lost.collect())
    }

    fn is_away(&self, home: i16) -> bool {
        let away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        away.get(&home).is_some_and(|at| at.elapsed() < AWAY_FOR)
    }

    /// Remembers that the node of this home has failed.
    async fn note_away(&self, connection: &mut PgConnection, home: i16) {
        let with_it = homes_beside(connection, home, self.homes).await.unwrap_or_default();
        let at = Instant::now();
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        away.extend(with_it.into_iter().chain([home]).map(|home| (home, at)));
    }
}

/// Reads which homes of a Citus are on the same node as this one; no node is asked.
async fn homes_beside(
    connection: &mut PgConnection,
    home: i16,
    homes: Homes,
) -> Result<Vec<i16>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT h.home::int2 FROM generate_series(0, $2 - 1) AS h (home)
         JOIN pg_dist_placement AS p ON p.shardid = get_shard_id_for_distribution_column('slot_positions', h.home)
         WHERE p.groupid = (SELECT own.groupid FROM pg_dist_placement AS own
                            WHERE own.shardid = get_shard_id_for_distribution_column('slot_positions', $1))",
    )
    .bind(i32::from(home))
    .bind(i32::from(homes.count()))
    .fetch_all(connection)
    .await
}

/// Reads the revisions of those of these sagas of a home that are there.
async fn revisions(
    connection: &mut PgConnection,
    home: i16,
    ids: &[Uuid],
) -> Result<Vec<(Uuid, i32)>, sqlx::Error> {
    sqlx::query_as("SELECT id, revision FROM sagas WHERE ($1::int2 IS NULL OR home = $1) AND id = ANY($2)")
        .bind(home)
        .bind(ids)
        .fetch_all(connection)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_number(sagas: HashMap<Uuid, Acknowledged>) -> BTreeMap<u128, u32> {
        sagas.into_iter().map(|(id, acknowledged)| (id.as_u128(), acknowledged.revision)).collect()
    }

    #[test]
    fn the_newest_saga_of_each_slot_is_compared_by_its_highest_revision_however_many_are_remembered() {
        let sentinel = Sentinel::default();
        let write = |id: u128, slot: u16, revision: u32| {
            sentinel.acknowledged([(Uuid::from_u128(id), slot, revision)].into_iter());
        };
        write(1, 7, 1);
        write(2, 7, 4);
        write(2, 7, 3);
        write(3, 8, 1);
        assert_eq!(by_number(sentinel.remembered().newest()), BTreeMap::from([(2, 4), (3, 1)]));
        (0..REMEMBERED_MOST as u128 * 2).for_each(|n| write(1_000 + n, 9, 1));
        let remembered = sentinel.remembered();
        assert!(remembered.newer.len() + remembered.older.len() <= REMEMBERED_MOST);
        let newest = by_number(remembered.newest());
        assert_eq!((newest.len(), newest[&2], newest[&3]), (3, 4, 1));
        assert_eq!(by_number(remembered.all())[&2], 4);
    }
}
