//! One instance of an external worker, driven loop by loop.

use std::{future::Future, sync::Arc, time::Duration};

use amends_protocol::{Command, Kind, Outcome};
use amends_worker::{Calls, External, Intake, PgRows, Recovery, Settings, Timer};
use futures::FutureExt;
use sqlx::PgPool;
use tokio::sync::Notify;

use crate::{gateway::Gateway, wire::Wire};

/// A timer whose pauses end when the test says so.
#[derive(Clone, Default)]
pub struct Hand(Arc<Notify>);

impl Timer for Hand {
    async fn sleep(&self, _: Duration) {
        self.0.notified().await;
    }
}

impl Hand {
    /// Ends all pauses that have begun.
    pub fn strike(&self) {
        self.0.notify_waiters();
    }
}

/// One instance. Dropping it is a crash.
pub struct Instance {
    pub intake: Intake<PgRows, Gateway, Wire, Wire, Hand>,
    pub calls: Calls<PgRows, Gateway, Wire, Hand>,
    pub recovery: Recovery<PgRows, Gateway, Wire, Hand>,
    pub wire: Wire,
    pub timer: Hand,
}

impl Instance {
    /// Starts an instance with the default number of concurrent calls.
    pub async fn start(pool: &PgPool, gateway: &Gateway) -> Self {
        Self::with(pool, gateway, Settings::new("payment").concurrency).await
    }

    /// Starts an instance with this number of concurrent calls that has read its due rows once.
    pub async fn with(pool: &PgPool, gateway: &Gateway, concurrency: usize) -> Self {
        let mut instance = Self::unstarted(pool, gateway, concurrency);
        instance.recover().await;
        instance
    }

    /// Creates an instance with this number of concurrent calls that has not read its rows.
    pub fn unstarted(pool: &PgPool, gateway: &Gateway, concurrency: usize) -> Self {
        let (wire, timer) = (Wire::default(), Hand::default());
        let settings = Settings { concurrency, ..Settings::new("payment") };
        let rows = PgRows::new(pool.clone());
        let (source, sink) = (wire.clone(), wire.clone());
        let worker = External::with_timer(rows, gateway.clone(), source, sink, settings, timer.clone());
        let (intake, calls, recovery) = worker.loops();
        Self { intake, calls, recovery, wire, timer }
    }

    /// Receives these commands as one batch.
    pub async fn receive(&mut self, commands: &[&Command]) {
        self.wire.put(commands);
        soon(self.intake.run_once()).await.unwrap();
    }

    /// Begins due rows.
    pub async fn recover(&mut self) {
        soon(self.recovery.run_once()).await.unwrap();
    }

    /// Waits until a call has finished and its outcome is committed and sent.
    pub async fn settle(&mut self) {
        soon(self.calls.run_once()).await.unwrap();
    }

    /// Makes the calls that were begun, as far as possible without waiting. Records nothing.
    pub fn call(&mut self) {
        let _ = self.calls.wait().now_or_never();
    }

    /// Receives a command, waits for one call, and returns the replies.
    pub async fn ask(&mut self, command: &Command) -> Vec<(Kind, Outcome, u32)> {
        self.receive(&[command]).await;
        self.settle().await;
        self.wire.outcomes()
    }

    /// Returns the replies.
    pub fn outcomes(&self) -> Vec<(Kind, Outcome, u32)> {
        self.wire.outcomes()
    }
}

/// Returns the future's value; fails a test that would wait for ever.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it does not come to an end")
}
