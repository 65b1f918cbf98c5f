//! The timeline in order, for the publisher of domain events.

use amends_engine::core::Entry;
use sqlx::PgPool;
use uuid::Uuid;

use crate::Error;

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

    /// Reads entries past the watermarks of these slots, in the order of their positions, at most `limit`. None
    /// is skipped: within a slot positions are in the order of commits.
    ///
    /// # Errors
    /// The database's.
    pub async fn unpublished(&self, slots: &[u16], limit: u32) -> Result<Vec<Unpublished>, Error> {
        let _ = (slots, limit, &self.pool);
        Err(Error::Unavailable("not yet".into()))
    }

    /// Moves watermarks on to these positions; never back.
    ///
    /// # Errors
    /// The database's.
    pub async fn advance(&self, watermarks: &[(u16, i64)]) -> Result<(), Error> {
        let _ = watermarks;
        Err(Error::Unavailable("not yet".into()))
    }
}
