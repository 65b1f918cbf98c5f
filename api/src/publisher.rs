//! Publishes domain events from the timeline: reads past each slot's watermark, sends, and moves the watermark
//! once everything is acknowledged. At least once; in order for each order within a topic. Watermarks are written
//! down once a second, and when slots change hands: what a publisher did since then is done again after it is killed.

use std::time::{Duration, Instant};

use amends_engine::runtime::{Error, News, Ownership};
use amends_postgres::{events::EventLog, watermarks::Watermarks};
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
    log: EventLog,
    watermarks: Watermarks,
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
        sink: K,
        ownership: Ownership,
        news: News,
    ) -> Self {
        Self { workflows, log, watermarks, generation: None, sink, ownership, news, swept_at: None, turn: 0 }
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
        }
        let mut slots = self.news.take();
        let sweep = self.swept_at.is_none_or(|at| at.elapsed() >= SWEEP);
        if sweep {
            self.watermarks.keep().await?;
            // To look into every slot costs milliseconds.
            slots = self.ownership.slots();
            self.swept_at = Some(Instant::now());
        }
        slots.retain(|&slot| assignment.owns(slot));
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
        let entries = self.log.unpublished(&self.watermarks.of(slots), BATCH).await?;
        if entries.is_empty() {
            return Ok(0);
        }
        let mut messages = Vec::new();
        for read in &entries {
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
        self.sink.send(messages).await?;
        for read in &entries {
            self.watermarks.reach(read.slot, read.position);
        }
        Ok(entries.len())
    }
}
