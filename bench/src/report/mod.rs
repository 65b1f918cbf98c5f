//! The report: a table on stdout, everything as JSON in a file.

pub mod plots;
pub mod table;

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write as _, stderr},
};

use serde::Serialize;

use crate::{
    args::{Mix, Mode},
    books::Books,
    history::Lateness,
    machine::Machine,
    meter::{
        latency::Latency,
        postgres::{Statement, Wal},
    },
    profile::Spent,
    takeover::Takeover,
};

/// A whole run, as it is written to the file.
#[derive(Debug, Serialize)]
pub struct Report {
    pub machine: Machine,
    pub begun_at: String,
    /// Servers' settings.
    pub postgres_settings: BTreeMap<String, String>,
    pub kafka_settings: BTreeMap<String, String>,
    pub kafka_jvm: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceiling_per_s: Option<f64>,
    pub rows: Vec<ReportRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub takeovers: Vec<Takeover>,
}

/// One row.
#[derive(Debug, Clone, Serialize)]
pub struct ReportRow {
    pub mode: Mode,
    pub mix: Mix,
    pub r#loop: &'static str,
    pub in_flight: Option<usize>,
    pub rate_per_s: Option<f64>,
    pub engines: usize,
    pub lines: usize,
    /// Sagas that were parked before it began.
    #[serde(skip_serializing_if = "is_none")]
    pub parked: u64,
    /// Sagas that waited for a timer before it began.
    #[serde(skip_serializing_if = "is_none")]
    pub armed: u64,
    /// Sagas that had ended before it began.
    #[serde(skip_serializing_if = "is_none")]
    pub before_ended: u64,
    /// Whether the api wanted a token with each request.
    pub tokens: bool,
    /// Whether an idle transaction held a snapshot all the time.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// Where each process spent its time, if that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profile: Vec<Spent>,
    /// How late timers were, if any fired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timers: Option<Lateness>,
    /// The settings of every role.
    pub settings: BTreeMap<String, String>,
    /// The figures; `None` if the books do not balance.
    #[serde(flatten)]
    pub figures: Option<Figures>,
    pub books_balanced: bool,
    pub books: Books,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_none(sagas: &u64) -> bool {
    *sagas == 0
}

/// The figures of one row.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Length of the window, in seconds.
    pub seconds: f64,
    /// Number of sagas that ended in the window.
    pub sagas: usize,
    pub sagas_per_s: f64,
    /// From POST or birth to `FULFILLED` (or to the end of what is undone), as seen by the load.
    #[serde(flatten)]
    pub latency: Option<Latency>,
    /// From POST to its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Latency>,
    /// From a GET to its answer, where the load reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read: Option<Latency>,
    /// From birth to `FULFILLED` as the database has it; with one in flight only, as a check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<Latency>,
    /// CPU milliseconds a saga of all processes but the load's.
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub statements: Vec<Statement>,
    /// Sagas a second in each sixth of the window.
    pub sixths_sagas_per_s: Vec<f64>,
    /// Sagas a second of all measurements of which this is the median.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub all_sagas_per_s: Vec<f64>,
}

impl ReportRow {
    /// `orders`, or `orders with tokens`; the mode `shop` always has them.
    pub fn mode_title(&self) -> String {
        let with = if self.tokens && self.mode != Mode::Shop { " with tokens" } else { "" };
        format!("{}{with}", table::word(&self.mode))
    }

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
        format!("{}{mix}, {pace}", self.mode_title())
    }
}

/// Prints a progress line on stderr; on a terminal it replaces the last one.
pub fn progress(line: &str) {
    let mut stderr = stderr().lock();
    let _ = match stderr.is_terminal() {
        true => write!(stderr, "\r\x1b[K  {line}"),
        false => writeln!(stderr, "    {line}"),
    };
    let _ = stderr.flush();
}

/// Prints a line on stderr that stays.
pub fn say(line: &str) {
    let mut stderr = stderr().lock();
    let clear = if stderr.is_terminal() { "\r\x1b[K" } else { "" };
    let _ = writeln!(stderr, "{clear}{line}");
}

#[cfg(test)]
pub mod tests {
    use std::time::Duration;

    use super::*;

