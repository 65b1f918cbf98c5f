//! What can be set for a worker.

use std::time::Duration;

use amends_protocol::CommandKeys;
use chrono::TimeDelta;

use crate::decide::Memory;

/// A worker's settings. Start from [`Settings::new`].
#[derive(Debug, Clone)]
pub struct Settings {
    /// The worker's name, in logs and metrics.
    pub name: String,
    /// The topic that its commands come from.
    pub command_topic: String,
    /// The topic that its replies go to.
    pub reply_topic: String,
    /// The keys whose signatures are believed. Without any, none is looked at.
    pub keys: CommandKeys,
    /// Whether a command without a signature is dead-lettered.
    pub require_signatures: bool,
    /// The most commands taken in one transaction.
    pub batch_max: usize,
    /// How long to wait for a command before looking up.
    pub patience: Duration,
    /// How old an execute may be when it is first seen.
    pub horizon: Duration,
    /// How long after its saga's birth a row is kept.
    pub retention: Duration,
    /// The most calls outside at a time.
    pub concurrency: usize,
    /// The most rows at a time, besides, whose unanswered calls are looked up. Rows that nobody can settle use up only
    /// these.
    pub unsure_concurrency: usize,
    /// How long a call may be silent before its outcome counts as unknown.
    pub call_timeout: Duration,
    /// How long a call belongs to its instance unless renewed.
    pub lease: Duration,
    /// How often to look for calls that are due.
    pub recovery_interval: Duration,
    /// How long a stopping worker waits for calls under way.
    pub grace: Duration,
}

impl Settings {
    /// The defaults for a worker of this name: it reads `<name>.commands` and answers on `saga.replies`.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            command_topic: format!("{name}.commands"),
            name,
            reply_topic: "saga.replies".into(),
            keys: CommandKeys::default(),
            require_signatures: false,
            batch_max: 500,
            patience: Duration::from_millis(500),
            horizon: Duration::from_hours(14 * 24),
            retention: Duration::from_hours(400 * 24),
            concurrency: 256,
            unsure_concurrency: 64,
            call_timeout: Duration::from_secs(5),
            lease: Duration::from_secs(30),
            recovery_interval: Duration::from_millis(500),
            grace: Duration::from_secs(10),
        }
    }

    /// How far back its word reaches where it has no row.
    pub(crate) fn memory(&self) -> Memory {
        let delta = |duration| TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX);
        Memory { horizon: delta(self.horizon), retention: delta(self.retention) }
    }
}
