//! The engine's `SagaStore`: a file a table behind it.

use std::time::Duration;

use amends_engine::port::{DueScan, Inputs, Loaded, SagaStore, Stray, Write};
use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{Birth, Error, births, commit, error, inputs, sagas, strays, timeline};

/// Sagas in Postgres.
#[derive(Debug, Clone)]
pub struct PgSagaStore {
    pool: PgPool,
}

impl PgSagaStore {
    /// Over these connections.
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Its connections.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Stores new sagas in one transaction.
    ///
    /// # Errors
    /// The database's. If it is away, it may have happened.
    pub async fn create(&self, births: &[Birth<'_>]) -> Result<(), Error> {
        let mut connection = self.pool.acquire().await.map_err(error::of)?;
        births::insert(&mut connection, births, timeline::new_batch()).await.map_err(error::of)?;
        Ok(())
    }
}

impl SagaStore for PgSagaStore {
    async fn load(&self, ids: &[Uuid]) -> Result<Loaded, Error> {
        sagas::load(&self.pool, ids).await
    }

    async fn due(&self, scan: &DueScan) -> Result<Loaded, Error> {
        sagas::due(&self.pool, scan).await
    }

    async fn in_flight(
        &self,
        slots: &[u16],
        within: Duration,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Loaded, Error> {
        sagas::in_flight(&self.pool, slots, within, after, limit).await
    }

    async fn commit(&self, writes: &[Write]) -> Result<Vec<Inputs>, Error> {
        commit::commit(&self.pool, writes).await
    }

    async fn reschedule(&self, sagas: &[(Uuid, u32, Option<DateTime<Utc>>)]) -> Result<(), Error> {
        sagas::reschedule(&self.pool, sagas).await
    }

    async fn inputs(&self, ids: &[Uuid]) -> Result<Vec<Inputs>, Error> {
        inputs::of(&self.pool, ids).await
    }

    async fn keep_strays(&self, strays: &[Stray]) -> Result<(), Error> {
        strays::keep(&self.pool, strays).await
    }
}
