//! Commits a batch of writes: for each home one statement, one transaction, one round trip.

use std::collections::{HashMap, HashSet};

use amends_engine::{
    core::{Entry, state_version},
    port::{Committed, FailedPart, Inputs, Wants, Write},
};
use amends_pool::{Connection, Pool, sqlstate};
use sqlx::FromRow;
use uuid::Uuid;

use crate::{
    Error,
    columns::{each, int, small},
    error,
    held::HeldSagas,
    homes::{Answers, Database, answers_of_homes},
    inputs::{self, InputsRow},
    lost_commit,
    sagas::{json, stored},
    timeline,
};

/// Updates rows that still have the revision that was read, and appends their entries (function `commit_sagas`).
const COMMIT: &str = "SELECT saga_id, locked, data, personal FROM commit_sagas($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, \
     $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24)";

/// What a batch does where another transaction holds a row or a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WhereHeld {
    /// It waits as long as the connection's lock timeout.
    Waits,
    /// It passes the row over, and reports it as locked.
    PassesOver,
}

/// Writes a batch, all homes of it at once. A home that fails is reported, and the others are written.
///
/// # Errors
/// The error of a database with one home.
pub(crate) async fn commit(
    database: &Database,
    held: &HeldSagas,
    writes: &[Write],
) -> Result<Committed, Error> {
    let homes = database.homes;
    let mut sorted: Vec<&Write> = writes.iter().collect();
    sorted.sort_by_key(|write| write.saga.id);
    let parts = homes.divide(sorted, |write| homes.of_slot(write.saga.slot));
    let commit = |home, writes| commit_home(database, held, home, writes);
    let Answers { answers, failed } = answers_of_homes(homes, parts, commit).await?;
    let mut committed = Committed::default();
    for Committed { written, locked, .. } in answers {
        committed.written.extend(written);
        committed.locked.extend(locked);
    }
    database.sentinel.acknowledged(acknowledged(writes, &committed.written));
    let failed = failed.into_iter().map(|(writes, error)| {
        let sagas = each(&writes, |write| write.saga.id);
        FailedPart { sagas, error }
    });
    committed.failed.extend(failed);
    Ok(committed)
}

/// Returns those of these writes that were written, as a saga's id, slot and revision each.
fn acknowledged<'w>(
    writes: &'w [Write],
    written: &[Inputs],
) -> impl Iterator<Item = (Uuid, u16, u32)> + use<'w> {
    let part =
        (written.len() < writes.len()).then(|| written.iter().map(|i| i.saga_id).collect::<HashSet<_>>());
    let is_written = move |write: &&Write| part.as_ref().is_none_or(|part| part.contains(&write.saga.id));
    writes.iter().filter(is_written).map(|write| (write.saga.id, write.saga.slot, write.saga.revision))
}

/// Writes a home's part of a batch. If another transaction holds a row, the statement waits as long as the connection's
/// lock timeout (`amends_pool`), and then passes the row over. A batch with a row that was passed over recently does not
/// wait at all.
async fn commit_home(
    Database { pool, epoch, .. }: &Database,
    held: &HeldSagas,
    home: i16,
    writes: Vec<&Write>,
) -> Result<Committed, Error> {
    let batch = timeline::new_batch();
    let mut where_held = if held.has_any(&writes) { WhereHeld::PassesOver } else { WhereHeld::Waits };
    let mut connection = pool.acquire().await.map_err(error::of)?;
    loop {
        match run(&mut connection, home, *epoch, where_held, &writes, batch).await {
            Ok(rows) => {
                drop(connection);
                return committed(rows, held, &writes);
            }
            Err(error) if sqlstate::is_locked(&error) && where_held == WhereHeld::Waits => {
                tracing::warn!(
                    sagas = writes.len(),
                    "another transaction holds a saga's row or slot; passing over it"
                );
                where_held = WhereHeld::PassesOver;
            }
            Err(error) if sqlstate::leaves_open(&error) => {
                connection.distrust();
                drop(connection);
                return read_back(pool, home, &writes, batch, &error).await;
            }
            Err(error) => return Err(error::of(error)),
        }
    }
}

/// A row of the result.
#[derive(FromRow)]
struct CommittedRow {
    #[sqlx(flatten)]
    inputs: InputsRow,
    locked: bool,
}

fn committed(rows: Vec<CommittedRow>, held: &HeldSagas, writes: &[&Write]) -> Result<Committed, Error> {
    let (locked, written): (Vec<CommittedRow>, Vec<CommittedRow>) =
        rows.into_iter().partition(|row| row.locked);
    let locked = each(&locked, |row| row.inputs.saga_id);
    held.note(&locked, writes);
    let written = written.into_iter().map(|row| row.inputs.read()).collect::<Result<_, _>>()?;
    Ok(Committed { written, locked, ..Committed::default() })
}

