//! The worker of an [`ExternalExecutor`]: three loops over one table of rows.
//!
//! * [`Intake`] accepts commands; their offsets may move then. Those that can begin at once are committed as started,
//!   with owner and lease, in the same transaction.
//! * [`Calls`] makes the calls concurrently, up to a limit, and commits the outcomes of all finished calls together.
//!   Replies are sent after the commit.
//! * [`Recovery`] continues from the rows: commands that were accepted and not begun, calls whose instance was lost,
//!   and calls that got no answer.
//!
//! A call that got no answer leaves its row `started` and `unsure`. Such a row is settled only by an answer under its
//! key; see [`settle`](self) for what counts as one.

mod calls;
mod intake;
#[doc(hidden)]
pub mod model;
mod recovery;
mod round;
mod settle;

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use amends_protocol::{
    Command, Resolved,
    transport::{self, Sink, Source},
};
use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use calls::Calls;
pub use intake::Intake;
pub use recovery::Recovery;

use crate::{
    executor::{Action, ExternalExecutor, Work},
    health::Health,
    row::{CommandRow, Lease, Status},
    settings::Settings,
    store::{self, Due, Rows},
    timer::{Backoff, Timer, TokioTimer, within},
};

/// Why a loop's step failed. It may be repeated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The transport failed.
    #[error(transparent)]
    Transport(#[from] transport::Error),
}

/// The loops of an [`External`] worker.
pub type Loops<R, E, S, K, C> = (Intake<R, E, S, K, C>, Calls<R, E, K, C>, Recovery<R, E, K, C>);

/// A worker whose effects are calls to an external system.
pub struct External<R, E, S, K, C = TokioTimer> {
    intake: Intake<R, E, S, K, C>,
    calls: Calls<R, E, K, C>,
    recovery: Recovery<R, E, K, C>,
    shared: Arc<Shared<R, E, K, C>>,
}

impl<R, E, S, K> External<R, E, S, K>
where
    R: Rows + 'static,
    E: ExternalExecutor + 'static,
    S: Source,
    K: Sink + 'static,
{
    /// Creates a worker on a tokio runtime.
    pub fn new(rows: R, executor: E, source: S, sink: K, settings: Settings) -> Self {
        Self::with_timer(rows, executor, source, sink, settings, TokioTimer)
    }
}

impl<R, E, S, K, C> External<R, E, S, K, C>
where
    R: Rows + 'static,
    E: ExternalExecutor + 'static,
    S: Source,
    K: Sink + 'static,
    C: Timer + 'static,
{
    /// Creates a worker with the given timer.
    pub fn with_timer(rows: R, executor: E, source: S, sink: K, settings: Settings, timer: C) -> Self {
        let (begin, begun) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            owner: Uuid::new_v4(),
            permits: Arc::new(Semaphore::new(settings.concurrency)),
            unsure_permits: Arc::new(Semaphore::new(settings.unsure_concurrency)),
            in_flight: Mutex::default(),
            backlog: AtomicBool::new(true),
            freed: Notify::new(),
            health: Health::default(),
            begin,
            rows,
            executor,
            sink,
            timer,
            settings,
        });
        Self {
            intake: Intake::new(shared.clone(), source),
            calls: Calls::new(shared.clone(), begun),
            recovery: Recovery::new(shared.clone()),
            shared,
        }
    }

    /// Returns the worker's readiness.
    pub fn health(&self) -> Health {
        self.shared.health.clone()
    }

    /// Returns the loops, for callers that drive them directly.
    pub fn loops(self) -> Loops<R, E, S, K, C> {
        (self.intake, self.calls, self.recovery)
    }

    /// Runs until stopped, through outages. On stop, it takes no more commands and waits for the calls in progress, up
    /// to a limit; another instance takes over those that have not finished.
    pub async fn run(mut self, stop: CancellationToken) {
        futures::join!(self.intake.run(&stop), self.recovery.run(&stop), self.calls.run(&stop));
        let (timer, grace) = (&self.shared.timer, self.shared.settings.grace);
        if within(timer, grace, self.calls.finish()).await.is_none() {
            tracing::warn!(worker = self.shared.settings.name, "stopped while calls were in progress");
        }
    }
}

