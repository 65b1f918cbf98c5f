//! Waiting, as a port: points in time come from the worker's database, only pauses from here.

use std::{future::Future, time::Duration};

use amends_protocol::backoff::rest_after;
use futures::future::{Either, select};

/// Lets time pass; a simulator implements it differently.
pub trait Timer: Send + Sync {
    /// Completes after `pause`.
    fn sleep(&self, pause: Duration) -> impl Future<Output = ()> + Send;
}

/// The timer of a tokio runtime.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokioTimer;

impl Timer for TokioTimer {
    async fn sleep(&self, pause: Duration) {
        tokio::time::sleep(pause).await;
    }
}

/// Returns the future's value, or `None` once `limit` has passed. A value that is ready counts, however late.
pub async fn within<C: Timer, F: Future>(timer: &C, limit: Duration, future: F) -> Option<F::Output> {
    let (future, sleep) = (std::pin::pin!(future), std::pin::pin!(timer.sleep(limit)));
    match select(future, sleep).await {
        Either::Left((value, _)) => Some(value),
        Either::Right(_) => None,
    }
}

/// The longest pause between retries.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Pauses between retries: they double, with jitter.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Returns the next pause.
    pub fn pause(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        rest_after(self.failures, LONGEST_PAUSE, rand::random())
    }

    /// Resets the pause after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}
