//! Publishes domain events from the timeline: reads past each slot's watermark, sends, and moves the watermark
//! once everything is acknowledged. At least once; in order for each order within a topic.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use amends_engine::runtime::{Error, Ownership};
use amends_postgres::events::EventLog;
use amends_protocol::{
    transport::{Outbound, Placement, Sink},
    wire,
};
use amends_workflows::events::domain_events;

/// Most entries of a batch.
pub const BATCH: u32 = 1000;
/// Rest after a batch that is not full: entries go together rather than at once, for nobody's saga waits for them.
pub const POLL: Duration = Duration::from_millis(25);
/// While no position is drawn, a look finds only what was drawn before and is committed late: look so often.
const QUIET: Duration = Duration::from_millis(500);

/// Publishes the slots that this process owns.
pub struct Publisher<K> {
    log: EventLog,
    sink: K,
    ownership: Ownership,
    /// The last position at the last look that found nothing, and when that was.
    quiet: Option<(i64, Instant)>,
    turn: usize,
}

impl<K: Sink> Publisher<K> {
    /// Publishes what `log` has of the slots owned. `sink` must keep the order of what it is given.
    pub fn new(log: EventLog, sink: K, ownership: Ownership) -> Self {
        Self { log, sink, ownership, quiet: None, turn: 0 }
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
        let (mut messages, mut watermarks) = (Vec::new(), BTreeMap::new());
        for read in &entries {
            watermarks.insert(read.slot, read.position);
            for event in domain_events(read.saga_id, &read.business_key, &read.entry) {
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
