//! The rows in Postgres: table `commands`, the same in each worker's database. It has one partition per month of the
//! sagas' births, with which their commands' ids begin; a statement that names the range of its ids reads no other
//! partition.

mod stored;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use amends_pool::{DatabaseClock, Pool, Transaction};
use amends_protocol::{Command, Resolved};
use chrono::{DateTime, Utc};
use sqlx::{Postgres, postgres::PgArguments, query::QueryScalar};
use uuid::Uuid;

use stored::{COLUMNS, Stored, details, int, json};

use crate::{
    row::CommandRow,
    store::{Due, Error, Locked, Locks, Rows},
};

/// Rows in a worker's Postgres database.
#[derive(Debug, Clone)]
pub struct PgRows {
    pool: Pool,
    clock: Arc<DatabaseClock>,
}

impl PgRows {
    /// Creates rows over this pool. Pools made by [`amends_pool::connect`] use one plan for arrays of any length, and
    /// never a sequential scan: a plan made while the table was small must not be used when it has grown.
    pub fn new(pool: impl Into<Pool>) -> Self {
        Self { pool: pool.into(), clock: Arc::default() }
    }
}

impl PgRows {
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }
}

/// A transaction of a worker.
pub type PgTx = Transaction;

impl Rows for PgRows {
    type Tx = PgTx;

    async fn begin(&self) -> Result<PgTx, Error> {
        Ok(self.pool.begin().await?)
    }

    async fn now(&self) -> Result<DateTime<Utc>, Error> {
        Ok(self.clock.now(&self.pool).await?)
    }

    async fn insert(&self, rows: &[CommandRow]) -> Result<HashSet<Uuid>, Error> {
        let inserted: Vec<Uuid> = insert(INSERT, rows).fetch_all(&self.pool).await?;
        Ok(inserted.into_iter().collect())
    }

