//! Publishes domain events from the timeline: reads past each slot's watermark, sends, and moves the watermark
//! once everything is acknowledged. At least once; in order for each order within a topic. Watermarks are written
//! down once a second, and when slots change hands: what a publisher did since then is done again after it is killed.
//!
//! An entry that this program cannot read (of a newer workflow, or by newer rules) stops its slot: the slot is handed over
//! to a program that can read it, which publishes from there on, and then its owner goes on behind that.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use amends_engine::{
    core::Known,
    runtime::{Error, News, Ownership},
};
use amends_postgres::{
    events::{EventLog, Unpublished},
    handoffs::Handoffs,
    watermarks::Watermarks,
};
use amends_protocol::{
    transport::{Outbound, Placement, Sink},
    wire,
};
use amends_workflows::Workflows;

/// Most entries of a batch.
const BATCH: u32 = 2000;
/// From so many entries on there is more to come, and it goes together.
const MANY: usize = 32;
/// Rest after a batch of a few, and of many: nobody's saga waits for them, and each batch costs a read and a request for
/// each topic.
const RESTS: [Duration; 2] = [Duration::from_millis(25), Duration::from_millis(100)];

/// How long to rest after a batch of so many entries.
pub fn rest(entries: usize) -> Duration {
    match entries {
        few if few < MANY => RESTS[0],
        many if many < BATCH as usize => RESTS[1],
        _ => Duration::ZERO,
    }
}

/// What others have committed (orders at a door, an operator's action) is looked for so often, if this engine has not
/// met their sagas before.
const SWEEP: Duration = Duration::from_secs(1);

/// Publishes the slots that this process owns.
pub struct Publisher<K> {
    workflows: Workflows,
    known: Known,
    log: EventLog,
    watermarks: Watermarks,
    handoffs: Handoffs,
    /// Own slots in which there is an entry that this program cannot read.
    stopped: BTreeSet<u16>,
    /// The assignment whose watermarks are open.
    generation: Option<u64>,
    sink: K,
    ownership: Ownership,
    news: News,
    swept_at: Option<Instant>,
    turn: usize,
}

impl<K: Sink> Publisher<K> {
    /// Publishes what `log` has of the slots owned. `sink` must keep the order of what it is given.
    pub fn new(
        workflows: Workflows,
        log: EventLog,
        watermarks: Watermarks,
        handoffs: Handoffs,
        sink: K,
        ownership: Ownership,
        news: News,
    ) -> Self {
        Self {
            known: Known::of(&workflows.catalog()),
            workflows,
            log,
            watermarks,
            handoffs,
            stopped: BTreeSet::new(),
            generation: None,
            sink,
            ownership,
            news,
            swept_at: None,
            turn: 0,
        }
    }

    /// Publishes one batch; answers how many entries were read.
    ///
    /// # Errors
    /// Store or transport; the batch is read again.
    pub async fn run_once(&mut self) -> Result<usize, Error> {
        let (assignment, _) = self.ownership.now();
        if self.generation != Some(assignment.generation) {
            self.watermarks.open(&self.ownership.slots()).await?;
            (self.generation, self.swept_at) = (Some(assignment.generation), None);
            self.stopped.clear();
        }
        let mut slots = self.news.take();
        let sweep = self.swept_at.is_none_or(|at| at.elapsed() >= SWEEP);
        if sweep {
            self.watermarks.keep().await?;
            if !self.stopped.is_empty() {
                let stopped: Vec<u16> = std::mem::take(&mut self.stopped).into_iter().collect();
                self.watermarks.catch_up(&stopped).await?;
            }
            self.take_over().await?;
            // To look into every slot costs milliseconds.
            slots = self.ownership.slots();
            self.swept_at = Some(Instant::now());
        }
        slots.retain(|&slot| assignment.owns(slot) && !self.stopped.contains(&slot));
        if slots.is_empty() {
            return Ok(0);
        }
        let published = self.publish(&mut slots).await;
        if !matches!(published, Ok(entries) if entries < BATCH as usize) {
            // There is more, or it is to be read again.
            slots.iter().for_each(|&slot| self.news.mark(slot));
        }
        published
    }

    /// Writes down how far it has come.
    ///
    /// # Errors
    /// The database's.
    pub async fn end(mut self) -> Result<(), Error> {
        Ok(self.watermarks.keep().await?)
    }

    async fn publish(&mut self, slots: &mut [u16]) -> Result<usize, Error> {
        // Another slot first each time, so that none waits behind the others for ever.
        self.turn = self.turn.wrapping_add(1);
        slots.rotate_left(self.turn % slots.len());
        let read = self.log.unpublished(&self.watermarks.of(slots), BATCH, &self.known).await?;
        self.send(&read.entries).await?;
        for read in &read.entries {
            self.watermarks.reach(read.slot, read.position);
        }
        if !read.stopped.is_empty() {
            self.handoffs.give(&read.stopped).await?;
            // Not read again until it is known how far another program has come.
            self.stopped.extend(read.stopped.iter().map(|handoff| handoff.slot));
        }
        Ok(read.entries.len())
    }

    /// Publishes what the owners of other slots cannot read.
    async fn take_over(&mut self) -> Result<(), Error> {
        for (slot, position) in self.handoffs.open(&self.known).await? {
            let read = self.log.unpublished(&[(slot, position - 1)], BATCH, &self.known).await?;
            self.send(&read.entries).await?;
            self.handoffs.settle(slot, position, read.entries.last().map(|read| read.position)).await?;
        }
        Ok(())
    }

    /// Sends the domain events of these entries, in their order.
    async fn send(&self, entries: &[Unpublished]) -> Result<(), Error> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut messages = Vec::new();
        for read in entries {
            let (version, key) = (read.workflow_version, &read.business_key);
            for event in self.workflows.domain_events(&read.workflow, version, read.saga_id, key, &read.entry)
            {
                messages.push(Outbound {
                    placement: Placement::Home(read.slot),
                    key: read.business_key.parse().unwrap_or(read.saga_id),
                    traceparent: None,
                    bytes: wire::write(&event),
                    topic: event.r#type,
                });
            }
        }
        metrics::counter!("amends_engine_domain_events_total").increment(messages.len() as u64);
        Ok(self.sink.send(messages).await?)
    }
}
