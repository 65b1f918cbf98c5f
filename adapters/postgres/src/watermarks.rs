//! Table `publisher_watermarks`: how far the domain events of each slot are published.
//!
//! A publisher keeps its slots' watermarks in memory and stores them from time to time; its successor publishes again
//! what was published since. A new position is a new row, and the old row is deleted by its key: while a forgotten
//! transaction holds a snapshot, a row that is updated again and again accumulates dead versions.

use std::collections::{BTreeMap, BTreeSet};

use amends_pool::Pool;
use sqlx::FromRow;

use crate::{
    Error,
    columns::{each, small},
    error,
};

/// The watermarks of a publisher's slots.
#[derive(Debug, Clone)]
pub struct Watermarks {
    pool: Pool,
    slots: BTreeMap<u16, Mark>,
    /// Slots whose watermark is ahead of the table.
    ahead: BTreeSet<u16>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    reached: i64,
    /// The position in this publisher's row; `None` if there is no row.
    kept: Option<i64>,
}

#[derive(FromRow)]
struct WatermarkRow {
    slot: i16,
    position: i64,
}

impl Watermarks {
    /// Creates it without slots.
    pub fn new(pool: impl Into<Pool>) -> Self {
        Self { pool: pool.into(), slots: BTreeMap::new(), ahead: BTreeSet::new() }
    }

    /// Stores the present positions, and continues with these slots from the stored ones.
    ///
    /// # Errors
    /// The database's.
    pub async fn open(&mut self, slots: &[u16]) -> Result<(), Error> {
        self.keep().await?;
        let rows: Vec<WatermarkRow> = sqlx::query_as(
            "WITH furthest AS MATERIALIZED (
                 SELECT w.slot, w.position FROM UNNEST($1::int2[]) AS own (slot)
                 CROSS JOIN LATERAL (SELECT * FROM publisher_watermarks AS w WHERE w.slot = own.slot
                                     ORDER BY w.position DESC LIMIT 1) AS w
             ), cleared AS (
                 DELETE FROM publisher_watermarks AS w USING furthest AS f
                 WHERE w.slot = f.slot AND w.position < f.position
             )
             SELECT slot, position FROM furthest",
        )
        .bind(each(slots, |slot| small(*slot)))
        .fetch_all(&self.pool)
        .await
        .map_err(error::of)?;
        self.slots = slots.iter().map(|slot| (*slot, Mark::default())).collect();
        for WatermarkRow { slot, position } in rows {
            let slot = u16::try_from(slot).unwrap_or_default();
            self.slots.insert(slot, Mark { reached: position, kept: Some(position) });
        }
        Ok(())
    }

    /// Moves forward to the positions up to which other programs have published these slots.
    ///
    /// # Errors
    /// The database's.
    pub async fn catch_up(&mut self, slots: &[u16]) -> Result<(), Error> {
        let rows: Vec<WatermarkRow> = sqlx::query_as(
            "SELECT own.slot, w.position FROM UNNEST($1::int2[]) AS own (slot)
             CROSS JOIN LATERAL (SELECT position FROM publisher_watermarks AS w WHERE w.slot = own.slot
                                 ORDER BY w.position DESC LIMIT 1) AS w",
        )
        .bind(each(slots, |slot| small(*slot)))
        .fetch_all(&self.pool)
        .await
        .map_err(error::of)?;
        for WatermarkRow { slot, position } in rows {
            self.reach(u16::try_from(slot).unwrap_or_default(), position);
        }
        Ok(())
    }

    /// Returns the positions of these slots, as arguments of [`unpublished`](crate::events::EventLog::unpublished);
    /// slots that are not open are left out.
    pub fn of(&self, slots: &[u16]) -> Vec<(u16, i64)> {
        slots.iter().filter_map(|slot| Some((*slot, self.slots.get(slot)?.reached))).collect()
    }

    /// Records that a slot is published up to this position; a position never moves back.
    pub fn reach(&mut self, slot: u16, position: i64) {
        if let Some(mark) = self.slots.get_mut(&slot)
            && mark.reached < position
        {
            mark.reached = position;
            self.ahead.insert(slot);
        }
    }

    /// Stores the positions.
    ///
    /// # Errors
    /// The database's; the positions are stored the next time.
    pub async fn keep(&mut self) -> Result<(), Error> {
        if self.ahead.is_empty() {
            return Ok(());
        }
        let marks: Vec<(u16, Mark)> = self.ahead.iter().map(|slot| (*slot, self.slots[slot])).collect();
        sqlx::query(
            "WITH kept AS (
                 INSERT INTO publisher_watermarks (slot, position) SELECT * FROM UNNEST($1::int2[], $2::int8[])
                 ON CONFLICT (slot, position) DO NOTHING
             )
             DELETE FROM publisher_watermarks AS w USING UNNEST($1::int2[], $3::int8[]) AS last (slot, position)
             WHERE w.slot = last.slot AND w.position = last.position",
        )
        .bind(each(&marks, |(slot, _)| small(*slot)))
        .bind(each(&marks, |(_, mark)| mark.reached))
        .bind(each(&marks, |(_, mark)| mark.kept))
        .execute(&self.pool)
        .await
        .map_err(error::of)?;
        for slot in std::mem::take(&mut self.ahead) {
            if let Some(mark) = self.slots.get_mut(&slot) {
                mark.kept = Some(mark.reached);
            }
        }
        Ok(())
    }
}