    async fn insert_in(&self, tx: &mut PgTx, rows: &[CommandRow]) -> Result<bool, Error> {
        if rows.is_empty() {
            return Ok(true);
        }
        match insert(INSERT_OR_LEAVE, rows).fetch_all(&mut **tx).await.map_err(Error::from) {
            Ok(inserted) => Ok(inserted.len() == rows.len()),
            // Another transaction is writing the row, so the row is not new.
            Err(Error::Locked) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn settle(&self, owner: Uuid, rows: &[CommandRow]) -> Result<HashSet<Uuid>, Error> {
        if rows.is_empty() {
            return Ok(HashSet::new());
        }
        let sorted = sorted(rows);
        let settled: Vec<Uuid> = sqlx::query_scalar(
            "UPDATE commands AS c
             SET status = w.status, live = false, owner = NULL, lease_until = NULL, started_at = NULL,
                 command = NULL, reply = w.reply, resolved = NULL, updated_at = now()
             FROM UNNEST($1::uuid[], $2::text[], $3::int4[], $4::int4[], $5::text[])
                  AS w (command_id, status, attempt, epoch, reply)
             WHERE c.command_id = w.command_id AND c.command_id BETWEEN $6 AND $7
               AND c.status = 'started' AND c.owner = $8 AND c.undo IS NULL
               AND c.attempt = w.attempt AND c.epoch = w.epoch AND NOT c.unsure
             RETURNING c.command_id",
        )
        .bind(each(&sorted, |r| r.key))
        .bind(each(&sorted, |r| r.status.as_str()))
        .bind(each(&sorted, |r| int(r.attempt)))
        .bind(each(&sorted, |r| int(r.epoch)))
        .bind(each(&sorted, |r| details(r)))
        .bind(sorted[0].key)
        .bind(sorted[sorted.len() - 1].key)
        .bind(owner)
        .fetch_all(&self.pool)
        .await?;
        Ok(settled.into_iter().collect())
    }

    async fn lock(&self, tx: &mut PgTx, commands: &[&Command], locks: Locks) -> Result<Locked, Error> {
        let mut first: Vec<&Command> = commands.to_vec();
        first.sort_by_key(|c| c.row_key());
        first.dedup_by_key(|c| c.row_key());
        let mut rows = HashMap::new();
        // A key that can be neither inserted nor read was removed in between; the next round tries again.
        loop {
            let inserted: Result<(Vec<Uuid>, DateTime<Utc>), sqlx::Error> = sqlx::query_as(
                "WITH inserted AS (
                     INSERT INTO commands (command_id, saga_id, status, attempt, epoch, issued_at)
                     SELECT c.command_id, c.saga_id, 'accepted', c.attempt, c.epoch, c.issued_at
                     FROM UNNEST($1::uuid[], $2::uuid[], $3::int8[], $4::int8[], $5::timestamptz[])
                          AS c (command_id, saga_id, attempt, epoch, issued_at)
                     ORDER BY c.command_id
                     ON CONFLICT (command_id) DO NOTHING
                     RETURNING command_id)
                 SELECT COALESCE(array_agg(command_id ORDER BY command_id), '{}'), clock_timestamp() FROM inserted",
            )
            .bind(first.iter().map(|c| c.row_key()).collect::<Vec<_>>())
            .bind(first.iter().map(|c| c.saga_id).collect::<Vec<_>>())
            .bind(first.iter().map(|c| i64::from(c.attempt)).collect::<Vec<_>>())
            .bind(first.iter().map(|c| i64::from(c.epoch)).collect::<Vec<_>>())
            .bind(first.iter().map(|c| c.effect_issued_at()).collect::<Vec<_>>())
            .fetch_one(&mut **tx)
            .await;
            let (inserted, now) = free_again(tx, inserted).await?;
            first.retain(|c| inserted.binary_search(&c.row_key()).is_err());
            if first.is_empty() {
                return Ok(Locked { now, rows, ..Locked::default() });
            }
            let keys: Vec<Uuid> = first.iter().map(|c| c.row_key()).collect();
            let found = self.get(tx, &keys, locks).await?;
            rows.extend(found.rows);
            first.retain(|c| !rows.contains_key(&c.row_key()));
            if first.is_empty() || locks == Locks::PassOver {
                return Ok(Locked { now: found.now, rows, passed_over: found.passed_over });
            }
        }
    }

    async fn get(&self, tx: &mut PgTx, keys: &[Uuid], locks: Locks) -> Result<Locked, Error> {
        let patience = match locks {
            Locks::Wait => "",
            Locks::PassOver => "SKIP LOCKED",
        };
        let stored: Result<Vec<Stored>, sqlx::Error> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS}, clock_timestamp() AS now
             FROM (SELECT * FROM commands WHERE command_id = ANY($1) ORDER BY command_id
                   FOR UPDATE {patience}) AS locked"
        )))
        .bind(keys)
        .fetch_all(&mut **tx)
        .await;
        let stored = free_again(tx, stored).await?;
        let mut locked = locked(tx, stored).await?;
        if locks == Locks::PassOver {
            locked.passed_over = keys.iter().copied().filter(|key| !locked.rows.contains_key(key)).collect();
        }
        Ok(locked)
    }

    async fn due(&self, tx: &mut PgTx, which: Due, limit: usize) -> Result<Locked, Error> {
        let which = match which {
            Due::Sure => "NOT unsure",
            Due::Unsure => "unsure",
        };
        let stored: Vec<Stored> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS}, clock_timestamp() AS now FROM commands
             WHERE live AND {which} AND lease_until <= now() ORDER BY lease_until LIMIT $1 FOR UPDATE SKIP LOCKED"
        )))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut **tx)
        .await?;
        let now = now(tx, &stored).await?;
        let (mut rows, mut unreadable) = (HashMap::new(), Vec::new());
        for stored in stored {
            let key = stored.command_id;
            match CommandRow::try_from(stored) {
                Ok(row) => drop(rows.insert(key, row)),
                Err(why) => {
                    tracing::error!(command = %key, %why, "a row that is due cannot be read; it is put off");
                    unreadable.push(key);
                }
            }
        }
        // Unreadable rows wait for a program that can read them; they must not stop the others.
        if !unreadable.is_empty() {
            sqlx::query(
                "UPDATE commands SET lease_until = now() + interval '1 minute' WHERE command_id = ANY($1)",
            )
            .bind(unreadable)
            .execute(&mut **tx)
            .await?;
        }
        Ok(Locked { now, rows, ..Locked::default() })
    }

    async fn write(&self, tx: &mut PgTx, rows: &[CommandRow]) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let rows = &sorted(rows)[..];
        sqlx::query(
            "UPDATE commands AS c
             SET status = w.status, attempt = w.attempt, epoch = w.epoch, unsure = w.unsure,
                 live = w.lease_until IS NOT NULL, owner = w.owner, lease_until = w.lease_until,
                 started_at = w.started_at, command = w.command, reply = w.reply, undo = w.undo,
                 undo_reply = w.undo_reply, resolved = w.resolved, updated_at = now()
             FROM UNNEST($1::uuid[], $2::text[], $3::int8[], $4::int8[], $5::bool[], $6::uuid[], $7::timestamptz[],
                         $8::timestamptz[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[])
                  AS w (command_id, status, attempt, epoch, unsure, owner, lease_until, started_at, command,
                        reply, undo, undo_reply, resolved)
             WHERE c.command_id = w.command_id AND c.command_id BETWEEN $14 AND $15",
        )
        .bind(each(rows, |r| r.key))
        .bind(each(rows, |r| r.status.as_str()))
        .bind(each(rows, |r| i64::from(r.attempt)))
        .bind(each(rows, |r| i64::from(r.epoch)))
        .bind(each(rows, |r| r.unsure))
        .bind(each(rows, |r| r.lease.and_then(|l| l.owner)))
        .bind(each(rows, |r| r.lease.map(|l| l.until)))
        .bind(each(rows, |r| r.started_at))
        .bind(each(rows, |r| r.command.as_ref().map(json)))
        .bind(each(rows, |r| details(r)))
        .bind(each(rows, |r| r.undo.as_ref().map(json)))
        .bind(each(rows, |r| r.undone.as_ref().map(json)))
        .bind(each(rows, |r| r.resolved.map(Resolved::as_str)))
        .bind(rows[0].key)
        .bind(rows[rows.len() - 1].key)
        .execute(&mut **tx)
        .await?;
        Ok(())
    }

    async fn remove(&self, tx: &mut PgTx, keys: &[Uuid]) -> Result<(), Error> {
        if !keys.is_empty() {
            sqlx::query("DELETE FROM commands WHERE command_id = ANY($1)")
                .bind(keys)
                .execute(&mut **tx)
                .await?;
        }
        Ok(())
    }

    async fn commit(&self, tx: PgTx) -> Result<(), Error> {
        Ok(tx.commit().await?)
    }

    async fn renew(&self, owner: Uuid, keys: &[Uuid], lease: Duration) -> Result<(), Error> {
        sqlx::query(
            "UPDATE commands AS c SET lease_until = now() + $3 * interval '1 millisecond'
             FROM (SELECT command_id FROM commands WHERE command_id = ANY($1) AND owner = $2
                   ORDER BY command_id FOR UPDATE SKIP LOCKED) AS mine
             WHERE c.command_id = mine.command_id",
        )
        .bind(keys)
        .bind(owner)
        .bind(millis(lease))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn ping(&self) -> Result<(), Error> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }
}

