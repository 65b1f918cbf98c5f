//! What is shown and kept: one table on stdout, everything as JSON.

pub mod table;

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write as _, stderr},
};

use serde::Serialize;

use crate::{
    args::{Mix, Mode},
    books::Books,
    machine::Machine,
    meter::{
        latency::Latency,
        postgres::{Statement, Wal},
    },
};

/// All of a run, as it is written.
#[derive(Debug, Serialize)]
pub struct Report {
    pub machine: Machine,
    pub begun_at: String,
    /// Servers' settings.
    pub postgres_settings: BTreeMap<String, String>,
    pub kafka_jvm: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceiling_per_s: Option<f64>,
    pub rows: Vec<Row>,
}

/// One row. A row whose books do not balance has no figures in the table; here they are, for whoever looks for the
/// reason.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub mode: Mode,
    pub mix: Mix,
    pub r#loop: &'static str,
    pub in_flight: Option<usize>,
    pub rate_per_s: Option<f64>,
    pub engines: usize,
    pub lines: usize,
    pub seconds: f64,
    /// Ended in the window.
    pub sagas: usize,
    pub sagas_per_s: f64,
    /// From POST or birth to `FULFILLED` (or to the end of what is undone), as seen by the load.
    #[serde(flatten, serialize_with = "flat")]
    pub latency: Option<Latency>,
    /// From POST to its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Latency>,
    /// All processes but the load.
    pub cpu_ms_per_saga: f64,
    pub cpu_ms_per_saga_by_group: BTreeMap<&'static str, f64>,
    /// Cores that all of them, the load too, kept busy.
    pub cores_busy: f64,
    /// Commit records in the WAL, of all databases.
    pub commits_per_saga: f64,
    /// Transactions that ended well, reading ones too.
    pub transactions_per_saga: f64,
    pub wal_bytes_per_saga: f64,
    pub wal: Wal,
    pub kafka_bytes_per_saga: f64,
    /// Proportional set size by group, at the end of the window.
    pub memory_mb: BTreeMap<&'static str, f64>,
    pub settings: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub statements: Vec<Statement>,
    pub books_balanced: bool,
    pub books: Books,
    /// Sagas a second of all measurements of which this is the median.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<f64>,
}

/// The percentiles beside the other columns; `null` where nothing ended.
fn flat<S: serde::Serializer>(latency: &Option<Latency>, serializer: S) -> Result<S::Ok, S::Error> {
    latency.serialize(serializer)
}

impl Row {
    /// `orders, 512 in flight`.
    pub fn title(&self) -> String {
        let mix = match self.mix {
            Mix::Fulfilled => String::new(),
            mix => format!(" {}", table::word(&mix)),
        };
        let pace = match (self.in_flight, self.rate_per_s) {
            (Some(places), _) => format!("{places} in flight"),
            (_, rate) => format!("{:.0}/s arriving", rate.unwrap_or_default()),
        };
        format!("{}{mix}, {pace}", table::word(&self.mode))
    }
}

/// One line on stderr: on a terminal over the last one.
pub fn progress(line: &str) {
    let mut stderr = stderr().lock();
    let _ = if stderr.is_terminal() { write!(stderr, "\r\x1b[K  {line}") } else { Ok(()) };
    let _ = stderr.flush();
}

/// A line on stderr that stays.
pub fn say(line: &str) {
    let mut stderr = stderr().lock();
    let clear = if stderr.is_terminal() { "\r\x1b[K" } else { "" };
    let _ = writeln!(stderr, "{clear}{line}");
}
