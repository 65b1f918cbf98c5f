//! Publishes domain events from the timeline: reads past each slot's watermark, sends, and moves the watermark once
//! everything is acknowledged. Delivery is at least once, and in order for each order within a topic. Watermarks are
//! stored once per second, and when slots change their owner: what was published since is published again after a
//! crash.
//!
//! An entry that this program cannot read (of a newer workflow, or by newer rules) stops its slot: the slot is handed
//! over to a program that can read it, which publishes from there on; then its owner continues after that.

mod numbers;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use amends_engine::{
    core::Known,
    runtime::{Error, News, Ownership},
};
use amends_orders::OrderStore;
use amends_postgres::{
    Database,
    events::{EventLog, Unpublished},
    handoffs::Handoffs,
    watermarks::Watermarks,
};
use amends_protocol::{
    trace::{OpenSpan, TraceContext, conventions},
    transport::{Outbound, Placement, Sink},
    wire,
};
use amends_workflows::{Workflows, events::DomainEvent, order_fulfilment::STATUSES};
use chrono::Utc;
use futures::future::try_join;
use uuid::Uuid;

use crate::webhooks::fan_out::FanOut;
use numbers::Numbers;

/// Maximum number of entries in a batch.
const ENTRIES_BATCH: u32 = 2000;
/// From this number of entries on, more entries are about to come and are sent together.
const ENTRIES_MANY: usize = 32;
/// Pauses after a small and a large batch: no saga waits for domain events, and each batch costs a read and a request
/// per topic.
const PUBLISHER_RESTS: [Duration; 2] = [Duration::from_millis(25), Duration::from_millis(100)];

/// Returns the pause after a batch of this size.
pub fn rest(entries: usize) -> Duration {
    match entries {
        few if few < ENTRIES_MANY => PUBLISHER_RESTS[0],
        many if many < ENTRIES_BATCH as usize => PUBLISHER_RESTS[1],
        _ => Duration::ZERO,
    }
}

/// Interval at which entries committed by other processes (new orders, an operator's action) are looked for, if this
/// engine has not processed their sagas before.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Publishes the slots that this process owns.
pub struct Publisher<K> {
    workflows: Workflows,
    known: Known,
    log: EventLog,
    watermarks: Watermarks,
    handoffs: Handoffs,
    numbers: Numbers,
    /// Plans the deliveries of webhooks.
    fan_out: FanOut,
    /// Own slots with an entry that this program cannot read.
    stopped: BTreeSet<u16>,
    /// The assignment whose watermarks are open.
    generation: Option<u64>,
    sink: K,
    ownership: Ownership,
    news: News,
    swept_at: Option<Instant>,
    /// When there was last nothing left to publish.
    caught_up_at: Instant,
    turn: usize,
}

impl<K: Sink> Publisher<K> {
    /// Creates a publisher for the owned slots of this database. `sink` must keep the order of its messages.
    /// What it publishes, `fan_out` plans for the webhooks first.
    pub fn new(
        workflows: Workflows,
        database: &Database,
        sink: K,
        ownership: Ownership,
        news: News,
        fan_out: FanOut,
    ) -> Self {
        Self {
            known: Known::of(&workflows.catalog()),
            workflows,
            log: EventLog::new(database.clone()),
            watermarks: Watermarks::new(database.clone()),
            handoffs: Handoffs::new(database.clone()),
            numbers: Numbers::new(OrderStore::new(database.clone())),
            fan_out,
            stopped: BTreeSet::new(),
            generation: None,
            sink,
            ownership,
            news,
            swept_at: None,
            caught_up_at: Instant::now(),
            turn: 0,
        }
    }

    /// Publishes one batch; returns the number of entries read.
    ///
    /// # Errors
    /// Store or transport; the batch is read again.
    pub async fn run_once(&mut self) -> Result<usize, Error> {
        let published = self.publish_news().await;
        if matches!(published, Ok(entries) if entries < ENTRIES_BATCH as usize) {
            self.caught_up_at = Instant::now();
        }
        // Of a run that hangs nothing is known: it counts as behind from the next run's end on.
        metrics::gauge!("amends_engine_publisher_behind_seconds")
            .set(self.caught_up_at.elapsed().as_secs_f64());
        metrics::gauge!("amends_engine_slots_handed_over").set(self.stopped.len() as f64);
        published
    }

    async fn publish_news(&mut self) -> Result<usize, Error> {
        let (assignment, _) = self.ownership.now();
        if self.generation != Some(assignment.generation) {
            self.watermarks.open(&self.ownership.slots()).await?;
            (self.generation, self.swept_at) = (Some(assignment.generation), None);
            self.stopped.clear();
            self.numbers.forget();
        }
        let mut slots = self.news.take();
        let sweep = self.swept_at.is_none_or(|at| at.elapsed() >= SWEEP_EVERY);
        if sweep {
            self.watermarks.keep().await?;
            self.watermarks.open_more(&self.ownership.slots()).await?;
            if !self.stopped.is_empty() {
                let stopped: Vec<u16> = std::mem::take(&mut self.stopped).into_iter().collect();
                self.watermarks.catch_up(&stopped).await?;
                self.numbers.forget();
            }
            self.take_over().await?;
            // A read of every slot costs milliseconds.
            slots = self.ownership.slots();
            self.swept_at = Some(Instant::now());
        }
        slots.retain(|&slot| assignment.owns(slot) && !self.stopped.contains(&slot));
        if slots.is_empty() {
            return Ok(0);
        }
        let published = self.publish(&mut slots).await;
        if !matches!(published, Ok(entries) if entries < ENTRIES_BATCH as usize) {
            // There is more, or it must be read again.
            slots.iter().for_each(|&slot| self.news.mark(slot));
        }
        published
    }

