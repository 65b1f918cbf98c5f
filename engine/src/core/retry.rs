//! Retry policies: the delay between attempts, and their number.

use std::time::Duration;

use chrono::TimeDelta;

/// Exponential backoff with a limit on the number of attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Delay before the second attempt.
    pub first: Duration,
    /// The longest delay.
    pub max: Duration,
    /// Number of failed attempts after which the engine gives up; `None` means never.
    pub attempts: Option<u32>,
}

impl RetryPolicy {
    /// The default of PROTOCOL: delays double from 0.5 s to 60 s.
    pub const fn attempts(attempts: Option<u32>) -> Self {
        Self { first: Duration::from_millis(500), max: Duration::from_secs(60), attempts }
    }

    /// Returns the delay after the `n`th attempt, counted from 1. `jitter` (0–1000) shortens it by up to one half, so
    /// that sagas that failed together do not retry together. The caller draws it and records it in the timeline.
    pub fn delay(&self, n: u32, jitter: u16) -> TimeDelta {
        let doubled = self.first.saturating_mul(1_u32 << n.saturating_sub(1).min(20));
        jittered(doubled.min(self.max), jitter)
    }

    /// Returns whether another attempt may follow the `n`th.
    pub fn allows_another(&self, n: u32) -> bool {
        self.attempts.is_none_or(|limit| n < limit)
    }
}

/// Returns the duration, shortened by up to one half according to `jitter` (0–1000).
pub fn jittered(full: Duration, jitter: u16) -> TimeDelta {
    let full = i64::try_from(full.as_millis()).unwrap_or(i64::MAX);
    TimeDelta::milliseconds(full - full.saturating_mul(i64::from(jitter.min(1000))) / 2000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_jitter_takes_at_most_half() {
        let policy = RetryPolicy::attempts(Some(5));
        let full: Vec<i64> = (1..=9).map(|n| policy.delay(n, 0).num_milliseconds()).collect();
        assert_eq!(full, [500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]);
        assert_eq!(policy.delay(3, 1000).num_milliseconds(), 1000);
        assert_eq!(policy.delay(u32::MAX, 0).num_milliseconds(), 60_000);
        assert!(policy.allows_another(4) && !policy.allows_another(5));
        assert!(RetryPolicy::attempts(None).allows_another(u32::MAX));
    }
}
