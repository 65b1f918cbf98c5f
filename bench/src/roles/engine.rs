//! The program's engine over another workflow, without a publisher, that reports to the load what has ended.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use amends_api::{
    process::Process,
    roles::engine::{Drives, drive},
};
use amends_engine::core::Known;
use amends_engine::port::{
    Committed, DeferredId, DeferredReply, DeferredScan, DueScan, Error, Inputs, Loaded, OddReplies,
    SagaStore, Stray, Write,
};
use amends_postgres::PgSagaStore;
use amends_protocol::transport::Inbound;
use amends_workflows::{self as workflows, order_fulfilment};
use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::three_steps;

/// Starts the engine's loops.
pub async fn start(process: &Process, report_to: SocketAddr, three_steps: bool) -> Result<()> {
    let load = TcpStream::connect(report_to).context("the load does not listen")?;
    load.set_nodelay(true)?;
    let catalog = match three_steps {
        true => three_steps::catalog(),
        false => workflows::catalog(process.settings.workflows()),
    };
    let store =
        Box::new(move |pool| ReportingStore { store: PgSagaStore::new(pool), load: Mutex::new(load) });
    drive(process, true, Drives { store, catalog, publishes: None }).await
}

/// A store that reports to the load every saga that a commit has fulfilled or ended: one write to the socket a commit.
struct ReportingStore {
    store: PgSagaStore,
    load: Mutex<TcpStream>,
}

/// Whether the customer sees the final result with this write: `take` follows `FULFILLED` and shows nothing new.
fn is_news(write: &Write) -> bool {
    let fulfilled = order_fulfilment::FULFILLED;
    write.entries.iter().any(|entry| {
        entry.did.label.as_deref() == Some(fulfilled)
            || (entry.did.ended.is_some() && write.saga.label != fulfilled)
    })
}

impl ReportingStore {
    fn report(&self, writes: &[Write], written: &[Inputs]) {
        let mut news: Vec<Uuid> = writes.iter().filter(|w| is_news(w)).map(|w| w.saga.id).collect();
        if written.len() < writes.len() {
            news.retain(|id| written.iter().any(|inputs| inputs.saga_id == *id));
        }
        if !news.is_empty() {
            let bytes: Vec<u8> = news.iter().flat_map(|id| *id.as_bytes()).collect();
            let mut load = self.load.lock().unwrap_or_else(PoisonError::into_inner);
            // A load that is gone ends this process too.
            let _ = load.write_all(&bytes);
        }
    }
}

impl SagaStore for ReportingStore {
    async fn now(&self) -> Result<DateTime<Utc>, Error> {
        self.store.now().await
    }

    async fn epoch(&self) -> Result<u32, Error> {
        self.store.epoch().await
    }

    async fn begin_epoch_after(&self, lost: u32) -> Result<(), Error> {
        self.store.begin_epoch_after(lost).await
    }

    async fn load(&self, ids: &[Uuid]) -> Result<Loaded, Error> {
        self.store.load(ids).await
    }

    async fn due(&self, scan: &DueScan) -> Result<Loaded, Error> {
        self.store.due(scan).await
    }

    async fn sleeping_beyond(
        &self,
        slots: &[u16],
        beyond: Duration,
        after: Option<(DateTime<Utc>, Uuid)>,
        limit: u32,
    ) -> Result<Loaded, Error> {
        self.store.sleeping_beyond(slots, beyond, after, limit).await
    }

    async fn in_flight(
        &self,
        slots: &[u16],
        within: Duration,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Loaded, Error> {
        self.store.in_flight(slots, within, after, limit).await
    }

    async fn commit(&self, writes: &[Write]) -> Result<Committed, Error> {
        let committed = self.store.commit(writes).await?;
        self.report(writes, &committed.written);
        Ok(committed)
    }

    async fn reschedule(&self, sagas: &[(Uuid, u32, Option<DateTime<Utc>>)]) -> Result<Vec<Uuid>, Error> {
        self.store.reschedule(sagas).await
    }

    async fn inputs(&self, ids: &[Uuid]) -> Result<Vec<Inputs>, Error> {
        self.store.inputs(ids).await
    }

    async fn keep_strays(&self, strays: &[Stray]) -> Result<(), Error> {
        self.store.keep_strays(strays).await
    }

    async fn note_odd(&self, odd: &[OddReplies]) -> Result<(), Error> {
        self.store.note_odd(odd).await
    }

    async fn defer(&self, replies: &[DeferredReply]) -> Result<(), Error> {
        self.store.defer(replies).await
    }

    async fn deferred(&self, scan: &DeferredScan) -> Result<Vec<(DeferredId, Inbound)>, Error> {
        self.store.deferred(scan).await
    }

    async fn announce(&self, program: Uuid, known: &Known, live: Duration) -> Result<Vec<Known>, Error> {
        self.store.announce(program, known, live).await
    }

    async fn forget_deferred(&self, ids: &[DeferredId]) -> Result<(), Error> {
        self.store.forget_deferred(ids).await
    }
}
