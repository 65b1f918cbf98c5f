//! Ports for the transport of messages. `amends-kafka` implements them over Kafka, a simulator over a seed. Delivery is
//! at least once, and nothing may rely on its order.

use std::{future::Future, time::Duration};

use uuid::Uuid;

/// A received message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbound {
    /// The topic from which it was received.
    pub topic: String,
    /// The partition from which it was received.
    pub partition: i32,
    /// Its offset in the partition.
    pub offset: i64,
    /// W3C trace context of the sender.
    pub traceparent: Option<String>,
    /// The sender's signature of the bytes ([`crate::SIGNATURE_HEADER`]).
    pub signature: Option<String>,
    /// The content, not yet validated.
    pub bytes: Vec<u8>,
}

/// Messages received together, and the receipt with which their offsets are committed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// In order of arrival; empty if nothing arrived within the caller's patience.
    pub messages: Vec<Inbound>,
    /// For [`Source::commit`].
    pub receipt: u64,
}

/// How a message's partition is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// In one partition with the call's other messages of this placement: one partition per topic and call, another for
    /// each call. For commands.
    Together,
    /// Slot modulo the topic's present number of partitions. For replies and domain events.
    Slot(u16),
}

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
    /// The topic.
    pub topic: String,
    /// How the partition is chosen.
    pub placement: Placement,
    /// The message's key: the saga or order that it is about. Nothing depends on it.
    pub key: Uuid,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// The content.
    pub bytes: Vec<u8>,
}

/// The partitions that a source owns at present.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Changes at every rebalance; 0 before the first.
    pub generation: u64,
    /// The owned partitions, sorted.
    pub partitions: Vec<i32>,
    /// Number of the topic's partitions.
    pub count: i32,
}

impl Assignment {
    /// Returns whether the slot's partition is owned.
    pub fn owns(&self, slot: u16) -> bool {
        self.count > 0 && self.partitions.binary_search(&(i32::from(slot) % self.count)).is_ok()
    }
}

/// The transport could not do what was asked; a retry may succeed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("transport: {0}")]
pub struct Error(pub String);

/// A source of messages, read by one owner at a time.
pub trait Source: Send {
    /// Returns all messages that have arrived, up to `max`, without waiting for more. If there are none, waits at most
    /// for `patience` until there are; then the batch is empty. Dropping the future loses no message.
    fn receive(
        &mut self,
        max: usize,
        patience: Duration,
    ) -> impl Future<Output = Result<Batch, Error>> + Send;

    /// Marks everything up to and including this receipt as settled, so that its offsets may move. Receipts of
    /// partitions that were lost meanwhile are ignored. Returns before the broker has answered.
    fn commit(&mut self, receipt: u64) -> Result<(), Error>;

    /// Discards everything received after the last committed receipt, so that it is received again.
    fn rewind(&mut self) -> Result<(), Error>;

    /// Returns the partitions owned now.
    fn assignment(&self) -> Assignment;
}

/// A sink for messages.
pub trait Sink: Send + Sync {
    /// Sends all messages; completes once the broker has acknowledged every one. After an error, some may have been
    /// sent.
    fn send(&self, messages: Vec<Outbound>) -> impl Future<Output = Result<(), Error>> + Send;

    /// Sends a message that cannot be read or routed to `<topic>.DLT`, with reason, topic, partition and offset in its
    /// headers.
    fn dead_letter(&self, message: &Inbound, reason: &str) -> impl Future<Output = Result<(), Error>> + Send;
}
