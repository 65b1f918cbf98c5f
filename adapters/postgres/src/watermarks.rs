//! Table `publisher_watermarks`: how far the domain events of each slot are published.
//!
//! A publisher keeps its slots' watermarks in memory and stores them from time to time; its successor publishes again
//! what was published since. A new position is a new row, and the old row is deleted by its key: while a forgotten
//! transaction holds a snapshot, a row that is updated again and again accumulates dead versions.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::FromRow;

use crate::{
    Database, Error,
    columns::{each, int, small},
    error,
    homes::answering_homes,
};

/// The watermarks of a publisher's slots.
#[derive(Debug, Clone)]
pub struct Watermarks {
    database: Database,
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

/// Reads the furthest position of slots, and deletes rows that are behind it.
const OPEN: &str = "WITH furthest AS MATERIALIZED (
         SELECT w.slot, w.position FROM UNNEST($2::int2[]) AS own (slot)
         CROSS JOIN LATERAL (SELECT * FROM publisher_watermarks AS w
                             WHERE ($1::int2 IS NULL OR w.home = $1) AND w.slot = own.slot
                             ORDER BY w.position DESC LIMIT 1) AS w
     ), cleared AS (
         DELETE FROM publisher_watermarks AS w USING furthest AS f
         WHERE ($1::int2 IS NULL OR w.home = $1) AND w.slot = f.slot AND w.position < f.position
     )
     SELECT slot, position FROM furthest";
/// Reads the furthest position of slots.
const FURTHEST: &str = "SELECT own.slot, w.position FROM UNNEST($2::int2[]) AS own (slot)
     CROSS JOIN LATERAL (SELECT position FROM publisher_watermarks AS w
                         WHERE ($1::int2 IS NULL OR w.home = $1) AND w.slot = own.slot
                         ORDER BY w.position DESC LIMIT 1) AS w";
/// Inserts new positions and deletes the ones before them; not after a restore, when entries will have these positions
/// that are not written yet.
const KEEP: &str = "WITH kept AS (
         INSERT INTO publisher_watermarks (home, slot, position)
         SELECT $1, w.* FROM UNNEST($2::int2[], $3::int8[]) AS w WHERE is_epoch($5)
         ON CONFLICT (slot, position, home) DO NOTHING
     )
     DELETE FROM publisher_watermarks AS w USING UNNEST($2::int2[], $4::int8[]) AS last (slot, position)
     WHERE ($1::int2 IS NULL OR w.home = $1) AND w.slot = last.slot AND w.position = last.position";

/// Stores the positions of slots of a home; returns the slots.
async fn keep_home(
    Database { pool, epoch, .. }: &Database,
    home: i16,
    marks: Vec<(u16, Mark)>,
) -> Result<Vec<u16>, Error> {
    sqlx::query(KEEP)
        .bind(home)
        .bind(each(&marks, |(slot, _)| small(*slot)))
        .bind(each(&marks, |(_, mark)| mark.reached))
        .bind(each(&marks, |(_, mark)| mark.kept))
        .bind(int(*epoch))
        .execute(pool)
        .await
        .map_err(error::of)?;
    Ok(marks.into_iter().map(|(slot, _)| slot).collect())
}

#[derive(FromRow)]
struct WatermarkRow {
    slot: i16,
    position: i64,
}

impl Watermarks {
    /// Creates it without slots.
    pub fn new(database: impl Into<Database>) -> Self {
        Self { database: database.into(), slots: BTreeMap::new(), ahead: BTreeSet::new() }
    }

    /// Stores the present positions, and continues with these slots from the stored ones. Slots whose home does not
    /// answer stay closed.
    ///
    /// # Errors
    /// The database's.
    pub async fn open(&mut self, slots: &[u16]) -> Result<(), Error> {
        self.keep().await?;
        // What a home did not take is published again by the slot's next owner.
        self.ahead.clear();
        self.slots.clear();
        self.open_more(slots).await
    }

    /// Continues also with those of these slots that are not open yet because their home did not answer.
    ///
    /// # Errors
    /// The database's, if no home answers.
    pub async fn open_more(&mut self, slots: &[u16]) -> Result<(), Error> {
        let closed: Vec<u16> = slots.iter().copied().filter(|slot| !self.slots.contains_key(slot)).collect();
        for (slots, rows) in self.ask(&closed, OPEN).await? {
            self.slots.extend(slots.into_iter().map(|slot| (slot, Mark::default())));
            for WatermarkRow { slot, position } in rows {
                let slot = u16::try_from(slot).unwrap_or_default();
                self.slots.insert(slot, Mark { reached: position, kept: Some(position) });
            }
        }
        Ok(())
    }

    /// Moves forward to the positions up to which other programs have published these slots.
    ///
    /// # Errors
    /// The database's.
    pub async fn catch_up(&mut self, slots: &[u16]) -> Result<(), Error> {
        let answers = self.ask(slots, FURTHEST).await?;
        for WatermarkRow { slot, position } in answers.into_iter().flat_map(|(_, rows)| rows) {
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
        let homes = self.database.homes;
        let marks: Vec<(u16, Mark)> = self.ahead.iter().map(|slot| (*slot, self.slots[slot])).collect();
        let parts = homes.divide(marks, |(slot, _)| homes.of_slot(*slot));
        for slot in
            answering_homes(parts, |home, marks| keep_home(&self.database, home, marks)).await?.concat()
        {
            self.ahead.remove(&slot);
            if let Some(mark) = self.slots.get_mut(&slot) {
                mark.kept = Some(mark.reached);
            }
        }
        Ok(())
    }

    /// Runs a statement about slots for each home; returns the slots of each home that answered, with its rows.
    async fn ask(
        &self,
        slots: &[u16],
        statement: &'static str,
    ) -> Result<Vec<(Vec<u16>, Vec<WatermarkRow>)>, Error> {
        let Database { pool, homes, .. } = &self.database;
        let ask = |home, slots: Vec<u16>| async move {
            let rows = sqlx::query_as(statement)
                .bind(home)
                .bind(each(&slots, |slot| small(*slot)))
                .fetch_all(pool)
                .await
                .map_err(error::of)?;
            Ok((slots, rows))
        };
        answering_homes(homes.divide_slots(slots), ask).await
    }
}
