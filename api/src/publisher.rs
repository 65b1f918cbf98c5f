//! Publishes domain events from the timeline: reads past each slot's watermark, sends, and moves the watermark
//! once everything is acknowledged. At least once; in order for each order within a topic.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use amends_engine::{
    core::Event,
    port::SagaStore,
    runtime::{Error, Ownership},
};
use amends_postgres::events::EventLog;
use amends_protocol::{
    Json,
    transport::{Outbound, Placement, Sink},
    wire,
};
use amends_workflows::events::domain_events;
use uuid::Uuid;

/// Most entries of a batch.
const BATCH: u32 = 500;
/// Rest after finding nothing.
pub const POLL: Duration = Duration::from_millis(25);
/// While no position is drawn, a look finds only what was drawn before and is committed late: look so often.
const QUIET: Duration = Duration::from_millis(500);

/// Publishes the slots that this process owns.
pub struct Publisher<S, K> {
    store: S,
    log: EventLog,
    sink: K,
    ownership: Ownership,
    /// The last position at the last look that found nothing, and when that was.
    quiet: Option<(i64, Instant)>,
    turn: usize,
}

impl<S: SagaStore, K: Sink> Publisher<S, K> {
    /// Publishes what `log` has of the slots owned. `store` is for the inputs of new orders; `sink` must keep the
    /// order of what it is given.
    pub fn new(store: S, log: EventLog, sink: K, ownership: Ownership) -> Self {
        Self { store, log, sink, ownership, quiet: None, turn: 0 }
    }

    /// Publishes one batch; answers how many entries were read.
    ///
    /// # Errors
    /// Store or transport; the batch is read again.
    pub async fn run_once(&mut self) -> Result<usize, Error> {
        let slots = self.ownership.slots();
        if slots.is_empty() {
            return Ok(0);
        }
        // The look itself costs milliseconds: first the cheap question.
        let position = self.log.last_position().await?;
        if self.quiet.is_some_and(|(last, at)| last == position && at.elapsed() < QUIET) {
            return Ok(0);
        }
        // Another slot first each time, so that none waits behind the others for ever.
        let mut slots = slots;
        self.turn = self.turn.wrapping_add(1);
        let first = self.turn % slots.len();
        slots.rotate_left(first);
        let entries = self.log.unpublished(&slots, BATCH).await?;
        self.quiet = entries.is_empty().then(|| (position, Instant::now()));
        if entries.is_empty() {
            return Ok(0);
        }
        let born = entries.iter().filter(|e| e.entry.occurrence.event == Event::Started).map(|e| e.saga_id);
        let born: Vec<Uuid> = born.collect();
        let inputs = if born.is_empty() { Vec::new() } else { self.store.inputs(&born).await? };
        let inputs: HashMap<Uuid, Json> = inputs.into_iter().map(|i| (i.saga_id, i.data)).collect();
        let (mut messages, mut watermarks) = (Vec::new(), BTreeMap::new());
        for read in &entries {
            watermarks.insert(read.slot, read.position);
            let input = inputs.get(&read.saga_id);
            for event in domain_events(read.saga_id, &read.business_key, &read.entry, input) {
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
        self.log.advance(&watermarks.into_iter().collect::<Vec<_>>()).await?;
        Ok(entries.len())
    }
}