    /// Stores its watermarks.
    ///
    /// # Errors
    /// The database's.
    pub async fn end(mut self) -> Result<(), Error> {
        Ok(self.watermarks.keep().await?)
    }

    async fn publish(&mut self, slots: &mut [u16]) -> Result<usize, Error> {
        // A different slot is first each time, so that none waits behind the others for ever.
        self.turn = self.turn.wrapping_add(1);
        slots.rotate_left(self.turn % slots.len());
        let read = self.log.unpublished(&self.watermarks.of(slots), ENTRIES_BATCH, &self.known).await?;
        let sent = self.send(&read.entries).await;
        if sent.is_err() || !read.stopped.is_empty() {
            self.numbers.forget();
        }
        sent?;
        for read in &read.entries {
            self.watermarks.reach(read.slot, read.position);
        }
        if !read.stopped.is_empty() {
            self.handoffs.give(&read.stopped).await?;
            // They are not read again until it is known how far another program has published them.
            self.stopped.extend(read.stopped.iter().map(|handoff| handoff.slot));
        }
        Ok(read.entries.len())
    }

    /// Publishes entries that the owners of other slots cannot read.
    async fn take_over(&mut self) -> Result<(), Error> {
        for (slot, position) in self.handoffs.open(&self.known).await? {
            let read = self.log.unpublished(&[(slot, position - 1)], ENTRIES_BATCH, &self.known).await?;
            // What is known of these orders may be old: another program publishes them otherwise.
            self.numbers.forget();
            let sent = self.send(&read.entries).await;
            self.numbers.forget();
            sent?;
            self.handoffs.settle(slot, position, read.entries.last().map(|read| read.position)).await?;
        }
        Ok(())
    }

    /// Sends the domain events of these entries, in order.
    async fn send(&mut self, entries: &[Unpublished]) -> Result<(), Error> {
        if entries.is_empty() {
            return Ok(());
        }
        let before = self.numbers.before(&self.workflows, entries);
        let (before, webhooks) = try_join(before, self.fan_out.subscriptions()).await?;
        let (mut messages, mut events, mut spans) = (Vec::new(), Vec::new(), Vec::new());
        for (read, before) in entries.iter().zip(before) {
            let (version, key) = (read.workflow_version, &read.business_key);
            let (workflows, saga) = (&self.workflows, read.saga_id);
            for mut event in workflows.domain_events(&read.workflow, version, saga, key, &read.entry, before)
            {
                event.traceparent = read.trace.map(|trace| trace.to_string());
                let span = read.trace.and_then(|trace| sending(saga, &event, trace));
                let traceparent = span.as_ref().map(OpenSpan::context).or(read.trace);
                spans.extend(span);
                if !webhooks.is_empty() {
                    events.push(event.clone());
                }
                messages.push(Outbound {
                    placement: Placement::Slot(read.slot),
                    key: read.business_key.parse().unwrap_or(read.saga_id),
                    traceparent: traceparent.map(|context| context.to_string()),
                    bytes: wire::write(&event),
                    topic: event.r#type,
                });
            }
        }
        self.fan_out.plan(&webhooks, &events).await?;
        count_statuses(entries);
        metrics::counter!("amends_engine_domain_events_total").increment(messages.len() as u64);
        self.sink.send(messages).await?;
        spans.into_iter().for_each(OpenSpan::end);
        if let Some(oldest) = entries.iter().map(|read| read.entry.occurrence.at).min() {
            let lag = (Utc::now() - oldest).to_std().unwrap_or_default();
            metrics::histogram!("amends_engine_publish_lag_seconds").record(lag.as_secs_f64());
        }
        Ok(())
    }
}

/// Begins the span in which a domain event is sent. It is below the request that its saga was born of.
fn sending(saga: Uuid, event: &DomainEvent, trace: TraceContext) -> Option<OpenSpan> {
    let span = conventions::message("engine", conventions::Operation::Send, &event.r#type, trace)?;
    let saga = saga.to_string();
    Some(
        span.with(conventions::MESSAGING_MESSAGE_ID, event.id.clone())
            .with(conventions::MESSAGING_MESSAGE_CONVERSATION_ID, saga.clone())
            .with(conventions::SAGA, saga)
            .with(conventions::ORDER, event.subject.clone()),
    )
}

/// Counts the orders that reached a status. Entries that are published again are counted again.
fn count_statuses(entries: &[Unpublished]) {
    let mut reached = BTreeMap::<&'static str, u64>::new();
    for Unpublished { workflow, entry, .. } in entries {
        let status = amends_workflows::events::order_status(workflow, entry);
        // Labels are data for the engine: only known ones become a metric's label.
        if let Some(known) = STATUSES.iter().find(|known| Some(**known) == status) {
            *reached.entry(known).or_default() += 1;
        }
    }
    for (status, orders) in reached {
        metrics::counter!("amends_order_statuses_total", "status" => status).increment(orders);
    }
}
