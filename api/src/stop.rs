//! How a process is stopped, and by which signals.

use std::{future::Future, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How a process is stopped.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Cancelled when it should get no more requests: its readiness says so.
    pub leaving: CancellationToken,
    /// Cancelled when it must stop.
    pub now: CancellationToken,
}

impl Stop {
    /// Returns one that is cancelled with this one, and may be cancelled without it.
    pub fn child(&self) -> Self {
        Self { leaving: self.leaving.clone(), now: self.now.child_token() }
    }
}

/// The first signal stops the process in order: for `delay` it still serves, while its readiness says that it stops, and
/// then it ends. The second signal stops it at once. Signals are received from this call on: before its
/// future is awaited for the first time, a signal would otherwise kill a process that has begun to work.
pub fn signalled(stop: Stop, delay: Duration) -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
            return tracing::error!("signals cannot be received");
        };
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        next().await;
        stop.leaving.cancel();
        tokio::select! {
            () = tokio::time::sleep(delay) => stop.now.cancel(),
            () = next() => std::process::exit(130),
        }
        next().await;
        std::process::exit(130);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_that_comes_before_anything_waits_for_it_stops_the_process_in_order() {
        let stop = Stop::default();
        let signalled = signalled(stop.clone(), Duration::from_millis(50));
        let own = std::process::id().to_string();
        // A shell has its own `kill`; a program of that name is not everywhere.
        let kill = std::process::Command::new("sh").args(["-c", &format!("kill -TERM {own}")]).status();
        assert!(kill.unwrap().success());
        let waiting = tokio::spawn(signalled);
        stop.now.cancelled().await;
        assert!(stop.leaving.is_cancelled(), "first nothing more is sent to it");
        waiting.abort();
    }
}
