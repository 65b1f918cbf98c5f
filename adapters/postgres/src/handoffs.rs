//! Table `publisher_handoffs`: slots whose owner has reached an entry that it cannot read. A program that can read it
//! publishes the slot from there on and moves the watermark past it; then the owner continues.

use amends_engine::core::{Known, Requires};
use amends_pool::Pool;

use crate::{
    Error,
    columns::{each, int, small},
    error,
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
    pool: Pool,
}

impl Handoffs {
    /// Creates it over this pool.
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Hands slots over; a slot that is already handed over stays so.
    ///
    /// # Errors
    /// The database's.
    pub async fn give(&self, handoffs: &[Handoff]) -> Result<(), Error> {
        let mut handoffs: Vec<&Handoff> = handoffs.iter().collect();
        handoffs.sort_by_key(|handoff| (handoff.slot, handoff.position));
        sqlx::query(
            "INSERT INTO publisher_handoffs (slot, position, workflow, workflow_version, core_version)
             SELECT * FROM UNNEST($1::int2[], $2::int8[], $3::text[], $4::int4[], $5::int2[])
             ON CONFLICT (slot, position) DO NOTHING",
        )
        .bind(each(&handoffs, |h| small(h.slot)))
        .bind(each(&handoffs, |h| h.position))
        .bind(each(&handoffs, |h| h.requires.workflow.as_str()))
        .bind(each(&handoffs, |h| int(h.requires.workflow_version)))
        .bind(each(&handoffs, |h| small(h.requires.core_version)))
        .execute(&self.pool)
        .await
        .map_err(error::of)?;
        Ok(())
    }

    /// Reads the slots and positions that a program with this knowledge can take over.
    ///
    /// # Errors
    /// The database's.
    pub async fn open(&self, known: &Known) -> Result<Vec<(u16, i64)>, Error> {
        let rows: Vec<(i16, i64)> = sqlx::query_as(
            "SELECT slot, position FROM publisher_handoffs
             WHERE workflow || '@' || workflow_version = ANY($1) AND core_version <= $2 ORDER BY slot, position",
        )
        .bind(each(&known.workflows, |(name, version)| format!("{name}@{version}")))
        .bind(small(known.core_version))
        .fetch_all(&self.pool)
        .await
        .map_err(error::of)?;
        Ok(rows
            .into_iter()
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
                 INSERT INTO publisher_watermarks (slot, position) SELECT $1, $3 WHERE $3 IS NOT NULL
                 ON CONFLICT (slot, position) DO NOTHING
             )
             DELETE FROM publisher_handoffs WHERE slot = $1 AND position = $2",
        )
        .bind(small(slot))
        .bind(position)
        .bind(reached)
        .execute(&self.pool)
        .await
        .map_err(error::of)?;
        Ok(())
    }
}
