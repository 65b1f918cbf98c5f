//! Percentiles, exactly: every latency is kept.

use std::time::Duration;

use serde::Serialize;

/// Percentiles in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    pub count: usize,
    pub mean_ms: f64,
    pub p10_ms: f64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

impl Latency {
    /// The percentiles of these latencies; `None` if there are none.
    pub fn of(latencies: impl IntoIterator<Item = Duration>) -> Option<Self> {
        let mut all: Vec<Duration> = latencies.into_iter().collect();
        all.sort_unstable();
        let max = *all.last()?;
        let ms = |latency: Duration| latency.as_secs_f64() * 1_000.0;
        // The least that at least this share is not above.
        let percentile = |share: f64| {
            let rank = (share * all.len() as f64).ceil() as usize;
            ms(all[rank.clamp(1, all.len()) - 1])
        };
        Some(Self {
            count: all.len(),
            mean_ms: all.iter().copied().map(ms).sum::<f64>() / all.len() as f64,
            p10_ms: percentile(0.10),
            p50_ms: percentile(0.50),
            p90_ms: percentile(0.90),
            p99_ms: percentile(0.99),
            p999_ms: percentile(0.999),
            max_ms: ms(max),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_is_one_that_was_measured() {
        assert_eq!(Latency::of([]), None);
        let one = Latency::of([Duration::from_millis(7)]).unwrap();
        assert_eq!((one.p10_ms, one.p50_ms, one.p999_ms, one.max_ms), (7.0, 7.0, 7.0, 7.0));
        let thousand = Latency::of((1..=1_000).rev().map(Duration::from_millis)).unwrap();
        assert_eq!((thousand.p50_ms, thousand.p99_ms), (500.0, 990.0));
        assert_eq!((thousand.p999_ms, thousand.max_ms, thousand.mean_ms), (999.0, 1_000.0, 500.5));
    }
}
