//! The clock of the engine and the workers on tokio.

use std::{future::Future, time::Duration};

use amends_engine::port::Clock;
use tokio::time::Instant;

/// Monotonic time since the process's first use of it, tokio's timer, and the operating system's randomness.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock(Instant);

impl Default for TokioClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for TokioClock {
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(duration)
    }

    fn jitter(&self) -> u16 {
        rand::random_range(0..=1000)
    }
}
