//! What engine and workers ask of whatever carries their messages. `amends-kafka` implements it over Kafka,
//! a simulator over a seed. Delivery is at least once and in no order that anything may rest on.

use std::{future::Future, time::Duration};

use uuid::Uuid;

/// A message as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbound {
    /// Topic it came from.
    pub topic: String,
    /// Partition it came from.
    pub partition: i32,
    /// Its place there.
    pub offset: i64,
    /// W3C trace context of the sender.
    pub traceparent: Option<String>,
    /// The sender's signature of the bytes ([`crate::SIGNATURE_HEADER`]).
    pub signature: Option<String>,
    /// What it says, not yet believed.
    pub bytes: Vec<u8>,
}

/// Messages received together, and the receipt by which their offsets may move.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// In order of arrival; empty if nothing came within the caller's patience.
    pub messages: Vec<Inbound>,
    /// For [`Source::commit`].
    pub receipt: u64,
}

/// Which partition a message goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// With the others of this call that say so: one partition a topic and call, another each time. For commands.
    Together,
    /// Slot modulo the topic's present count of partitions. For replies and domain events.
    Home(u16),
}

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
    /// Topic it goes to.
    pub topic: String,
    /// Partition it goes to.
    pub placement: Placement,
    /// The message's key: the saga or order it is about. Nothing depends on it.
    pub key: Uuid,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// What it says.
    pub bytes: Vec<u8>,
}

/// The partitions that a source owns at the moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Changes with every rebalance; 0 before the first.
    pub generation: u64,
    /// Partitions owned, sorted.
    pub partitions: Vec<i32>,
    /// How many partitions the topic has.
    pub count: i32,
}

impl Assignment {
    /// Whether a saga's home is here.
    pub fn owns(&self, slot: u16) -> bool {
        self.count > 0 && self.partitions.binary_search(&(i32::from(slot) % self.count)).is_ok()
    }
}

/// The transport could not do what was asked; asking again may help.
#[derive(Debug, Clone, thiserror::Error)]
#[error("transport: {0}")]
pub struct Error(pub String);

/// Where messages come from. One owner at a time reads it.
pub trait Source: Send {
    /// All that is there, up to `max`, without waiting for more. Waits until there is something, at most for
    /// `patience`; then the batch is empty. Dropping the future loses no message.
    fn receive(
        &mut self,
        max: usize,
        patience: Duration,
    ) -> impl Future<Output = Result<Batch, Error>> + Send;

    /// All that was received up to and with this receipt is settled: its offsets may move. Receipts of
    /// partitions that were lost meanwhile are ignored. Returns before the broker has answered.
    fn commit(&mut self, receipt: u64) -> Result<(), Error>;

    /// Forgets everything received after the last committed receipt, so that it is received again.
    fn rewind(&mut self) -> Result<(), Error>;

    /// The partitions owned now.
    fn assignment(&self) -> Assignment;
}

/// Where messages go.
pub trait Sink: Send + Sync {
    /// Sends all of them; ends once the broker has acknowledged every one. After an error some may have been sent.
    fn send(&self, messages: Vec<Outbound>) -> impl Future<Output = Result<(), Error>> + Send;

    /// Puts a message that cannot be read or routed on `<topic>.DLT`, with reason, topic, partition and
    /// offset in its headers.
    fn dead_letter(&self, message: &Inbound, reason: &str) -> impl Future<Output = Result<(), Error>> + Send;
}