/// What the loops share.
struct Shared<R, E, K, C> {
    rows: R,
    executor: E,
    sink: K,
    timer: C,
    settings: Settings,
    health: Health,
    /// This instance's id in the rows that it is calling for.
    owner: Uuid,
    /// One permit for each call that may be in progress.
    permits: Arc<Semaphore>,
    /// Permits for looking up calls that got no answer. Rows that cannot be settled come up again and again: they must
    /// not take the room of those that can.
    unsure_permits: Arc<Semaphore>,
    /// The rows that this instance is calling for.
    in_flight: Mutex<HashSet<Uuid>>,
    /// Whether there may be rows that were accepted and not begun. Those are begun first.
    backlog: AtomicBool,
    /// Signals that calls have ended, so that others may begin.
    freed: Notify,
    begin: mpsc::UnboundedSender<Call>,
}

impl<R, E: ExternalExecutor, K, C: Timer> Shared<R, E, K, C> {
    fn permits(&self, of: Due) -> &Arc<Semaphore> {
        match of {
            Due::Sure => &self.permits,
            Due::Unsure => &self.unsure_permits,
        }
    }

    fn permit(&self, of: Due) -> Option<OwnedSemaphorePermit> {
        self.permits(of).clone().try_acquire_owned().ok()
    }

    fn lease(&self, now: DateTime<Utc>) -> Lease {
        let lease = TimeDelta::from_std(self.settings.lease).unwrap_or(TimeDelta::MAX);
        Lease { owner: Some(self.owner), until: now + lease }
    }

    /// Hands over calls whose rows are committed.
    fn begin(&self, calls: Vec<Call>) {
        for call in calls {
            // The loop that makes calls lives as long as this one: calls are lost only in a crash.
            let _ = self.begin.send(call);
        }
    }

    fn has_backlog(&self) -> bool {
        self.backlog.load(Ordering::Relaxed)
    }

    fn set_backlog(&self, backlog: bool) {
        self.backlog.store(backlog, Ordering::Relaxed);
    }

    fn in_flight(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_result<T>(&self, result: &Result<T, Error>) {
        match result {
            Ok(_) => self.health.database(true),
            Err(Error::Store(_)) => self.health.database(false),
            Err(Error::Transport(_)) => self.health.transport(false),
        }
    }

    /// Waits before a retry, unless stopped.
    async fn pause(&self, backoff: &mut Backoff, error: &Error, stop: &CancellationToken) {
        tracing::warn!(worker = self.settings.name, %error, "the step failed and will be retried");
        futures::select_biased! {
            () = stop.cancelled().fuse() => {}
            () = self.timer.sleep(backoff.pause()).fuse() => {}
        }
    }
}

/// A call to be made: its row is committed as started (or undoing), owned by this instance.
struct Call {
    work: Work,
    /// An earlier call under this key got no answer, or its caller was lost.
    unsure: bool,
    /// A compensation is remembered: the key may be voided.
    unwanted: bool,
    /// An operator has settled it: the call is not made again.
    resolved: Option<Resolved>,
    /// The port may have forgotten the key.
    stale: bool,
    asker: Option<Asker>,
    /// Permit for the call; released when the call is over.
    permit: Option<OwnedSemaphorePermit>,
}

/// A further command that waits for the outcome of a call.
struct Asker {
    command: Command,
    traceparent: Option<String>,
}

impl Asker {
    /// A remembered compensation waits for its own outcome.
    fn of_undo(call: &Call) -> Self {
        Self { command: call.work.command.clone(), traceparent: None }
    }
}

/// Begins or resumes the call of a row: writes owner and lease into the row.
fn call(row: &mut CommandRow, lease: Lease, now: DateTime<Utc>, keeps_keys_for: Duration) -> Option<Call> {
    let (action, command) = match row.status {
        Status::Started => (Action::Execute, row.command.clone()?),
        Status::Undoing => (Action::Undo, row.undo.clone()?),
        _ => return None,
    };
    let started_at = *row.started_at.get_or_insert(now);
    row.lease = Some(lease);
    Some(Call {
        work: Work { action, command, held: row.details.exposure.clone() },
        unsure: row.unsure,
        unwanted: action == Action::Execute && row.undo.is_some(),
        resolved: row.resolved.filter(|_| action == Action::Execute),
        stale: (now - started_at).to_std().is_ok_and(|age| age > keeps_keys_for),
        asker: None,
        permit: None,
    })
}
