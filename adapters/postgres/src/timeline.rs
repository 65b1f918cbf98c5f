//! Table `timeline`: the history of each saga.

use amends_engine::core::Entry;
use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use crate::{Database, Error, error};

/// Returns a number for a batch. Its entries are found by it if the answer to the commit is lost.
pub fn new_batch() -> i64 {
    Uuid::new_v4().as_u64_pair().0.cast_signed()
}

/// An entry as it is stored.
#[derive(Debug, FromRow)]
pub struct EntryRow {
    pub(crate) saga_id: Uuid,
    revision: i32,
    at: DateTime<Utc>,
    body: String,
}

impl EntryRow {
    /// Returns the version of the rules that decided the entry, even if the rest cannot be read.
    pub(crate) fn core_version(&self) -> u16 {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        body["core"].as_u64().and_then(|core| u16::try_from(core).ok()).unwrap_or(1)
    }

    /// Returns the entry.
    ///
    /// # Errors
    /// [`Error::Unreadable`]: this program cannot read it.
    pub fn read(&self) -> Result<Entry, Error> {
        let revision = u32::try_from(self.revision).unwrap_or_default();
        Entry::from_stored(revision, self.at, &self.body)
            .map_err(|why| Error::Unreadable(format!("entry {revision} of saga {}: {why}", self.saga_id)))
    }
}

/// Reads a saga's timeline, from its birth on.
///
/// # Errors
/// The database's, or an entry of a newer program.
pub async fn of(Database { pool, homes, .. }: &Database, saga_id: Uuid) -> Result<Vec<Entry>, Error> {
    rows(pool, homes.of(saga_id), saga_id).await.map_err(error::of)?.iter().map(EntryRow::read).collect()
}

/// An entry of one of several sagas.
#[derive(Debug, Clone, PartialEq)]
pub struct SagaEntry {
    /// The saga.
    pub saga_id: Uuid,
    /// The entry.
    pub entry: Entry,
}

/// Reads the timelines of sagas that share a slot, in the order in which their entries were committed.
///
/// # Errors
/// The database's, or an entry of a newer program.
pub async fn of_several(
    Database { pool, homes, .. }: &Database,
    sagas: &[Uuid],
) -> Result<Vec<SagaEntry>, Error> {
    let Some(first) = sagas.first() else { return Ok(Vec::new()) };
    let rows: Vec<EntryRow> = sqlx::query_as(
        "SELECT saga_id, revision, at, body FROM timeline
         WHERE ($1::int2 IS NULL OR home = $1) AND saga_id = ANY($2) ORDER BY position",
    )
    .bind(homes.of(*first))
    .bind(sagas)
    .fetch_all(pool)
    .await
    .map_err(error::of)?;
    rows.iter().map(|row| Ok(SagaEntry { saga_id: row.saga_id, entry: row.read()? })).collect()
}

/// Reads the same rows without parsing them.
pub(crate) async fn rows(
    executor: impl PgExecutor<'_>,
    home: i16,
    saga_id: Uuid,
) -> Result<Vec<EntryRow>, sqlx::Error> {
    sqlx::query_as(
        "SELECT saga_id, revision, at, body FROM timeline
         WHERE ($1::int2 IS NULL OR home = $1) AND saga_id = $2 ORDER BY revision",
    )
    .bind(home)
    .bind(saga_id)
    .fetch_all(executor)
    .await
}
