//! History goes by month. What it is kept for is checked by the database too: the engine's role cannot forget what is
//! younger than [`RETENTION_LEAST`].

use std::time::Duration;

use sqlx::FromRow;
use uuid::Uuid;

use crate::{
    Error, error,
    upkeep::{Upkeep, Walk},
};

/// History is kept at least so long.
pub const RETENTION_LEAST: Duration = Duration::from_secs(60 * 24 * 3600);

/// What goes by month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// Sagas that have ended, with their timelines and personal fields: once all that was born in a month is older than
    /// the retention.
    Sagas,
    /// Strays: so long after they came.
    Strays,
    /// Orders: two months after the sagas that were born with them.
    Orders,
}

impl History {
    /// Each of them.
    pub const ALL: [History; 3] = [History::Sagas, History::Strays, History::Orders];

    /// The table that it is named after.
    pub fn table(self) -> &'static str {
        match self {
            History::Sagas => "sagas",
            History::Strays => "strays",
            History::Orders => "orders",
        }
    }
}

/// A month whose time has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetiredMonth {
    /// As its partition says it: `202511`.
    pub month: String,
    /// So many had not ended, and moved along.
    pub moved: u64,
    /// More have not ended than can move at once: nothing has gone.
    pub stays: bool,
}

#[derive(FromRow)]
struct Retired {
    month: Option<String>,
    moved: Option<i64>,
    stays: Option<bool>,
}

impl Upkeep {
    /// Drops the oldest month, if it is past its time. What has not ended moves along.
    ///
    /// # Errors
    /// The database's: that a lock is not to be had soon is one. It is done later.
    pub async fn retire_month(
        &self,
        what: History,
        retention: Duration,
    ) -> Result<Option<RetiredMonth>, Error> {
        let retired: Retired =
            sqlx::query_as("SELECT month, moved, stays FROM retire_month($1, make_interval(secs => $2))")
                .bind(what.table())
                .bind(retention.as_secs_f64())
                .fetch_one(&self.pool)
                .await
                .map_err(error::of)?;
        let moved = retired.moved.unwrap_or_default().unsigned_abs();
        Ok(retired.month.map(|month| RetiredMonth { month, moved, stays: retired.stays.unwrap_or_default() }))
    }

    /// Looks at the next rows that have no month of their own (they have outlived theirs), and forgets those whose time
    /// is over; returns how many went. Behind the last one it begins again.
    ///
    /// # Errors
    /// The database's.
    pub async fn forget_leftovers(
        &self,
        what: History,
        retention: Duration,
        walk: &mut Walk,
    ) -> Result<u64, Error> {
        let (reached, gone): (Option<Uuid>, i64) =
            sqlx::query_as("SELECT reached, gone FROM forget_leftovers($1, make_interval(secs => $2), $3)")
                .bind(what.table())
                .bind(retention.as_secs_f64())
                .bind(walk.after())
                .fetch_one(&self.pool)
                .await
                .map_err(error::of)?;
        walk.0 = reached;
        Ok(gone.unsigned_abs())
    }
}
