//! Metrics of workers: commands, stock, messages to customers.

use super::{
    LabelValues::Each,
    Metric,
    RecordedBy::{self, Executors, Role},
    counter, gauge, histogram,
    values::{KIND, OUTCOME, WORKER, channels, owned},
};

const NOTIFICATION: RecordedBy = Role("notification");

pub(super) const METRICS: &[Metric] = &[
    counter("amends_worker_commands_total", Executors, &[WORKER, KIND, OUTCOME], "Commands answered."),
    histogram("amends_worker_batch_size", Executors, &[WORKER], "Commands in a batch."),
    gauge("amends_worker_calls_in_flight", Executors, &[WORKER], "Calls of external systems in progress."),
    counter(
        "amends_worker_dead_letters_total",
        Executors,
        &[WORKER],
        "Commands that cannot be read, or whose signature is wrong.",
    ),
    counter(
        "amends_worker_passed_over_total",
        Executors,
        &[WORKER],
        "Commands that were left because another transaction holds their rows.",
    ),
    counter(
        "amends_worker_trials_failed_total",
        Executors,
        &[WORKER],
        "Trials of a batch that were done again because another instance had the same commands.",
    ),
    counter(
        "amends_inventory_cache_waits_total",
        Role("inventory"),
        &[],
        "Waits until stock in a Redis that is away has expired.",
    ),
    counter(
        "amends_notifications_recorded_total",
        NOTIFICATION,
        &[],
        "Messages to customers that were recorded.",
    ),
    counter(
        "amends_notifications_total",
        NOTIFICATION,
        &[
            ("channel", Each(channels)),
            ("outcome", Each(|| owned(&["sent", "retried", "failed", "skipped"]))),
        ],
        "Attempts to send a message to a customer.",
    ),
    gauge(
        "amends_notifications_waiting",
        NOTIFICATION,
        &[("channel", Each(channels))],
        "Messages that wait to be sent, or to be tried again, up to 100,000. Every worker counts all: take max.",
    ),
];
