//! Delay of a loop after consecutive failures.

use std::time::Duration;

/// Delay after a first failure.
const SHORTEST: Duration = Duration::from_millis(100);

/// Returns the delay after `failures` consecutive failures: 0.1 s, doubling up to `longest`. `jitter` (0.0 to 1.0)
/// shortens it by up to one half, so that many loops do not retry together.
pub fn rest_after(failures: u32, longest: Duration, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    let full = SHORTEST.saturating_mul(1 << doublings).min(longest);
    full - full.mul_f64(jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_the_longest_and_jitter_takes_off_half_at_most() {
        let rest = |failures, jitter| rest_after(failures, Duration::from_secs(5), jitter).as_millis();
        assert_eq!(
            [0, 1, 2, 3, 6, 7, u32::MAX].map(|n| rest(n, 0.0)),
            [100, 100, 200, 400, 3200, 5000, 5000]
        );
        assert_eq!([0.0, 0.5, 1.0, 9.0].map(|jitter| rest(7, jitter)), [5000, 3750, 2500, 2500]);
    }
}
