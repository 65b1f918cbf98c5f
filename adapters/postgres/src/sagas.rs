//! Table `sagas`: a saga's row.

use std::{collections::BTreeMap, time::Duration};

use amends_engine::{
    core::{CORE_VERSION, Requires, STATE_VERSION, Saga, SagaOutcome, SagaProgress},
    port::{DueScan, DueShare, Loaded, Unreadable},
};
use amends_pool::{Pool, sqlstate};
use amends_protocol::{Reason, SLOTS};
use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, FromRow, Postgres, Row as _, postgres::PgArguments, query::Query};
use uuid::Uuid;

use crate::{
    Database, Error,
    columns::{each, int, small},
    error,
    homes::{Answers, answering_homes, answers_of_homes, each_home},
};

/// The newest format of `state`, in which this program writes.
pub(crate) const STATE: i16 = STATE_VERSION as i16;
/// The version of this program's core.
pub(crate) const CORE: i16 = CORE_VERSION as i16;

/// The columns of [`SagaRow`], of a table called `s`.
pub(crate) const COLUMNS: &str = "s.id, s.slot, s.business_key, s.workflow, s.workflow_version, s.core_version, \
     s.state_version, s.revision, s.label, s.heading_for, s.reason, s.outcome, s.parked, s.live, s.wake_at, s.step, \
     s.since, s.born_at, s.state";

/// A row as it is stored.
#[derive(Debug, FromRow)]
pub(crate) struct SagaRow {
    pub(crate) id: Uuid,
    slot: i16,
    business_key: String,
    workflow: String,
    workflow_version: i32,
    core_version: i16,
    state_version: i16,
    revision: i32,
    label: String,
    heading_for: Option<String>,
    reason: Option<String>,
    outcome: Option<String>,
    parked: bool,
    live: bool,
    wake_at: Option<DateTime<Utc>>,
    step: String,
    since: DateTime<Utc>,
    born_at: DateTime<Utc>,
    state: String,
}

impl SagaRow {
    /// Returns what a program must know to read the row.
    fn unreadable(&self) -> Unreadable {
        let version = |stored: i16| u16::try_from(stored).unwrap_or_default();
        Unreadable {
            saga_id: self.id,
            slot: u16::try_from(self.slot).unwrap_or_default(),
            requires: Requires {
                workflow: self.workflow.clone(),
                workflow_version: u32::try_from(self.workflow_version).unwrap_or_default(),
                core_version: version(self.core_version),
                state_version: version(self.state_version),
            },
        }
    }

    /// Returns the saga, or why this program cannot read it.
    pub(crate) fn read(self) -> Result<Saga, Error> {
        let unreadable = |why: String| Error::Unreadable(format!("saga {}: {why}", self.id));
        if self.core_version > CORE || self.state_version > STATE {
            return Err(unreadable("written by a newer program".to_owned()));
        }
        let state: SagaProgress = serde_json::from_str(&self.state).map_err(|e| unreadable(e.to_string()))?;
        let reason = self.reason.as_deref().map(serde_json::from_str::<Reason>).transpose();
        let reason = reason.map_err(|e| unreadable(e.to_string()))?;
        Ok(Saga {
            id: self.id,
            slot: u16::try_from(self.slot).map_err(|e| unreadable(e.to_string()))?,
            revision: u32::try_from(self.revision).map_err(|e| unreadable(e.to_string()))?,
            workflow_version: u32::try_from(self.workflow_version).map_err(|e| unreadable(e.to_string()))?,
            core_version: u16::try_from(self.core_version).map_err(|e| unreadable(e.to_string()))?,
            outcome: self.outcome.as_deref().map(outcome).transpose().map_err(unreadable)?,
            business_key: self.business_key,
            workflow: self.workflow,
            label: self.label,
            heading_for: self.heading_for,
            reason,
            parked: self.parked,
            live: self.live,
            wake_at: self.wake_at,
            step: self.step,
            since: self.since,
            born_at: self.born_at,
            state,
        })
    }
}