/// Inserts the rows whose keys do not exist, in the order of their keys; returns those keys.
macro_rules! insert {
    ($patience:literal) => {
        concat!(
            "INSERT INTO commands (command_id, saga_id, status, attempt, epoch, issued_at, live, owner, lease_until,
                                   started_at, command, reply)
             SELECT w.command_id, w.saga_id, w.status, w.attempt, w.epoch, w.issued_at, w.lease_until IS NOT NULL,
                    w.owner, w.lease_until, w.started_at, w.command, w.reply
             FROM ",
            $patience,
            "UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::int4[], $5::int4[], $6::timestamptz[], $7::uuid[],
                    $8::timestamptz[], $9::timestamptz[], $10::text[], $11::text[])
                  AS w (command_id, saga_id, status, attempt, epoch, issued_at, owner, lease_until, started_at,
                        command, reply)
             ON CONFLICT (command_id) DO NOTHING
             RETURNING command_id"
        )
    };
}

const INSERT: &str = insert!("");
/// Does not wait for a transaction that holds one of the rows: this transaction inserts its rows last, and what it
/// already holds may be awaited by others that began with their rows.
const INSERT_OR_LEAVE: &str = insert!("(SELECT set_config('lock_timeout', '50ms', true)) AS patience, ");

fn insert<'q>(
    statement: &'static str,
    rows: &'q [CommandRow],
) -> QueryScalar<'q, Postgres, Uuid, PgArguments> {
    let rows = &sorted(rows)[..];
    sqlx::query_scalar(statement)
        .bind(each(rows, |r| r.key))
        .bind(each(rows, |r| r.saga_id))
        .bind(each(rows, |r| r.status.as_str()))
        .bind(each(rows, |r| int(r.attempt)))
        .bind(each(rows, |r| int(r.epoch)))
        .bind(each(rows, |r| r.issued_at))
        .bind(each(rows, |r| r.lease.and_then(|l| l.owner)))
        .bind(each(rows, |r| r.lease.map(|l| l.until)))
        .bind(each(rows, |r| r.started_at))
        .bind(each(rows, |r| r.command.as_ref().map(json)))
        .bind(each(rows, |r| details(r)))
}

/// Returns the rows in the order of their keys, so that batches cannot deadlock.
fn sorted(rows: &[CommandRow]) -> Vec<&CommandRow> {
    let mut sorted: Vec<&CommandRow> = rows.iter().collect();
    sorted.sort_unstable_by_key(|row| row.key);
    sorted
}

fn each<T>(rows: &[&CommandRow], of: impl FnMut(&&CommandRow) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

/// Returns the answer of a statement that locks rows. If it waited for one in vain, the others are free again on return:
/// the next statement may pass over what is locked.
async fn free_again<T>(tx: &mut PgTx, answer: Result<T, sqlx::Error>) -> Result<T, Error> {
    match answer.map_err(Error::from) {
        Err(Error::Locked) => {
            tx.give_up().await?;
            Err(Error::Locked)
        }
        answer => answer,
    }
}

async fn now(tx: &mut PgTx, stored: &[Stored]) -> Result<DateTime<Utc>, Error> {
    match stored.iter().map(|s| s.now).max() {
        Some(now) => Ok(now),
        None => Ok(sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut **tx).await?),
    }
}

async fn locked(tx: &mut PgTx, stored: Vec<Stored>) -> Result<Locked, Error> {
    let now = now(tx, &stored).await?;
    let rows =
        stored.into_iter().map(|s| CommandRow::try_from(s).map(|r| (r.key, r))).collect::<Result<_, _>>()?;
    Ok(Locked { now, rows, ..Locked::default() })
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
