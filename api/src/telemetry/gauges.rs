//! What a process measures of itself, every two seconds.

use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;

use crate::links::Pools;

/// Interval between two measurements.
const MEASURE_EVERY: Duration = Duration::from_secs(2);

/// Measures until `stop`. It also adds the recorded observations to their histograms: until then each takes memory, and
/// nobody may ever read `/metrics`.
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
