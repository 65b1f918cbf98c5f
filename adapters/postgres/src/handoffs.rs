//! Table `publisher_handoffs`: slots whose owner has reached an entry that it cannot read. A program that can read it
//! publishes the slot from there on and moves the watermark past it; then the owner continues.

use amends_engine::core::{Known, Requires};
use amends_pool::Pool;

use crate::{
    Database, Error,
    columns::{each, int, small},
    error,
    homes::{answering_homes, each_home},
};

/// A slot, the position of the first entry that its owner cannot read, and what a program must know to read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handoff {
    /// The slot.
    pub slot: u16,
    /// The position.
    pub position: i64,
    /// What a program must know.
    pub requires: Requires,
}

/// The slots that are handed over.
#[derive(Debug, Clone)]
pub struct Handoffs {
    database: Database,
}

impl Handoffs {
    /// Creates it over this database.
    pub fn new(database: impl Into<Database>) -> Self {
        Self { database: database.into() }
    }

    /// Hands slots over; a slot that is already handed over stays so.
    ///
    /// # Errors
    /// The database's.
    pub async fn give(&self, handoffs: &[Handoff]) -> Result<(), Error> {
        let mut handoffs: Vec<&Handoff> = handoffs.iter().collect();
        handoffs.sort_by_key(|handoff| (handoff.slot, handoff.position));
        let Database { pool, homes, .. } = &self.database;
        let parts = homes.divide(handoffs, |handoff| homes.of_slot(handoff.slot));
        each_home(parts, |home, handoffs| give_home(pool, home, handoffs)).await?;
        Ok(())
    }

    /// Reads the slots and positions that a program with this knowledge can take over.
    ///
    /// # Errors
    /// The database's.
    pub async fn open(&self, known: &Known) -> Result<Vec<(u16, i64)>, Error> {
        let Database { pool, homes, .. } = &self.database;
        let all = homes.all().map(|home| (home, ()));
        let rows = answering_homes(all, |home, ()| open_home(pool, home, known)).await?;
        Ok(rows
            .into_iter()
            .flatten()
            .map(|(slot, position)| (u16::try_from(slot).unwrap_or_default(), position))
            .collect())
    }

    /// Records that a slot is published from this position up to `reached`; its owner continues from there.
    ///
    /// # Errors
    /// The database's; the entries are then published again.
    pub async fn settle(&self, slot: u16, position: i64, reached: Option<i64>) -> Result<(), Error> {
        sqlx::query(
            "WITH reached AS (
                 INSERT INTO publisher_watermarks (home, slot, position) SELECT $1, $2, $4 WHERE $4 IS NOT NULL AND is_epoch($5)
                 ON CONFLICT (slot, position, home) DO NOTHING
             )
             DELETE FROM publisher_handoffs WHERE ($1::int2 IS NULL OR home = $1) AND slot = $2 AND position = $3",
        )
        .bind(self.database.homes.of_slot(slot))
        .bind(small(slot))
        .bind(position)
        .bind(reached)
        .bind(int(self.database.epoch))
        .execute(&self.database.pool)
        .await
        .map_err(error::of)?;
        Ok(())
    }
}

async fn give_home(pool: &Pool, home: i16, handoffs: Vec<&Handoff>) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO publisher_handoffs (home, slot, position, workflow, workflow_version, core_version)
         SELECT $1, w.* FROM UNNEST($2::int2[], $3::int8[], $4::text[], $5::int4[], $6::int2[]) AS w
         ON CONFLICT (slot, position, home) DO NOTHING",
    )
    .bind(home)
    .bind(each(&handoffs, |h| small(h.slot)))
    .bind(each(&handoffs, |h| h.position))
    .bind(each(&handoffs, |h| h.requires.workflow.as_str()))
    .bind(each(&handoffs, |h| int(h.requires.workflow_version)))
    .bind(each(&handoffs, |h| small(h.requires.core_version)))
    .execute(pool)
    .await
    .map_err(error::of)?;
    Ok(())
}

async fn open_home(pool: &Pool, home: i16, known: &Known) -> Result<Vec<(i16, i64)>, Error> {
    sqlx::query_as(
        "SELECT slot, position FROM publisher_handoffs
         WHERE ($1::int2 IS NULL OR home = $1) AND workflow || '@' || workflow_version = ANY($2) AND core_version <= $3
         ORDER BY slot, position",
    )
    .bind(home)
    .bind(each(&known.workflows, |(name, version)| format!("{name}@{version}")))
    .bind(small(known.core_version))
    .fetch_all(pool)
    .await
    .map_err(error::of)
}
