//! Publishes domain events from the timeline: reads past each slot's watermark, sends, and moves the watermark
//! once everything is acknowledged. At least once; in order for each order within a topic.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
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

/// Publishes the slots that this process owns.
pub struct Publisher<S, K> {
    /// For the inputs of new orders.
    pub store: S,
    /// The timeline.
    pub log: EventLog,
    /// A sink that keeps the order of what it is given.
    pub sink: K,
    /// Which slots.
    pub ownership: Ownership,
}

impl<S: SagaStore, K: Sink> Publisher<S, K> {
    /// Publishes one batch; answers how many entries were read.
    ///
    /// # Errors
    /// Store or transport; the batch is read again.
    pub async fn run_once(&self) -> Result<usize, Error> {
        let slots = self.ownership.slots();
        if slots.is_empty() {
            return Ok(0);
        }
        let entries = self.log.unpublished(&slots, BATCH).await?;
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