    /// A row for the tests below.
    pub fn row(mode: Mode, in_flight: usize) -> ReportRow {
        let figures = Figures {
            seconds: 20.0,
            sagas: 20_000,
            sagas_per_s: 1_000.0,
            latency: Latency::of((1..=100).map(Duration::from_millis)),
            answer: None,
            read: None,
            stored: None,
            cpu_ms_per_saga: 0.75,
            cpu_ms_per_saga_by_group: BTreeMap::from([("engine", 0.25), ("load", 0.125), ("postgres", 0.5)]),
            cores_busy: 0.875,
            commits_per_saga: 0.0625,
            transactions_per_saga: 0.125,
            wal_bytes_per_saga: 5_000.0,
            wal: Wal { bytes: 100_000_000, commits: 1_250, records: 400_000, full_page_bytes: 0 },
            kafka_bytes_per_saga: 3_000.0,
            memory_mb: BTreeMap::from([("engine", 20.0)]),
            statements: Vec::new(),
            sixths_sagas_per_s: vec![1_000.0; 6],
            all_sagas_per_s: Vec::new(),
        };
        ReportRow {
            mode,
            mix: Mix::Fulfilled,
            r#loop: "closed",
            in_flight: Some(in_flight),
            rate_per_s: None,
            engines: 1,
            lines: 1,
            parked: 0,
            armed: 0,
            before_ended: 0,
            tokens: false,
            pinned: false,
            profile: Vec::new(),
            timers: None,
            settings: BTreeMap::new(),
            figures: Some(figures),
            books_balanced: true,
            books: Books {
                labels: BTreeMap::from([("FULFILLED".to_owned(), 20_000)]),
                violations: Vec::new(),
            },
        }
    }

    fn report(rows: Vec<ReportRow>) -> Report {
        let text = String::new;
        Report {
            machine: Machine {
                cpu: "a CPU".into(),
                cores: 2,
                memory_gb: 24.0,
                system: text(),
                kernel: text(),
                file_system: text(),
                postgres: text(),
                kafka: text(),
                java: text(),
                commit: text(),
            },
            begun_at: "2026-01-01T00:00:00Z".into(),
            postgres_settings: BTreeMap::from([("fsync".to_owned(), "on".to_owned())]),
            kafka_settings: BTreeMap::new(),
            kafka_jvm: "-Xmx1g".into(),
            reference_per_s: Some(20_000.0),
            ceiling_per_s: Some(10_000.0),
            rows,
            takeovers: Vec::new(),
        }
    }

    #[test]
    fn the_json_has_what_others_read() {
        insta::assert_json_snapshot!(report(vec![row(Mode::Orders, 512)]));
    }

    #[test]
    fn a_row_whose_books_do_not_balance_has_no_figures() {
        let mut bad = row(Mode::Orders, 1);
        (bad.books_balanced, bad.figures) = (false, None);
        bad.books.violations.push("pieces taken: 2 expected, 1 found".into());
        let report = report(vec![row(Mode::Engine, 512), bad]);
        insta::assert_snapshot!(table::render(&report));
    }

    #[test]
    fn a_row_with_tokens_says_so() {
        let with = ReportRow { tokens: true, ..row(Mode::Orders, 512) };
        assert_eq!(with.title(), "orders with tokens, 512 in flight");
        assert_eq!(ReportRow { tokens: true, ..row(Mode::Shop, 512) }.title(), "shop, 512 in flight");
        let shown = table::render(&report(vec![with, row(Mode::Orders, 512)]));
        assert!(
            shown.contains("\norders with tokens fulfilled ") && shown.contains("\norders fulfilled "),
            "{shown}"
        );
    }

    #[test]
    fn plots_are_drawn_from_three_levels_on() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let rows = |levels: &[usize]| levels.iter().map(|n| row(Mode::Orders, *n)).collect::<Vec<_>>();
        assert!(!plots::write(&rows(&[1, 512]), directory).unwrap());
        assert!(plots::write(&rows(&[1, 32, 512]), directory).unwrap());
        let drawn = std::fs::read_to_string(directory.join("latency.svg")).unwrap();
        assert!(drawn.contains("orders, p99"));
    }
}
