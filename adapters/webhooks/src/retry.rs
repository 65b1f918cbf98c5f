//! What follows from an attempt: delivered, tried again later, given up, or the receiver is gone.

use std::time::Duration;

use crate::{Answer, SendFault};

/// Factor between two pauses.
const PAUSE_FACTOR: u32 = 3;
/// The status by which a receiver says that it will never take anything again.
const GONE: u16 = 410;

/// When failed deliveries are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The first pause.
    pub least: Duration,
    /// The longest pause.
    pub most: Duration,
    /// How long after its first attempt a delivery is given up.
    pub patience: Duration,
}

/// What follows from an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterAttempt {
    /// The receiver has taken it.
    Delivered,
    /// It is tried again after this time.
    Retry(Duration),
    /// It has failed for too long.
    GivenUp,
    /// The receiver wants nothing any more.
    Gone,
}

impl RetryPolicy {
    /// Judges an attempt, which is number `tries` (from 1) of its delivery; the first was `since_first` ago. `jitter` is
    /// random, 0–1000.
    pub fn judge(
        &self,
        answer: &Result<Answer, SendFault>,
        tries: u32,
        since_first: Duration,
        jitter: u16,
    ) -> AfterAttempt {
        match answer {
            Ok(answer) if (200..300).contains(&answer.status) => AfterAttempt::Delivered,
            Ok(answer) if answer.status == GONE => AfterAttempt::Gone,
            _ if since_first >= self.patience => AfterAttempt::GivenUp,
            _ => AfterAttempt::Retry(self.pause(tries, jitter)),
        }
    }

    /// Returns the pause after attempt number `tries`: three times as long each time, and up to a fifth shorter or
    /// longer.
    fn pause(&self, tries: u32, jitter: u16) -> Duration {
        let exponent = tries.saturating_sub(1).min(20);
        let pause = self.least.saturating_mul(PAUSE_FACTOR.saturating_pow(exponent)).min(self.most);
        pause.mul_f64(0.8 + 0.4 * f64::from(jitter.min(1000)) / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        least: Duration::from_secs(5),
        most: Duration::from_secs(6 * 3600),
        patience: Duration::from_secs(3 * 24 * 3600),
    };

    fn answer(status: u16) -> Result<Answer, SendFault> {
        Ok(Answer { status, body: String::new() })
    }

    #[test]
    fn only_a_2xx_is_a_delivery_and_only_a_410_is_final_at_once() {
        let judge = |answer| POLICY.judge(&answer, 1, Duration::ZERO, 500);
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(judge(answer(status)), AfterAttempt::Delivered, "{status}");
        }
        assert_eq!(judge(answer(410)), AfterAttempt::Gone);
        for status in [100, 301, 302, 307, 308, 400, 401, 404, 409, 429, 500, 503, 999] {
            assert_eq!(judge(answer(status)), AfterAttempt::Retry(POLICY.least), "{status}");
        }
        for fault in [SendFault::Late, SendFault::Closed, SendFault::Unresolved, SendFault::Broken] {
            assert_eq!(judge(Err(fault)), AfterAttempt::Retry(POLICY.least), "{fault}");
        }
    }

    #[test]
    fn pauses_grow_to_their_limit_within_the_patience_and_then_the_delivery_is_given_up() {
        let (mut waited, mut tries) = (Duration::ZERO, 0);
        loop {
            tries += 1;
            match POLICY.judge(&answer(500), tries, waited, 500) {
                AfterAttempt::Retry(pause) => {
                    assert!(pause >= POLICY.least && pause <= POLICY.most);
                    waited += pause;
                }
                after => break assert_eq!(after, AfterAttempt::GivenUp),
            }
        }
        assert!((15..30).contains(&tries), "{tries} attempts in three days");
        let pause = |tries, jitter| match POLICY.judge(&answer(500), tries, Duration::ZERO, jitter) {
            AfterAttempt::Retry(pause) => pause,
            other => panic!("{other:?}"),
        };
        assert_eq!((pause(1, 0), pause(1, 1000)), (Duration::from_secs(4), Duration::from_secs(6)));
        assert_eq!(pause(u32::MAX, 500), POLICY.most);
    }
}
