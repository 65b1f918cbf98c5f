//! What is done every so often. Any number of processes may do it at once.

use std::time::Duration;

use amends_engine::core::SagaState;
use sqlx::PgPool;
use uuid::Uuid;

use crate::Error;

/// Upkeep of the engine's database.
#[derive(Debug, Clone)]
pub struct Upkeep {
    pool: PgPool,
}

/// How many sagas of a workflow are in a state that is no end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Name of the workflow.
    pub workflow: String,
    /// Running, compensating or parked.
    pub state: SagaState,
    /// So many.
    pub sagas: u64,
    /// Of these, marked as stuck.
    pub stuck: u64,
}

impl Upkeep {
    /// Over these connections.
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Forgets at most `batch` expired idempotency keys; answers how many. As many as `batch`: there may be more.
    ///
    /// # Errors
    /// The database's.
    pub async fn expire_keys(&self, batch: u32) -> Result<u64, Error> {
        let _ = (batch, &self.pool);
        Err(Error::Unavailable("not yet".into()))
    }

    /// Makes the partitions of this month and the following ones; answers how many were missing.
    ///
    /// # Errors
    /// The database's.
    pub async fn ensure_partitions(&self, months: u16) -> Result<u64, Error> {
        let _ = months;
        Err(Error::Unavailable("not yet".into()))
    }

    /// Marks live sagas without an outcome that have been where they are for at least so long; answers those that
    /// were not marked before.
    ///
    /// # Errors
    /// The database's.
    pub async fn mark_stuck(&self, older_than: Duration) -> Result<Vec<Uuid>, Error> {
        let _ = older_than;
        Err(Error::Unavailable("not yet".into()))
    }

    /// Wakes live sagas that have no time to wake, which should not be; answers which.
    ///
    /// # Errors
    /// The database's.
    pub async fn sweep_missed(&self) -> Result<Vec<Uuid>, Error> {
        Err(Error::Unavailable("not yet".into()))
    }

    /// Counts sagas that have not ended, by workflow and state. Ended ones are not counted: that would read them.
    ///
    /// # Errors
    /// The database's.
    pub async fn counts(&self) -> Result<Vec<Count>, Error> {
        Err(Error::Unavailable("not yet".into()))
    }
}
