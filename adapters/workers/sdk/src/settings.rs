//! Settings of a worker.

use std::time::Duration;

use amends_protocol::CommandKeys;
use chrono::TimeDelta;

use crate::decide::Memory;

/// A worker's settings. Start from [`Settings::new`].
#[derive(Debug, Clone)]
pub struct Settings {
    /// The worker's name, in logs and metrics.
    pub name: String,
    /// The topic of its commands.
    pub command_topic: String,
    /// The topic of its replies.
    pub reply_topic: String,
    /// The keys whose signatures are accepted. Without any, signatures are not checked.
    pub keys: CommandKeys,
    /// Whether a command without a signature is dead-lettered.
    pub require_signatures: bool,
    /// Maximum number of commands in one transaction.
    pub batch_max: usize,
    /// How long to wait for commands before checking for other work.
    pub patience: Duration,
    /// Maximum age of an execute that arrives for the first time.
    pub horizon: Duration,
    /// How long after its saga's birth a row is kept.
    pub retention: Duration,
    /// Maximum number of concurrent external calls.
    pub concurrency: usize,
    /// Maximum number of rows, in addition, whose unanswered calls are looked up concurrently. Rows that cannot be
    /// settled use up only these.
    pub unsure_concurrency: usize,
    /// How long a call may stay unanswered before its outcome counts as unknown.
    pub call_timeout: Duration,
    /// How long a call belongs to its instance unless the lease is renewed.
    pub lease: Duration,
    /// Interval between searches for calls that are due.
    pub recovery_interval: Duration,
    /// How long a stopping worker waits for calls in progress.
    pub grace: Duration,
}

impl Settings {
    /// Returns the defaults for a worker of this name: it reads `<name>.commands` and answers on `saga.replies`.
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

    /// Returns the age up to which the worker can answer without a row.
    pub(crate) fn memory(&self) -> Memory {
        let delta = |duration| TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX);
        Memory { horizon: delta(self.horizon), retention: delta(self.retention) }
    }
}