fn outcome(stored: &str) -> Result<SagaOutcome, String> {
    match stored {
        "completed" => Ok(SagaOutcome::Completed),
        "undone" => Ok(SagaOutcome::Undone),
        other => Err(format!("outcome {other}")),
    }
}

/// Returns the stored form of an outcome.
pub(crate) fn stored(outcome: SagaOutcome) -> &'static str {
    match outcome {
        SagaOutcome::Completed => "completed",
        SagaOutcome::Undone => "undone",
    }
}

/// Returns the stored form of a reason.
pub(crate) fn json(reason: &Reason) -> String {
    serde_json::to_string(reason).expect("a reason is two strings")
}

/// Builds a query for [`COLUMNS`] of the rows of a home, its first parameter, that `select` finds. Each row comes with
/// the database's time, `clock.now`; if nothing is found there is one row with the time alone.
fn timed(select: &str) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(AssertSqlSafe(format!(
        "WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now)
         SELECT clock.now, s.id IS NOT NULL AS found, {COLUMNS} FROM clock LEFT JOIN LATERAL ({select}) AS s ON true"
    )))
}

/// Runs the query. Unreadable rows are returned separately, so that they do not stop the others.
async fn fetch(pool: &Pool, query: Query<'_, Postgres, PgArguments>) -> Result<Loaded, Error> {
    let rows = query.fetch_all(pool).await.map_err(error::of)?;
    let first = rows.first().ok_or_else(|| Error::Unreadable("a clock without a row".to_owned()))?;
    let now = first.try_get("now").map_err(error::of)?;
    let (mut sagas, mut unreadable) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in &rows {
        if row.try_get("found").map_err(error::of)? {
            let row = SagaRow::from_row(row).map_err(error::of)?;
            let requires = row.unreadable();
            match row.read() {
                Ok(saga) => sagas.push(saga),
                Err(why) => {
                    metrics::counter!("amends_postgres_unreadable_rows_total").increment(1);
                    tracing::warn!(saga = %requires.saga_id, %why, "skipped a row that cannot be read");
                    unreadable.push(requires);
                }
            }
        }
    }
    Ok(Loaded { sagas, unreadable, unreachable: Vec::new(), now })
}

/// The homes to ask: if nothing is asked for, the first one, for the time.
fn asking<T>(mut parts: BTreeMap<i16, Vec<T>>) -> BTreeMap<i16, Vec<T>> {
    if parts.is_empty() {
        parts.insert(0, Vec::new());
    }
    parts
}

/// Joins what the homes have answered. The time is the earliest: what was due then is known everywhere.
fn joined(parts: Vec<Loaded>) -> Result<Loaded, Error> {
    let mut parts = parts.into_iter();
    let mut joined = parts.next().ok_or_else(|| Error::Unreadable("no home was asked".to_owned()))?;
    for Loaded { sagas, unreadable, now, .. } in parts {
        joined.sagas.extend(sagas);
        joined.unreadable.extend(unreadable);
        joined.now = joined.now.min(now);
    }
    Ok(joined)
}

/// Reads sagas by id. (`= ANY` would search every partition for each id.)
pub(crate) async fn load(Database { pool, homes, .. }: &Database, ids: &[Uuid]) -> Result<Loaded, Error> {
    let load = |home, ids: Vec<Uuid>| {
        let select = "SELECT s.* FROM UNNEST($2::uuid[]) AS w (id)
                      JOIN sagas AS s ON ($1::int2 IS NULL OR s.home = $1) AND s.id = w.id";
        fetch(pool, timed(select).bind(home).bind(ids))
    };
    let Answers { answers, failed } = answers_of_homes(*homes, asking(homes.divide_ids(ids)), load).await?;
    let unreachable = failed.into_iter().flat_map(|(ids, _)| ids).collect();
    let loaded = match answers.is_empty() {
        false => joined(answers)?,
        true => {
            let now = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(pool);
            let now = now.await.map_err(error::of)?;
            Loaded { sagas: Vec::new(), unreadable: Vec::new(), unreachable: Vec::new(), now }
        }
    };
    Ok(Loaded { unreachable, ..loaded })
}

