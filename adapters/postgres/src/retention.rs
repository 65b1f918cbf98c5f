//! Drops history by month. The database also checks the retention: the engine's role cannot delete what is younger than
//! [`RETENTION_LEAST`].

use std::time::Duration;

use sqlx::FromRow;
use uuid::Uuid;

use crate::{
    Error, error,
    upkeep::{Upkeep, Walk},
};

/// The minimum retention.
pub const RETENTION_LEAST: Duration = Duration::from_secs(60 * 24 * 3600);

/// The kinds of history that are dropped by month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// Ended sagas, with their timelines and personal fields, once everything born in the month is older than the
    /// retention.
    Sagas,
    /// Strays, once they are older than the retention.
    Strays,
    /// Orders: two months after the sagas that were born with them, and not before the last of their sagas.
    Orders,
}

impl History {
    /// All kinds.
    pub const ALL: [History; 3] = [History::Sagas, History::Strays, History::Orders];

    /// Returns the kind's main table.
    pub fn table(self) -> &'static str {
        match self {
            History::Sagas => "sagas",
            History::Strays => "strays",
            History::Orders => "orders",
        }
    }
}

/// A month whose retention has passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetiredMonth {
    /// The month as in its partition's name: `202511`.
    pub month: String,
    /// Number of sagas that were moved along: those that had not ended, and others of their orders.
    pub moved: u64,
    /// More sagas have not ended than can move at once; nothing was dropped.
    pub stays: bool,
}

#[derive(FromRow)]
struct Retired {
    month: Option<String>,
    moved: Option<i64>,
    stays: Option<bool>,
}

impl Upkeep {
    /// Drops the oldest month if its retention has passed. Sagas that have not ended are moved along, and so are the ended
    /// sagas of an order of which another one is kept.
    ///
    /// # Errors
    /// The database's, including a lock timeout. It is done later.
    pub async fn retire_month(
        &self,
        what: History,
        retention: Duration,
    ) -> Result<Option<RetiredMonth>, Error> {
        let retired: Retired =
            sqlx::query_as("SELECT month, moved, stays FROM retire_month($1, make_interval(secs => $2))")
                .bind(what.table())
                .bind(retention.as_secs_f64())
                .fetch_one(&self.database.pool)
                .await
                .map_err(error::of)?;
        let moved = retired.moved.unwrap_or_default().unsigned_abs();
        Ok(retired.month.map(|month| RetiredMonth { month, moved, stays: retired.stays.unwrap_or_default() }))
    }

    /// Reads the next rows of a home that have outlived their month, and deletes those whose retention has passed; returns
    /// the number deleted. After the last row of the last home it starts again. A home that fails, of several, is passed
    /// over.
    ///
    /// # Errors
    /// That of a database with one home.
    pub async fn forget_leftovers(
        &self,
        what: History,
        retention: Duration,
        walk: &mut Walk,
    ) -> Result<u64, Error> {
        let answer: Result<(Option<Uuid>, i64), Error> = sqlx::query_as(
            "SELECT reached, gone FROM forget_leftovers($4, $1, make_interval(secs => $2), $3)",
        )
        .bind(what.table())
        .bind(retention.as_secs_f64())
        .bind(walk.after)
        .bind(walk.home)
        .fetch_one(&self.database.pool)
        .await
        .map_err(error::of);
        let homes = self.database.homes;
        let Some((reached, gone)) = walk.or_pass_over(homes, answer)? else { return Ok(0) };
        walk.go_on(homes, reached);
        Ok(gone.unsigned_abs())
    }
}
