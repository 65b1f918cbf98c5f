//! Logs to stderr, metrics for `/metrics`, spans to a collector.

use std::io::IsTerminal;

use amends_engine::port::OddReason;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::settings::{LogFormat, Settings, redacted};

/// Starts logging; returns the error of an invalid filter.
pub fn logs(settings: &Settings) -> Result<(), String> {
    // The scheduler logs its own start, and Postgres logs what it need not do.
    let filter = format!("tokio_cron_scheduler=warn,sqlx::postgres::notice=warn,{}", settings.log);
    let filter =
        EnvFilter::try_new(filter).map_err(|e| format!("setting: log: {}", redacted(&e.to_string())))?;
    let colours = std::io::stderr().is_terminal();
    let registry = tracing_subscriber::registry().with(filter);
    let started = match settings.log_format {
        LogFormat::Text => {
            let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false);
            registry.with(layer).try_init()
        }
        LogFormat::Json => registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init(),
    };
    started.map_err(|e| e.to_string())
}

/// Starts the recording of spans; returns the loop that exports them. `None` without an endpoint in the settings.
pub fn traces(settings: &Settings) -> Option<amends_telemetry::Export> {
    settings.traces().and_then(amends_telemetry::start)
}

/// Events that should never happen.
const RARE: [&str; 6] = [
    "amends_engine_dead_letters_total",
    "amends_engine_forged_replies_total",
    "amends_engine_incidents_total",
    "amends_engine_odd_notes_lost_total",
    "amends_engine_poisoned_total",
    "amends_engine_strays_total",
];

/// Starts the metrics; the handle renders them.
pub fn metrics() -> Result<PrometheusHandle, BuildError> {
    const SECONDS: [f64; 15] =
        [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.04, 0.06, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
    // A saga ends in milliseconds, or waits for a gateway, for an operator, for days.
    const SAGA_SECONDS: [f64; 14] =
        [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];
    const SIZES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full("amends_engine_saga_seconds".to_owned()), &SAGA_SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), &SIZES)?
        .install_recorder()
        .inspect(|_| {
            // They exist from the start, so that the first such event is an increase.
            for name in RARE {
                metrics::counter!(name).increment(0);
            }
            for reason in OddReason::ALL {
                metrics::counter!("amends_engine_odd_replies_total", "reason" => reason.as_str())
                    .increment(0);
            }
        })
}
