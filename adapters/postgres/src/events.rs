//! The timeline in order, for the publisher of domain events.

use std::collections::{BTreeMap, HashSet};

use amends_engine::core::Entry;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use crate::{Error, error, sagas, timeline};

/// An entry that has not been published.
#[derive(Debug, Clone, PartialEq)]
pub struct Unpublished {
    /// Its place in its slot; to be given to [`EventLog::advance`].
    pub position: i64,
    /// Its saga's home.
    pub slot: u16,
    /// Its saga.
    pub saga_id: Uuid,
    /// What the saga is about.
    pub business_key: String,
    /// Name of its workflow.
    pub workflow: String,
    /// Version of its workflow.
    pub workflow_version: u32,
    /// What happened, when, and what was decided; `did.label` is the new label where it changed.
    pub entry: Entry,
}

/// The timeline, slot by slot.
#[derive(Debug, Clone)]
pub struct EventLog {
    pool: PgPool,
}

impl EventLog {
    /// Over these connections.
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Reads entries past the watermarks of these slots, at most `limit`, in the order of their positions. None is
    /// skipped: within a slot positions are in the order of commits. If there are more, those of the first slots
    /// come first: whoever is behind gives each slot its turn.
    ///
    /// # Errors
    /// The database's.
    pub async fn unpublished(&self, slots: &[u16], limit: u32) -> Result<Vec<Unpublished>, Error> {
        let mut rows: Vec<Row> = sqlx::query_as(
            "SELECT t.position, t.slot, t.saga_id, s.business_key, s.workflow, s.workflow_version, t.revision, t.at,
                    t.body::text AS body
             FROM (SELECT t.*
                   FROM UNNEST($1::int2[]) AS own (slot)
                   LEFT JOIN publisher_watermarks AS w ON w.slot = own.slot
                   CROSS JOIN LATERAL (SELECT * FROM timeline AS t
                                       WHERE t.slot = own.slot AND t.position > COALESCE(w.position, 0)
                                       ORDER BY t.position LIMIT $2) AS t
                   LIMIT $2) AS t
             JOIN sagas AS s ON s.id = t.saga_id",
        )
        .bind(sagas::each(slots, |slot| sagas::small(*slot)))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(error::of)?;
        rows.sort_by_key(|row| row.position);
        let (mut entries, mut stopped) = (Vec::with_capacity(rows.len()), HashSet::new());
        for row in rows {
            let slot = row.slot;
            if stopped.contains(&slot) {
                continue;
            }
            match row.read() {
                Ok(entry) => entries.push(entry),
                Err(why) => {
                    // A newer program's, most likely, and left to that program: nothing may be skipped.
                    tracing::warn!(slot, %why, "stopped before an entry that cannot be read");
                    stopped.insert(slot);
                }
            }
        }
        Ok(entries)
    }

    /// The last position that was drawn, by whomever; cheap. As long as it stays the same, a look can find only what
    /// was drawn before the last look and is committed late.
    ///
    /// # Errors
    /// The database's.
    pub async fn last_position(&self) -> Result<i64, Error> {
        sqlx::query_scalar("SELECT last_value FROM timeline_position")
            .fetch_one(&self.pool)
            .await
            .map_err(error::of)
    }

    /// Moves watermarks on to these positions; never back.
    ///
    /// # Errors
    /// The database's.
    pub async fn advance(&self, watermarks: &[(u16, i64)]) -> Result<(), Error> {
        let furthest: BTreeMap<u16, i64> =
            watermarks.iter().fold(BTreeMap::new(), |mut furthest, (slot, position)| {
                let reached = furthest.entry(*slot).or_insert(*position);
                *reached = (*reached).max(*position);
                furthest
            });
        sqlx::query(
            "INSERT INTO publisher_watermarks AS w (slot, position)
             SELECT * FROM UNNEST($1::int2[], $2::int8[])
             ON CONFLICT (slot) DO UPDATE SET position = EXCLUDED.position WHERE w.position < EXCLUDED.position",
        )
        .bind(furthest.keys().map(|slot| sagas::small(*slot)).collect::<Vec<_>>())
        .bind(furthest.values().copied().collect::<Vec<_>>())
        .execute(&self.pool)
        .await
        .map_err(error::of)?;
        Ok(())
    }
}

/// An entry as it is stored.
#[derive(FromRow)]
struct Row {
    position: i64,
    slot: i16,
    business_key: String,
    workflow: String,
    workflow_version: i32,
    #[sqlx(flatten)]
    entry: timeline::Row,
}

impl Row {
    fn read(self) -> Result<Unpublished, Error> {
        Ok(Unpublished {
            position: self.position,
            slot: u16::try_from(self.slot).unwrap_or_default(),
            saga_id: self.entry.saga_id,
            business_key: self.business_key,
            workflow: self.workflow,
            workflow_version: u32::try_from(self.workflow_version).unwrap_or_default(),
            entry: self.entry.read()?,
        })
    }
}
