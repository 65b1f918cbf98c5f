//! Logs to stderr, metrics for `/metrics`, spans to a collector.

pub mod catalog;
mod repeats;

use std::{io::IsTerminal, sync::OnceLock, time::Duration};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use repeats::Repeats;

use crate::{
    links::Pools,
    settings::{LogFormat, Settings, redacted},
};

/// Interval between two measurements.
const MEASURE_EVERY: Duration = Duration::from_secs(2);

/// What was left out of the logs; set by [`logs`].
static REPEATS: OnceLock<Repeats> = OnceLock::new();

/// Starts logging; returns the error of an invalid filter.
pub fn logs(settings: &Settings) -> Result<(), String> {
    // The scheduler logs its own start, and Postgres logs what it need not do.
    let filter = format!("tokio_cron_scheduler=warn,sqlx::postgres::notice=warn,{}", settings.log);
    let filter =
        EnvFilter::try_new(filter).map_err(|e| format!("setting: log: {}", redacted(&e.to_string())))?;
    let colours = std::io::stderr().is_terminal();
    let repeats = Repeats::default();
    let registry = tracing_subscriber::registry().with(filter).with(repeats.clone());
    let started = match settings.log_format {
        LogFormat::Text => {
            let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false);
            registry.with(layer).try_init()
        }
        LogFormat::Json => {
            let layer = fmt::layer().json().with_writer(std::io::stderr);
            registry.with(layer).try_init()
        }
    };
    started.map_err(|e| e.to_string())?;
    REPEATS.get_or_init(|| repeats).summarise();
    Ok(())
}

/// Starts the recording of spans; returns the loop that exports them. `None` without an endpoint in the settings.
pub fn traces(settings: &Settings) -> Option<amends_telemetry::Export> {
    settings.traces().and_then(amends_telemetry::start)
}

/// Logs how many lines were left out and not yet counted, before the program ends.
pub fn end_logs() {
    if let Some(repeats) = REPEATS.get() {
        repeats.flush();
    }
}

/// Starts the metrics; the handle renders them. [`catalog::begin`] follows, once it is known what runs.
pub fn metrics() -> Result<PrometheusHandle, BuildError> {
    const SECONDS: [f64; 15] =
        [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.04, 0.06, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
    // A saga, and each of its steps, ends in milliseconds, or waits for a gateway, for an operator, for days.
    const SAGA_SECONDS: [f64; 14] =
        [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];
    const SIZES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
    let full = |name: &str| Matcher::Full(name.to_owned());
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(full("amends_engine_saga_seconds"), &SAGA_SECONDS)?
        .set_buckets_for_metric(full("amends_engine_step_seconds"), &SAGA_SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), &SIZES)?
        .install_recorder()
}

/// Measures what a process has of itself, until `stop`. It also adds the recorded observations to their histograms: until
/// then each takes memory, and nobody may ever read `/metrics`.
pub async fn measure(metrics: PrometheusHandle, pools: Pools, stop: CancellationToken) {
    metrics::gauge!("amends_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    while !stop.is_cancelled() {
        metrics.run_upkeep();
        pools.each(|pool| {
            let occupancy = pool.occupancy();
            for (state, connections) in [("in_use", occupancy.in_use), ("idle", occupancy.idle)] {
                let labels = [("pool", occupancy.name.to_owned()), ("state", state.to_owned())];
                metrics::gauge!("amends_postgres_connections", &labels).set(connections as f64);
            }
        });
        tokio::select! {
            () = tokio::time::sleep(MEASURE_EVERY) => {}
            () = stop.cancelled() => {}
        }
    }
}
