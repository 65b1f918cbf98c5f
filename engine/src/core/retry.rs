//! How long to wait, and how often to try.

use std::time::Duration;

use chrono::TimeDelta;

/// Exponential backoff between attempts, within a limit of attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Delay before the second attempt.
    pub first: Duration,
    /// No delay is longer.
    pub max: Duration,
    /// Answered failures before the engine gives up; `None`: never.
    pub attempts: Option<u32>,
}

impl RetryPolicy {
    /// PROTOCOL's default: 0.5 s doubling to 60 s.
    pub const fn attempts(attempts: Option<u32>) -> Self {
        Self { first: Duration::from_millis(500), max: Duration::from_secs(60), attempts }
    }

    /// The delay after the `n`th try, from 1. `jitter` (0–1000) takes away up to half of it, so that sagas that
    /// failed together do not come back together; it is drawn by the caller and kept in the timeline.
    pub fn delay(&self, n: u32, jitter: u16) -> TimeDelta {
        let doubled = self.first.saturating_mul(1_u32 << n.saturating_sub(1).min(20));
        jittered(doubled.min(self.max), jitter)
    }

    /// Whether there is an attempt after the `n`th.
    pub fn allows_another(&self, n: u32) -> bool {
        self.attempts.is_none_or(|limit| n < limit)
    }
}

/// So long, or up to half as long, as `jitter` (0–1000) has it.
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
