//! The engine's `SagaStore`, over one module per table.

use std::{sync::Arc, time::Duration};

use amends_engine::core::Known;
use amends_engine::port::{
    Committed, DeferredId, DeferredReply, DeferredScan, DueScan, Inputs, Loaded, OddReplies, SagaStore,
    Stray, Write,
};
use amends_pool::{DatabaseClock, Pool};
use amends_protocol::transport::Inbound;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{
    Birth, Database, Error, births, commit, deferred, deployment, error, held::HeldSagas, homes::each_home,
    inputs, odd_replies, programs, sagas, strays,
};

/// Sagas in Postgres.
#[derive(Debug, Clone)]
pub struct PgSagaStore {
    database: Database,
    clock: Arc<DatabaseClock>,
    held: HeldSagas,
}

impl PgSagaStore {
    /// Creates a store over this database.
    pub fn new(database: impl Into<Database>) -> Self {
        Self { database: database.into(), clock: Arc::default(), held: HeldSagas::default() }
    }

    /// Returns the pool.
    pub fn pool(&self) -> &Pool {
        &self.database.pool
    }

    /// Returns the database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Inserts new sagas, those of a home in one transaction.
    ///
    /// # Errors
    /// The database's. If the database is unavailable, the insert may have happened.
    pub async fn create(&self, births: &[Birth<'_>]) -> Result<(), Error> {
        let homes = self.database.homes;
        let parts = homes.divide(births.iter().copied(), |birth| homes.of_slot(birth.change.saga.slot));
        each_home(parts, |home, births| births::insert(&self.database, home, births)).await?;
        self.database.sentinel.acknowledged_births(births.iter().map(|birth| &birth.change.saga));
        Ok(())
    }

    fn timed(&self, loaded: Loaded) -> Loaded {
        self.clock.observe(loaded.now);
        loaded
    }
}

impl SagaStore for PgSagaStore {
    async fn now(&self) -> Result<DateTime<Utc>, Error> {
        self.clock.now(self.pool()).await.map_err(error::of)
    }

    async fn epoch(&self) -> Result<u32, Error> {
        deployment::epoch(self.pool()).await.map_err(error::of)
    }

    async fn begin_epoch_after(&self, lost: u32) -> Result<(), Error> {
        self.database.begin_epoch_after(lost).await.map_err(error::of)
    }

    async fn load(&self, ids: &[Uuid]) -> Result<Loaded, Error> {
        Ok(self.timed(sagas::load(&self.database, ids).await?))
    }

    async fn due(&self, scan: &DueScan) -> Result<Loaded, Error> {
        Ok(self.timed(sagas::due(&self.database, scan).await?))
    }

    async fn sleeping_beyond(
        &self,
        slots: &[u16],
        beyond: Duration,
        after: Option<(DateTime<Utc>, Uuid)>,
        limit: u32,
    ) -> Result<Loaded, Error> {
        Ok(self.timed(sagas::sleeping_beyond(&self.database, slots, beyond, after, limit).await?))
    }

    async fn in_flight(
        &self,
        slots: &[u16],
        within: Duration,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Loaded, Error> {
        Ok(self.timed(sagas::in_flight(&self.database, slots, within, after, limit).await?))
    }

    async fn commit(&self, writes: &[Write]) -> Result<Committed, Error> {
        commit::commit(&self.database, &self.held, writes).await
    }

    async fn reschedule(&self, sagas: &[(Uuid, u32, Option<DateTime<Utc>>)]) -> Result<Vec<Uuid>, Error> {
        sagas::reschedule(&self.database, sagas).await
    }

    async fn inputs(&self, ids: &[Uuid]) -> Result<Vec<Inputs>, Error> {
        inputs::of(&self.database, ids).await
    }

    async fn keep_strays(&self, strays: &[Stray]) -> Result<(), Error> {
        strays::keep(&self.database, strays).await
    }

    async fn note_odd(&self, odd: &[OddReplies]) -> Result<(), Error> {
        odd_replies::note(&self.database, odd).await
    }

    async fn defer(&self, replies: &[DeferredReply]) -> Result<(), Error> {
        deferred::keep(&self.database, replies).await
    }

    async fn deferred(&self, scan: &DeferredScan) -> Result<Vec<(DeferredId, Inbound)>, Error> {
        deferred::due(&self.database, scan).await
    }

    async fn forget_deferred(&self, ids: &[DeferredId]) -> Result<(), Error> {
        deferred::forget(&self.database, ids).await
    }

    async fn announce(&self, program: Uuid, known: &Known, live: Duration) -> Result<Vec<Known>, Error> {
        programs::announce(&self.database, program, known, live).await
    }
}
