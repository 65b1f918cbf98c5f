//! Commits a batch of writes: one statement, one transaction, one round trip.

use std::collections::HashMap;

use amends_engine::{
    core::{Entry, state_version},
    port::{Committed, Inputs, Wants, Write},
};
use amends_pool::{Connection, Pool, sqlstate};
use sqlx::FromRow;
use uuid::Uuid;

use crate::{
    Error,
    columns::{each, int, small},
    error,
    held::Held,
    inputs::{self, InputsRow},
    lost_commit,
    sagas::{json, stored},
    timeline,
};

/// The batch as the columns of a table function.
macro_rules! batch {
    () => {
        "UNNEST($1::uuid[], $2::int4[], $3::int4[], $4::text[], $5::text[], $6::text[], $7::text[], $8::int2[],
                $9::timestamptz[], $10::text[], $11::timestamptz[], $12::timestamptz[], $13::int2[], $14::int2[],
                $22::text[])
             AS w (id, read_revision, revision, label, heading_for, reason, outcome, flags, wake_at, step, since,
                   updated_at, core_version, state_version, state)"
    };
}
/// The assignments of an update.
macro_rules! next_row {
    () => {
        "revision = w.revision, label = w.label, heading_for = w.heading_for, reason = w.reason, outcome = w.outcome,
         parked = w.flags & 1 <> 0, live = w.flags & 2 <> 0, wake_at = w.wake_at, step = w.step, since = w.since,
         updated_at = w.updated_at, state = w.state, core_version = w.core_version, state_version = w.state_version,
         stuck_at = CASE WHEN s.since = w.since AND s.step = w.step THEN s.stuck_at END"
    };
}
/// Entries of the rows that were written, numbered while the slots of this relation are locked.
macro_rules! appended {
    ($locked:literal) => {
        concat!(
            "INSERT INTO timeline (saga_id, slot, revision, at, body, batch)
             SELECT e.saga_id, e.slot, e.revision, e.at, e.body, $16
             FROM (SELECT count(*) FROM ",
            $locked,
            ") AS held, UNNEST($17::uuid[], $18::int2[], $19::int4[], $20::timestamptz[], $21::text[])
                 AS e (saga_id, slot, revision, at, body)
             WHERE (e.saga_id IN (SELECT id FROM written)) IS TRUE"
        )
    };
}
/// The requested input of the rows that were written.
macro_rules! wanted {
    () => {
        concat!(
            "CASE WHEN flags & 4 <> 0 THEN (SELECT ",
            inputs::input!(),
            " FROM timeline WHERE saga_id = written.id AND revision = 1) END AS data,
             CASE WHEN flags & 8 <> 0 THEN (SELECT data FROM personal WHERE saga_id = written.id) END AS personal"
        )
    };
}

/// Updates rows that still have the revision that was read, in the given order (by id, so that batches cannot
/// deadlock). Only then are their slots locked, and then their entries are numbered and appended. Each part reads the
/// one before it, and that fixes their order. `IN (…) IS TRUE` keeps the entries in order, where a join would not.
const COMMIT: &str = concat!(
    "WITH written AS (
        UPDATE sagas AS s SET ",
    next_row!(),
    " FROM ",
    batch!(),
    " WHERE s.id = w.id AND s.revision = w.read_revision
        RETURNING s.id, s.slot, w.flags
    ), locked AS MATERIALIZED (
        SELECT pg_advisory_xact_lock($15, slot) FROM (SELECT DISTINCT slot::int4 FROM written ORDER BY 1) AS slots
    ), appended AS (",
    appended!("locked"),
    ") SELECT id AS saga_id, false AS locked, ",
    wanted!(),
    " FROM written"
);

/// The same without waiting: a row that another transaction holds, or whose slot is held, is passed over and reported
/// as locked.
const COMMIT_WHAT_IS_FREE: &str = concat!(
    "WITH w AS MATERIALIZED (SELECT * FROM ",
    batch!(),
    "), free AS MATERIALIZED (
        SELECT s.id, s.slot FROM w JOIN sagas AS s ON s.id = w.id WHERE s.revision = w.read_revision
        FOR UPDATE OF s SKIP LOCKED
    ), locked AS MATERIALIZED (
        SELECT slot FROM (SELECT DISTINCT slot FROM free ORDER BY 1) AS slots
        WHERE pg_try_advisory_xact_lock($15, slot::int4)
    ), written AS (
        UPDATE sagas AS s SET ",
    next_row!(),
    " FROM w WHERE s.id = w.id AND s.revision = w.read_revision
            AND w.id IN (SELECT free.id FROM free JOIN locked ON locked.slot = free.slot)
        RETURNING s.id, s.slot, w.flags
    ), appended AS (",
    appended!("locked"),
    ") SELECT id AS saga_id, false AS locked, ",
    wanted!(),
    " FROM written
     UNION ALL
     SELECT w.id, true, NULL, NULL FROM w JOIN sagas AS s ON s.id = w.id AND s.revision = w.read_revision
     WHERE (w.id IN (SELECT id FROM written)) IS NOT TRUE"
);

/// Writes a batch. If another transaction holds a row, the statement waits as long as the connection's lock timeout
/// (`amends_pool`), and then passes the row over. A batch with a row that was passed over recently does not wait at
/// all.
pub(crate) async fn commit(pool: &Pool, held: &Held, writes: &[Write]) -> Result<Committed, Error> {
    if writes.is_empty() {
        return Ok(Committed::default());
    }
    let mut writes: Vec<&Write> = writes.iter().collect();
    writes.sort_by_key(|write| write.saga.id);
    let batch = timeline::new_batch();
    let mut statement = if held.has_any(&writes) { COMMIT_WHAT_IS_FREE } else { COMMIT };
    let mut connection = pool.acquire().await.map_err(error::of)?;
    loop {
        match run(&mut connection, statement, &writes, batch).await {
            Ok(rows) => {
                drop(connection);
                return committed(rows, held, &writes);
            }
            Err(error) if sqlstate::is_locked(&error) && statement == COMMIT => {
                tracing::warn!(
                    sagas = writes.len(),
                    "another transaction holds a saga's row or slot; passing over it"
                );
                statement = COMMIT_WHAT_IS_FREE;
            }
            Err(error) if sqlstate::leaves_open(&error) => {
                connection.distrust();
                drop(connection);
                return read_back(pool, &writes, batch, &error).await;
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

fn committed(rows: Vec<CommittedRow>, held: &Held, writes: &[&Write]) -> Result<Committed, Error> {
    let (locked, written): (Vec<CommittedRow>, Vec<CommittedRow>) =
        rows.into_iter().partition(|row| row.locked);
    let locked = each(&locked, |row| row.inputs.saga_id);
    held.note(&locked, writes);
    let written = written.into_iter().map(|row| row.inputs.read()).collect::<Result<_, _>>()?;
    Ok(Committed { written, locked })
}

async fn run(
    connection: &mut Connection,
    statement: &'static str,
    writes: &[&Write],
    batch: i64,
) -> Result<Vec<CommittedRow>, sqlx::Error> {
    let entries: Vec<(&Write, &Entry)> =
        writes.iter().flat_map(|write| write.entries.iter().map(|entry| (*write, entry))).collect();
    let updated_at = |write: &Write| write.entries.last().map(|entry| entry.occurrence.at);
    // The result is read to its end: an error at commit is reported after the last row.
    sqlx::query_as(statement)
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
        .bind(timeline::LOCK)
        .bind(batch)
        .bind(each(&entries, |(w, _)| w.saga.id))
        .bind(each(&entries, |(w, _)| small(w.saga.slot)))
        .bind(each(&entries, |(_, entry)| int(entry.revision)))
        .bind(each(&entries, |(_, entry)| entry.occurrence.at))
        .bind(each(&entries, |(_, entry)| entry.body()))
        .bind(each(writes, |w| w.saga.state.to_json()))
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
    writes: &[&Write],
    batch: i64,
    lost: &sqlx::Error,
) -> Result<Committed, Error> {
    metrics::counter!("amends_postgres_commits_read_back_total").increment(1);
    tracing::warn!(%lost, "the answer to a commit was lost; reading the result back");
    let ids = each(writes, |write| write.saga.id);
    let happened = lost_commit::ask_again(|| happened(pool, &ids, batch)).await?;
    if happened.is_empty() {
        return Err(Error::Unavailable(format!("nothing was written: {lost}")));
    }
    let wants: HashMap<Uuid, Wants> = writes.iter().map(|write| (write.saga.id, write.wants)).collect();
    let inputs = lost_commit::ask_again(|| inputs::of(pool, &happened)).await?;
    let mut found: HashMap<Uuid, Inputs> = inputs.into_iter().map(|i| (i.saga_id, i)).collect();
    let written = happened.into_iter().map(|saga_id| {
        let wants = wants.get(&saga_id).copied().unwrap_or_default();
        let all = found.remove(&saga_id);
        let (data, personal) = all.map(|all| (all.data, all.personal)).unwrap_or_default();
        let data = if wants.data { data } else { Default::default() };
        Inputs { saga_id, data, personal: personal.filter(|_| wants.personal) }
    });
    Ok(Committed { written: written.collect(), locked: Vec::new() })
}

/// Returns the sagas that the batch has written. Locking the rows waits for a backend that may still be committing.
async fn happened(pool: &Pool, ids: &[Uuid], batch: i64) -> Result<Vec<Uuid>, Error> {
    let ask = async {
        let mut tx = pool.begin().await?;
        sqlx::query("SET LOCAL lock_timeout = '2s'").execute(&mut *tx).await?;
        sqlx::query("SELECT FROM sagas WHERE id = ANY($1) ORDER BY id FOR UPDATE")
            .bind(ids)
            .execute(&mut *tx)
            .await?;
        let written = sqlx::query_scalar(
            "SELECT DISTINCT saga_id FROM timeline WHERE saga_id = ANY($1) AND batch = $2 ORDER BY saga_id",
        )
        .bind(ids)
        .bind(batch)
        .fetch_all(&mut *tx)
        .await?;
        tx.rollback().await?;
        Ok(written)
    };
    ask.await.map_err(error::of)
}