/// Reads sagas that are due, the longest overdue first. A newer program's sagas are left to that program.
pub(crate) async fn due(Database { pool, homes, .. }: &Database, scan: &DueScan) -> Result<Loaded, Error> {
    let due = |home, slots: Vec<u16>| async move { due_home(pool, home, &slots, scan).await };
    let mut loaded = joined(answering_homes(asking(homes.divide_slots(&scan.slots)), due).await?)?;
    loaded.sagas.sort_by_key(|saga| saga.wake_at);
    loaded.sagas.truncate(scan.limit as usize);
    Ok(loaded)
}

async fn due_home(pool: &Pool, home: i16, slots: &[u16], scan: &DueScan) -> Result<Loaded, Error> {
    let query = timed(
        "SELECT * FROM sagas
         WHERE ($1::int2 IS NULL OR home = $1) AND live AND get_bit($2, slot) = 1 AND wake_at >= COALESCE($3, '-infinity')
           AND wake_at <= clock.now - make_interval(secs => $4) AND core_version <= $5 AND state_version <= $6
           AND workflow || '@' || workflow_version = ANY($7) AND id <> ALL($8) AND (step = ANY($10)) = $11
         ORDER BY wake_at LIMIT $9",
    );
    let (steps, at_them): (&[&str], bool) = match &scan.share {
        DueShare::All => (&[], false),
        DueShare::At(steps) => (steps, true),
        DueShare::NotAt(steps) => (steps, false),
    };
    let query = query
        .bind(home)
        .bind(mask(slots))
        .bind(scan.not_before)
        .bind(scan.overdue.as_secs_f64())
        .bind(small(scan.known.core_version))
        .bind(small(scan.known.state_version))
        .bind(each(&scan.known.workflows, |(name, version)| format!("{name}@{version}")))
        .bind(&scan.passed_over)
        .bind(i64::from(scan.limit))
        .bind(steps)
        .bind(at_them);
    fetch(pool, query).await
}

/// Reads live sagas that wake later than `beyond` from now, in the order of their `wake_at`.
pub(crate) async fn sleeping_beyond(
    Database { pool, homes, .. }: &Database,
    slots: &[u16],
    beyond: Duration,
    after: Option<(DateTime<Utc>, Uuid)>,
    limit: u32,
) -> Result<Loaded, Error> {
    let sleeping = |home, slots: Vec<u16>| {
        let query = timed(
            "SELECT * FROM sagas
             WHERE ($1::int2 IS NULL OR home = $1) AND live AND get_bit($2, slot) = 1
               AND wake_at > clock.now + make_interval(secs => $3)
               AND wake_at >= COALESCE($4, '-infinity') AND (wake_at, id) > (COALESCE($4, '-infinity'), $5)
               AND core_version <= $6 AND state_version <= $7
             ORDER BY wake_at, id LIMIT $8",
        );
        let query = query
            .bind(home)
            .bind(mask(&slots))
            .bind(beyond.as_secs_f64())
            .bind(after.map(|(at, _)| at))
            .bind(after.map_or_else(Uuid::nil, |(_, id)| id))
            .bind(CORE)
            .bind(STATE)
            .bind(i64::from(limit));
        fetch(pool, query)
    };
    let mut loaded = joined(each_home(asking(homes.divide_slots(slots)), sleeping).await?)?;
    loaded.sagas.sort_by_key(|saga| (saga.wake_at, saga.id));
    loaded.sagas.truncate(limit as usize);
    Ok(loaded)
}

