//! Metrics of every process: its database, its broker, its spans, its version.

use super::{
    LabelValues::{Each, SomeOf},
    Metric,
    RecordedBy::{Every, Readers},
    counter, gauge, histogram,
    values::{DATABASE, POOL, groups, owned, topics_read},
};

pub(super) const METRICS: &[Metric] = &[
    gauge(
        "amends_postgres_connections",
        Every,
        &[POOL, ("state", Each(|| owned(&["in_use", "idle"])))],
        "Open connections to a database.",
    ),
    histogram("amends_postgres_acquire_seconds", Every, &[POOL], "How long callers wait for a connection."),
    counter(
        "amends_postgres_calls_unanswered_total",
        Every,
        &[],
        "Calls of a database that this program ended because no answer came.",
    ),
    counter("amends_postgres_slow_statements_total", Every, &[], "Statements that took a second and more."),
    counter(
        "amends_database_commits_total",
        Readers,
        &[DATABASE],
        "Transactions that all clients of the database have committed while this process ran. Take max of the rate.",
    ),
    counter(
        "amends_database_wal_bytes_total",
        Readers,
        &[DATABASE],
        "WAL that the database's server has written while this process ran, for all databases. Take max of the rate.",
    ),
    gauge(
        "amends_kafka_lag_messages",
        Readers,
        &[("group", SomeOf(groups)), ("topic", SomeOf(topics_read))],
        "Messages after the committed offsets of the partitions that this process owns: take sum.",
    ),
    // Spans.
    counter("amends_trace_spans_exported_total", Every, &[], "Spans that the collector has taken."),
    counter(
        "amends_trace_spans_dropped_total",
        Every,
        &[("reason", Each(|| owned(&["queue_full", "export_failed"])))],
        "Spans that the collector did not get: it is slower than they come, or did not take them.",
    ),
    gauge(
        "amends_build_info",
        Every,
        &[("version", SomeOf(|| owned(&[env!("CARGO_PKG_VERSION")])))],
        "1, with the version of the program.",
    ),
];
