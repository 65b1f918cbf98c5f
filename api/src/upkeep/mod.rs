//! Periodic upkeep, by tokio-cron-scheduler. Any number of processes may run it at once.
//!
//! Each piece is bounded: a run reads a limited number of rows and the next continues from there, and a run that takes
//! longer than [`RUN_MOST`] is ended. So no piece has to wait for another, or for the length of its last run.

mod engine;
mod statistics;
mod webhooks;
mod worker;

use std::{
    fmt::Display,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::{sync::Mutex, time::timeout};
use tokio_cron_scheduler::{Job, JobScheduler};

pub use engine::of_engine;
pub use worker::{of_notification, of_worker};

use crate::process::Process;

/// The longest run of a piece. A longer one is ended, and done again at its next time.
const RUN_MOST: Duration = Duration::from_secs(60);

/// One piece of upkeep.
trait Piece: Send + 'static {
    /// Time from the beginning of one run to that of the next. The first starts at once.
    const PERIOD: Duration;
    /// Why a run can fail.
    type Error: Display + Send;

    /// Name in log lines and metrics.
    fn name(&self) -> &'static str;

    /// Does a bounded part of it.
    fn run_once(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// The pieces of one role. They share nothing.
struct Upkeep(JobScheduler);

impl Upkeep {
    async fn new() -> Result<Self> {
        Ok(Self(JobScheduler::new().await?))
    }

    /// Adds a piece, and runs it for the first time.
    async fn add<P: Piece>(&self, piece: P) -> Result<()> {
        let _ = metrics::histogram!("amends_upkeep_seconds", "piece" => piece.name());
        let piece = Arc::new(Mutex::new(piece));
        tokio::spawn(run(Arc::clone(&piece)));
        let turn =
            move |_, _| -> Pin<Box<dyn Future<Output = ()> + Send>> { Box::pin(run(Arc::clone(&piece))) };
        self.0.add(Job::new_repeated_async(P::PERIOD, turn)?).await?;
        Ok(())
    }

    /// Runs until the process stops.
    async fn start(mut self, process: &Process) -> Result<()> {
        self.0.start().await?;
        let stop = process.stop.clone();
        process.watch("upkeep", async move {
            stop.cancelled().await;
            let _ = self.0.shutdown().await;
        });
        Ok(())
    }
}

/// Runs a piece once, unless its last run is still in progress. A failure is logged, and the next run starts at its
/// time.
async fn run<P: Piece>(piece: Arc<Mutex<P>>) {
    let Ok(mut piece) = piece.try_lock() else { return };
    let (name, begun) = (piece.name(), Instant::now());
    match timeout(RUN_MOST, piece.run_once()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(piece = name, %error, "upkeep failed; it will run again"),
        Err(_) => {
            let seconds = RUN_MOST.as_secs();
            tracing::warn!(piece = name, seconds, "upkeep took too long and was ended; it will run again");
        }
    }
    metrics::histogram!("amends_upkeep_seconds", "piece" => name).record(begun.elapsed().as_secs_f64());
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::pending};

    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    use super::*;

    /// Never ends.
    struct Endless(UnboundedSender<&'static str>);

    impl Piece for Endless {
        const PERIOD: Duration = Duration::from_secs(1);
        type Error = Infallible;

        fn name(&self) -> &'static str {
            "endless"
        }

        async fn run_once(&mut self) -> Result<(), Infallible> {
            let _ = self.0.send(self.name());
            pending().await
        }
    }

    /// Fails, quickly.
    struct Quick(UnboundedSender<&'static str>);

    impl Piece for Quick {
        const PERIOD: Duration = Duration::from_secs(1);
        type Error = &'static str;

        fn name(&self) -> &'static str {
            "quick"
        }

        async fn run_once(&mut self) -> Result<(), &'static str> {
            let _ = self.0.send(self.name());
            Err("not this time")
        }
    }

    #[tokio::test]
    async fn a_piece_that_never_ends_keeps_no_other_from_its_turn_and_is_not_begun_twice() {
        let (done, mut seen) = unbounded_channel();
        let mut upkeep = Upkeep::new().await.unwrap();
        upkeep.add(Endless(done.clone())).await.unwrap();
        assert_eq!(seen.recv().await, Some("endless"), "the first run comes at once");
        upkeep.add(Quick(done)).await.unwrap();
        upkeep.0.start().await.unwrap();
        let patience = Duration::from_secs(90);
        for _ in 0..3 {
            let run = timeout(patience, seen.recv()).await.expect("the quick piece has its turn");
            assert_eq!(run, Some("quick"));
        }
        upkeep.0.shutdown().await.unwrap();
    }
}
