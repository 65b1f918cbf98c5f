//! Reads the timeline in order, for the publisher of domain events.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use amends_engine::core::{Entry, Known, Requires};
use amends_pool::Pool;
use amends_protocol::trace::TraceContext;
use sqlx::FromRow;
use uuid::Uuid;

use crate::{
    Database, Error,
    columns::{each, small},
    error,
    handoffs::Handoff,
    homes::{answering_homes, each_home},
    timeline,
};

/// A timeline entry that has not been published.
#[derive(Debug, Clone, PartialEq)]
pub struct Unpublished {
    /// Position in its slot.
    pub position: i64,
    /// The saga's slot.
    pub slot: u16,
    /// Its saga.
    pub saga_id: Uuid,
    /// The saga's business key.
    pub business_key: String,
    /// Name of the workflow.
    pub workflow: String,
    /// Version of the workflow.
    pub workflow_version: u32,
    /// The span of the request that the saga was born of, if it is known.
    pub trace: Option<TraceContext>,
    /// The entry; `did.label` is the new label if it changed.
    pub entry: Entry,
}

/// The result of a read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Read {
    /// The entries, ordered by position.
    pub entries: Vec<Unpublished>,
    /// Slots with further entries that this program cannot read.
    pub stopped: Vec<Handoff>,
}

/// The timeline, by slot.
#[derive(Debug, Clone)]
pub struct EventLog {
    database: Database,
    /// Immutable properties of recently read sagas.
    names: Arc<Mutex<HashMap<Uuid, Name>>>,
}

/// Immutable properties of a saga.
#[derive(Debug, Clone, FromRow)]
struct Name {
    business_key: String,
    workflow: String,
    workflow_version: i32,
    trace: Option<String>,
}

/// Number of sagas remembered: a saga's entries follow each other within seconds.
const NAMES_REMEMBERED: usize = 50_000;

impl EventLog {
    /// Creates it over this database.
    pub fn new(database: impl Into<Database>) -> Self {
        Self { database: database.into(), names: Arc::default() }
    }

    /// Reads entries of these slots past these positions, at most `limit`, ordered by position. None is skipped: within
    /// a slot positions follow the order of commits. If there are more entries, those of some slots come first; a caller
    /// that is behind must give each slot its turn. Slots whose home does not answer are left out. In a slot it reads
    /// nothing past an entry that a program with `known` cannot read.
    ///
    /// # Errors
    /// The database's.
    pub async fn unpublished(
        &self,
        watermarks: &[(u16, i64)],
        limit: u32,
        known: &Known,
    ) -> Result<Read, Error> {
        let Database { pool, homes, .. } = &self.database;
        let parts = homes.divide(watermarks.iter().copied(), |(slot, _)| homes.of_slot(*slot));
        let read = |home, watermarks| rows_of_home(pool, home, watermarks, limit);
        let mut rows: Vec<EventRow> =
            answering_homes(parts, read).await?.into_iter().flatten().take(limit as usize).collect();
        rows.sort_by_key(|row| row.position);
        let names = self.names(&rows).await?;
        let (mut read, mut stopped) = (Read::default(), HashSet::new());
        for row in rows {
            let slot = row.slot;
            if stopped.contains(&slot) {
                continue;
            }
            let Some(name) = names.get(&row.entry.saga_id) else {
                // The month of the saga was dropped after the entries were read. The other entries are published.
                tracing::warn!(slot, saga = %row.entry.saga_id, "skipped an entry whose saga no longer exists");
                continue;
            };
            let version = u32::try_from(name.workflow_version).unwrap_or_default();
            let entry = known.knows(&name.workflow, version).then(|| row.read(name.clone()));
            if let Some(Ok(entry)) = entry {
                read.entries.push(entry);
                continue;
            }
            if let Some(Err(why)) = entry {
                let saga = row.entry.saga_id;
                tracing::warn!(slot, %saga, %why, "cannot read an entry; the slot is not published beyond it");
            }
            stopped.insert(slot);
            let requires = Requires {
                workflow: name.workflow.clone(),
                workflow_version: version,
                core_version: row.entry.core_version(),
                state_version: 0,
            };
            let slot = u16::try_from(slot).unwrap_or_default();
            read.stopped.push(Handoff { slot, position: row.position, requires });
        }
        Ok(read)
    }

