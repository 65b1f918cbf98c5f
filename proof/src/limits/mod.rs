//! Limits under stress: what a whole deployment must sustain, each measured on real processes and either held or not.

mod away;
mod backlog;
mod failing;
mod load;
mod overdue;
mod overload;
mod pinned;
mod returns;
mod silent;
mod stage;
mod storm;
mod unsent;

use std::{fmt, path::Path};

use crate::{books, campaign, deployment};

/// Why a limit could not be measured. (A limit that is not held is an outcome.)
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Servers or processes did not start.
    #[error(transparent)]
    Deployment(#[from] deployment::Error),
    /// A database does not answer.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The books cannot be read.
    #[error(transparent)]
    Books(#[from] books::Error),
    /// A fleet of processes did not start.
    #[error(transparent)]
    Fleet(#[from] campaign::Error),
    /// The condition for the measurement was not reached.
    #[error("{0}")]
    NotReached(String),
    /// A topic cannot be read.
    #[error("broker: {0}")]
    Broker(#[from] rdkafka::error::KafkaError),
    /// A process' memory or metrics cannot be read.
    #[error("reading {what}: {why}")]
    Unreadable {
        /// The process or metric.
        what: String,
        /// The cause.
        why: String,
    },
}

/// The requirement, the measurement, and whether it is within the requirement.
#[derive(Debug)]
pub struct Finding {
    /// The requirement in words, with its figures.
    pub asked: &'static str,
    /// The measurement in words, with its figures.
    pub measured: String,
    /// Every violated requirement; empty if the limit is held.
    pub broken: Vec<String>,
}

impl Finding {
    /// Returns whether the limit is held.
    pub fn is_held(&self) -> bool {
        self.broken.is_empty()
    }
}

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// 100,000 timers are overdue when the engine returns.
    Overdue,
    /// Five times as many orders arrive as are admitted.
    Overload,
    /// A worker fails every call.
    Failing,
    /// All processes lose the database at the same moment.
    Storm,
    /// A worker was away for three deadlines of its step.
    Backlog,
    /// An idle transaction keeps every dead row.
    Pinned,
    /// The broker is away for ten minutes.
    Unsent,
    /// One participant is away, and 300,000 sagas wait for it.
    Away,
    /// All connections to the database go silent.
    Silent,
    /// Shipped orders are returned and refunded at once.
    Returns,
}

/// All limits.
pub const ALL: [Limit; 10] = [
    Limit::Overdue,
    Limit::Overload,
    Limit::Failing,
    Limit::Storm,
    Limit::Backlog,
    Limit::Pinned,
    Limit::Unsent,
    Limit::Away,
    Limit::Silent,
    Limit::Returns,
];

impl Limit {
    /// Returns the name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Overdue => "overdue",
            Limit::Overload => "overload",
            Limit::Failing => "failing",
            Limit::Storm => "storm",
            Limit::Backlog => "backlog",
            Limit::Pinned => "pinned",
            Limit::Unsent => "unsent",
            Limit::Away => "away",
            Limit::Silent => "silent",
            Limit::Returns => "returns",
        }
    }

    /// Measures the limit with its own deployment; `size` is the fraction of the required size for `unsent`,
    /// `away` and `returns`.
    ///
    /// # Errors
    /// [`Error`]: it could not be measured.
    pub async fn measure(self, program: &Path, size: f64) -> Result<Finding, Error> {
        match self {
            Limit::Overdue => overdue::measure(program).await,
            Limit::Overload => overload::measure(program).await,
            Limit::Failing => failing::measure(program).await,
            Limit::Storm => storm::measure(program).await,
            Limit::Backlog => backlog::measure(program).await,
            Limit::Pinned => pinned::measure(program).await,
            Limit::Unsent => unsent::measure(program, size).await,
            Limit::Away => away::measure(program, size).await,
            Limit::Silent => silent::measure(program).await,
            Limit::Returns => returns::measure(program, size).await,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "asked: {}; measured: {}; ", self.asked, self.measured)?;
        if self.is_held() { f.write_str("held") } else { write!(f, "NOT HELD: {}", self.broken.join("; ")) }
    }
}

/// Collects violated requirements.
#[derive(Debug, Default)]
struct Check(Vec<String>);

impl Check {
    fn that(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.0.push(otherwise());
        }
    }
}

/// Returns the value below which this share of the sorted values lies; 0 if there are none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied().unwrap_or_default()
}

/// Returns the median of values in any order; 0 if there are none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    quantile(&values, 0.5)
}