/// Reads live sagas that changed within `within`: no other saga can have issued a command since.
pub(crate) async fn in_flight(
    Database { pool, homes, .. }: &Database,
    slots: &[u16],
    within: Duration,
    after: Option<Uuid>,
    limit: u32,
) -> Result<Loaded, Error> {
    let in_flight = |home, slots: Vec<u16>| {
        let query = timed(
            "SELECT * FROM sagas
             WHERE ($1::int2 IS NULL OR home = $1) AND live AND get_bit($2, slot) = 1
               AND updated_at >= clock.now - make_interval(secs => $3) AND id > $4
             ORDER BY id LIMIT $5",
        );
        let query = query
            .bind(home)
            .bind(mask(&slots))
            .bind(within.as_secs_f64())
            .bind(after.unwrap_or_else(Uuid::nil))
            .bind(i64::from(limit));
        fetch(pool, query)
    };
    let mut loaded = joined(answering_homes(asking(homes.divide_slots(slots)), in_flight).await?)?;
    loaded.sagas.sort_by_key(|saga| saga.id);
    loaded.sagas.truncate(limit as usize);
    Ok(loaded)
}

/// Sets `wake_at` of sagas that still have the revision that was read. Returns those that another transaction holds.
pub(crate) async fn reschedule(
    database: &Database,
    sagas: &[(Uuid, u32, Option<DateTime<Utc>>)],
) -> Result<Vec<Uuid>, Error> {
    let homes = database.homes;
    let mut sagas: Vec<_> = sagas.to_vec();
    sagas.sort_by_key(|(id, ..)| *id);
    let parts = homes.divide(sagas, |(id, ..)| homes.of(*id));
    let locked = answering_homes(parts, |home, sagas| reschedule_home(database, home, sagas)).await?;
    Ok(locked.into_iter().flatten().collect())
}

async fn reschedule_home(
    Database { pool, epoch, .. }: &Database,
    home: i16,
    sagas: Vec<(Uuid, u32, Option<DateTime<Utc>>)>,
) -> Result<Vec<Uuid>, Error> {
    let run = |statement: &'static str| {
        sqlx::query_scalar(statement)
            .bind(home)
            .bind(each(&sagas, |(id, ..)| *id))
            .bind(each(&sagas, |(_, revision, _)| int(*revision)))
            .bind(each(&sagas, |(.., wake_at)| *wake_at))
            .bind(int(*epoch))
            .fetch_all(pool)
    };
    match run(RESCHEDULE).await {
        Err(error) if sqlstate::is_locked(&error) => run(RESCHEDULE_WHAT_IS_FREE).await,
        done => done,
    }
    .map_err(error::of)
}

const RESCHEDULE: &str = "WITH done AS (
         UPDATE sagas AS s SET wake_at = w.wake_at
         FROM UNNEST($2::uuid[], $3::int4[], $4::timestamptz[]) AS w (id, revision, wake_at)
         WHERE ($1::int2 IS NULL OR s.home = $1) AND s.id = w.id AND s.revision = w.revision AND is_epoch($5))
     SELECT NULL::uuid WHERE false";
const RESCHEDULE_WHAT_IS_FREE: &str = "WITH w AS MATERIALIZED (
         SELECT * FROM UNNEST($2::uuid[], $3::int4[], $4::timestamptz[]) AS w (id, revision, wake_at)
     ), free AS MATERIALIZED (
         SELECT s.id FROM w JOIN sagas AS s ON ($1::int2 IS NULL OR s.home = $1) AND s.id = w.id
         WHERE s.revision = w.revision FOR UPDATE OF s SKIP LOCKED
     ), done AS (
         UPDATE sagas AS s SET wake_at = w.wake_at FROM w
         WHERE ($1::int2 IS NULL OR s.home = $1) AND s.id = w.id AND s.revision = w.revision
           AND w.id IN (SELECT id FROM free) AND is_epoch($5)
     )
     SELECT w.id FROM w JOIN sagas AS s ON ($1::int2 IS NULL OR s.home = $1) AND s.id = w.id AND s.revision = w.revision
     WHERE (w.id IN (SELECT id FROM free)) IS NOT TRUE";

/// Returns one bit per slot: hundreds of slots are then looked up as cheaply as one.
pub(crate) fn mask(slots: &[u16]) -> Vec<u8> {
    let mut mask = vec![0; usize::from(SLOTS) / 8];
    for slot in slots.iter().map(|slot| usize::from(slot % SLOTS)) {
        mask[slot / 8] |= 1 << (slot % 8);
    }
    mask
}