async fn run(
    connection: &mut Connection,
    home: i16,
    epoch: u32,
    where_held: WhereHeld,
    writes: &[&Write],
    batch: i64,
) -> Result<Vec<CommittedRow>, sqlx::Error> {
    let entries: Vec<(&Write, &Entry)> =
        writes.iter().flat_map(|write| write.entries.iter().map(|entry| (*write, entry))).collect();
    let updated_at = |write: &Write| write.entries.last().map(|entry| entry.occurrence.at);
    // The result is read to its end: an error at commit is reported after the last row.
    sqlx::query_as(COMMIT)
        .bind(home)
        .bind(int(epoch))
        .bind(where_held == WhereHeld::PassesOver)
        .bind(each(writes, |w| w.saga.id))
        .bind(each(writes, |w| int(w.read_revision)))
        .bind(each(writes, |w| int(w.saga.revision)))
        .bind(each(writes, |w| w.saga.label.as_str()))
        .bind(each(writes, |w| w.saga.heading_for.as_deref()))
        .bind(each(writes, |w| w.saga.reason.as_ref().map(json)))
        .bind(each(writes, |w| w.saga.outcome.map(stored)))
        .bind(each(writes, |w| flags(w)))
        .bind(each(writes, |w| w.saga.wake_at))
        .bind(each(writes, |w| w.saga.step.as_str()))
        .bind(each(writes, |w| w.saga.since))
        .bind(each(writes, |w| updated_at(w).unwrap_or(w.saga.since)))
        .bind(each(writes, |w| small(w.saga.core_version)))
        .bind(each(writes, |w| small(state_version(w.saga.core_version))))
        .bind(each(writes, |w| w.saga.state.to_json()))
        .bind(each(&entries, |(w, _)| w.saga.id))
        .bind(each(&entries, |(w, _)| small(w.saga.slot)))
        .bind(each(&entries, |(_, entry)| int(entry.revision)))
        .bind(each(&entries, |(_, entry)| entry.occurrence.at))
        .bind(each(&entries, |(_, entry)| entry.body(epoch)))
        .bind(batch)
        .fetch_all(connection)
        .await
}

/// Packs the flags of a write into one integer, a bit each: about the row, and about the requested input.
fn flags(write: &Write) -> i16 {
    [write.saga.parked, write.saga.live, write.wants.data, write.wants.personal]
        .into_iter()
        .rev()
        .fold(0, |flags, flag| flags << 1 | i16::from(flag))
}

/// Reads back whether the batch was committed after the answer was lost, and returns the result as usual. It passes
/// over nothing, because the backend that may still be committing may hold the rows.
async fn read_back(
    pool: &Pool,
    home: i16,
    writes: &[&Write],
    batch: i64,
    lost: &sqlx::Error,
) -> Result<Committed, Error> {
    metrics::counter!("amends_postgres_commits_read_back_total").increment(1);
    tracing::warn!(%lost, "the answer to a commit was lost; reading the result back");
    let ids = each(writes, |write| write.saga.id);
    let happened = lost_commit::ask_again(|| happened(pool, home, &ids, batch)).await?;
    if happened.is_empty() {
        return Err(Error::Unavailable(format!("nothing was written: {lost}")));
    }
    let wants: HashMap<Uuid, Wants> = writes.iter().map(|write| (write.saga.id, write.wants)).collect();
    let inputs = lost_commit::ask_again(|| inputs::of_home(pool, home, &happened)).await?;
    let mut found: HashMap<Uuid, Inputs> = inputs.into_iter().map(|i| (i.saga_id, i)).collect();
    let written = happened.into_iter().map(|saga_id| {
        let wants = wants.get(&saga_id).copied().unwrap_or_default();
        let all = found.remove(&saga_id);
        let (data, personal) = all.map(|all| (all.data, all.personal)).unwrap_or_default();
        let data = if wants.data { data } else { Default::default() };
        Inputs { saga_id, data, personal: personal.filter(|_| wants.personal) }
    });
    Ok(Committed { written: written.collect(), ..Committed::default() })
}

/// Returns the sagas that the batch has written. Locking the rows waits for a backend that may still be committing.
async fn happened(pool: &Pool, home: i16, ids: &[Uuid], batch: i64) -> Result<Vec<Uuid>, Error> {
    let ask = async {
        let mut tx = pool.begin().await?;
        sqlx::query("SET LOCAL lock_timeout = '2s'").execute(&mut *tx).await?;
        sqlx::query(
            "SELECT FROM sagas WHERE ($1::int2 IS NULL OR home = $1) AND id = ANY($2) ORDER BY id FOR UPDATE",
        )
        .bind(home)
        .bind(ids)
        .execute(&mut *tx)
        .await?;
        let written = sqlx::query_scalar(
            "SELECT DISTINCT saga_id FROM timeline
             WHERE ($1::int2 IS NULL OR home = $1) AND saga_id = ANY($2) AND batch = $3 ORDER BY saga_id",
        )
        .bind(home)
        .bind(ids)
        .bind(batch)
        .fetch_all(&mut *tx)
        .await?;
        tx.rollback().await?;
        Ok(written)
    };
    ask.await.map_err(error::of)
}
