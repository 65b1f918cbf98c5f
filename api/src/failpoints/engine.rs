//! The engine's ports: store, source, sink.

use std::time::Duration;

use amends_engine::core::Known;
use amends_engine::port::{
    Committed, DeferredId, DeferredReply, DeferredScan, DueScan, Error, Inputs, Loaded, OddReplies,
    SagaStore, Stray, Write,
};
use amends_protocol::transport::{self, Assignment, Batch, Inbound, Outbound, Sink, Source};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Failing;

impl<S: SagaStore> SagaStore for Failing<S> {
    async fn now(&self) -> Result<DateTime<Utc>, Error> {
        self.before("now");
        let now = self.port.now().await;
        self.after("now");
        now
    }

    async fn epoch(&self) -> Result<u32, Error> {
        self.port.epoch().await
    }

    async fn begin_epoch_after(&self, lost: u32) -> Result<(), Error> {
        self.port.begin_epoch_after(lost).await
    }

    async fn load(&self, ids: &[Uuid]) -> Result<Loaded, Error> {
        self.before("load");
        let loaded = self.port.load(ids).await;
        self.after("load");
        loaded
    }

    async fn due(&self, scan: &DueScan) -> Result<Loaded, Error> {
        let due = self.port.due(scan).await;
        // The engine scans all the time: only a scan that finds something counts as a point.
        if due.as_ref().is_ok_and(|due| !due.sagas.is_empty()) {
            self.after("due");
        }
        due
    }

    async fn sleeping_beyond(
        &self,
        slots: &[u16],
        beyond: Duration,
        after: Option<(DateTime<Utc>, Uuid)>,
        limit: u32,
    ) -> Result<Loaded, Error> {
        self.port.sleeping_beyond(slots, beyond, after, limit).await
    }

    async fn in_flight(
        &self,
        slots: &[u16],
        within: Duration,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Loaded, Error> {
        let found = self.port.in_flight(slots, within, after, limit).await;
        if found.as_ref().is_ok_and(|found| !found.sagas.is_empty()) {
            self.after("in_flight");
        }
        found
    }

    async fn commit(&self, writes: &[Write]) -> Result<Committed, Error> {
        self.before("commit");
        let committed = self.port.commit(writes).await;
        self.after("commit");
        committed
    }

    async fn reschedule(&self, sagas: &[(Uuid, u32, Option<DateTime<Utc>>)]) -> Result<Vec<Uuid>, Error> {
        self.before("reschedule");
        let done = self.port.reschedule(sagas).await;
        self.after("reschedule");
        done
    }

    async fn inputs(&self, ids: &[Uuid]) -> Result<Vec<Inputs>, Error> {
        self.before("inputs");
        let inputs = self.port.inputs(ids).await;
        self.after("inputs");
        inputs
    }

    async fn keep_strays(&self, strays: &[Stray]) -> Result<(), Error> {
        self.before("keep_strays");
        let kept = self.port.keep_strays(strays).await;
        self.after("keep_strays");
        kept
    }

    async fn note_odd(&self, odd: &[OddReplies]) -> Result<(), Error> {
        self.before("note_odd");
        let noted = self.port.note_odd(odd).await;
        self.after("note_odd");
        noted
    }

    async fn defer(&self, replies: &[DeferredReply]) -> Result<(), Error> {
        self.before("defer");
        let kept = self.port.defer(replies).await;
        self.after("defer");
        kept
    }

    async fn deferred(&self, scan: &DeferredScan) -> Result<Vec<(DeferredId, Inbound)>, Error> {
        let found = self.port.deferred(scan).await;
        if found.as_ref().is_ok_and(|found| !found.is_empty()) {
            self.after("deferred");
        }
        found
    }

    async fn announce(&self, program: Uuid, known: &Known, live: Duration) -> Result<Vec<Known>, Error> {
        self.port.announce(program, known, live).await
    }

    async fn forget_deferred(&self, ids: &[DeferredId]) -> Result<(), Error> {
        self.before("forget_deferred");
        let forgotten = self.port.forget_deferred(ids).await;
        self.after("forget_deferred");
        forgotten
    }
}

impl<S: Source> Source for Failing<S> {
    async fn receive(&mut self, max: usize, patience: Duration) -> Result<Batch, transport::Error> {
        let received = self.port.receive(max, patience).await;
        if received.as_ref().is_ok_and(|batch| !batch.messages.is_empty()) {
            self.after("receive");
        }
        received
    }

    fn commit(&mut self, receipt: u64) -> Result<(), transport::Error> {
        self.before("commit");
        let committed = self.port.commit(receipt);
        self.after("commit");
        committed
    }

    fn rewind(&mut self) -> Result<(), transport::Error> {
        self.before("rewind");
        let rewound = self.port.rewind();
        self.after("rewind");
        rewound
    }

    fn assignment(&self) -> Assignment {
        self.port.assignment()
    }
}

impl<K: Sink> Sink for Failing<K> {
    async fn send(&self, messages: Vec<Outbound>) -> Result<(), transport::Error> {
        self.before("send");
        let sent = self.port.send(messages).await;
        self.after("send");
        sent
    }

    async fn dead_letter(&self, message: &Inbound, reason: &str) -> Result<(), transport::Error> {
        self.before("dead_letter");
        let sent = self.port.dead_letter(message, reason).await;
        self.after("dead_letter");
        sent
    }
}