    /// Returns the properties of these entries' sagas; most are remembered.
    async fn names(&self, rows: &[EventRow]) -> Result<HashMap<Uuid, Name>, Error> {
        let remembered = || self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names = HashMap::new();
        let mut unknown = BTreeSet::new();
        {
            let known = remembered();
            for id in rows.iter().map(|row| row.entry.saga_id) {
                match known.get(&id) {
                    Some(name) => _ = names.insert(id, name.clone()),
                    None => _ = unknown.insert(id),
                }
            }
        }
        if unknown.is_empty() {
            return Ok(names);
        }
        let Database { pool, homes, .. } = &self.database;
        let unknown: Vec<Uuid> = unknown.into_iter().collect();
        let found = each_home(homes.divide_ids(&unknown), |home, ids| names_of_home(pool, home, ids)).await?;
        let found: Vec<Named> = found.into_iter().flatten().collect();
        let mut known = remembered();
        if known.len() + found.len() > NAMES_REMEMBERED {
            known.clear();
        }
        for Named { id, name } in found {
            known.insert(id, name.clone());
            names.insert(id, name);
        }
        Ok(names)
    }
}

/// Reads the next entries of a home's slots past these positions.
async fn rows_of_home(
    pool: &Pool,
    home: i16,
    watermarks: Vec<(u16, i64)>,
    limit: u32,
) -> Result<Vec<EventRow>, Error> {
    sqlx::query_as(
        "SELECT t.position, t.slot, t.saga_id, t.revision, t.at, t.body
         FROM UNNEST($2::int2[], $3::int8[]) AS w (slot, position)
         CROSS JOIN LATERAL (SELECT * FROM timeline AS t
                             WHERE ($1::int2 IS NULL OR t.home = $1) AND t.slot = w.slot AND t.position > w.position
                             ORDER BY t.position LIMIT $4) AS t
         LIMIT $4",
    )
    .bind(home)
    .bind(each(&watermarks, |(slot, _)| small(*slot)))
    .bind(each(&watermarks, |(_, position)| *position))
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await
    .map_err(error::of)
}

async fn names_of_home(pool: &Pool, home: i16, ids: Vec<Uuid>) -> Result<Vec<Named>, Error> {
    sqlx::query_as(
        // Few states are parsed: most sagas have no trace.
        "SELECT s.id, s.business_key, s.workflow, s.workflow_version,
                CASE WHEN s.state LIKE '%\"trace\":%' THEN s.state::json ->> 'trace' END AS trace
         FROM UNNEST($2::uuid[]) AS w (id) JOIN sagas AS s ON ($1::int2 IS NULL OR s.home = $1) AND s.id = w.id",
    )
    .bind(home)
    .bind(ids)
    .fetch_all(pool)
    .await
    .map_err(error::of)
}

/// A saga with its immutable properties.
#[derive(FromRow)]
struct Named {
    id: Uuid,
    #[sqlx(flatten)]
    name: Name,
}

/// An entry as it is stored.
#[derive(FromRow)]
struct EventRow {
    position: i64,
    slot: i16,
    #[sqlx(flatten)]
    entry: timeline::EntryRow,
}

impl EventRow {
    fn read(&self, name: Name) -> Result<Unpublished, Error> {
        Ok(Unpublished {
            position: self.position,
            slot: u16::try_from(self.slot).unwrap_or_default(),
            saga_id: self.entry.saga_id,
            business_key: name.business_key,
            workflow: name.workflow,
            workflow_version: u32::try_from(name.workflow_version).unwrap_or_default(),
            trace: name.trace.and_then(|trace| trace.parse().ok()),
            entry: self.entry.read()?,
        })
    }
}
