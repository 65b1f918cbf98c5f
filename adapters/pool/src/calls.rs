//! Tracks a pool's calls that wait for answers, and what their results say about the connection to the database.

use std::{
    io,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use sqlx::{SqlStr, pool::PoolConnectionMetadata};
use tokio::{
    sync::watch,
    time::{Sleep, sleep_until},
};

use crate::{sqlstate, statement};

/// A statement that takes this long is slow.
const STATEMENT_SLOW: Duration = Duration::from_secs(1);

/// How long the disk counts as full after a statement met a full disk.
const DISK_FULL_KEPT: Duration = Duration::from_secs(10);

/// What a pool knows about its calls.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// The pool's name.
    pool: String,
    state: Mutex<CallsState>,
    /// The error of a statement that the database can never execute.
    program_fault: watch::Sender<String>,
}

#[derive(Debug, Default)]
struct CallsState {
    /// Start time of each unanswered call; `None` marks a free place.
    waiting: Vec<Option<Instant>>,
    /// When the database last went silent: calls that began before will get no answer.
    silent_at: Option<Instant>,
    /// Connections that have been idle since before this time are closed instead of used.
    distrusted_before: Option<Instant>,
    /// When a read-only session was last found. A session's right to write is fixed when it begins, so sessions that
    /// began before this time are closed instead of used.
    read_only_at: Option<Instant>,
    /// Whether no writable session has been found since.
    is_read_only: bool,
    disk_full_at: Option<Instant>,
}

impl Calls {
    /// Creates it for a pool of this name.
    pub(crate) fn of_pool(pool: &str) -> Self {
        Self { pool: pool.to_owned(), ..Self::default() }
    }

    /// Begins a call that must end within `bound`. `fit` is cleared if the connection cannot be used afterwards.
    pub(crate) fn begin<'c>(&'c self, bound: Duration, fit: &'c mut bool) -> Call<'c> {
        let begun = Instant::now();
        let mut state = self.state();
        let place = match state.waiting.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                state.waiting.push(None);
                state.waiting.len() - 1
            }
        };
        state.waiting[place] = Some(begun);
        Call { calls: self, fit, place, begun, bound, deadline: None, statement: None }
    }

    /// Records that a caller waited in vain.
    pub(crate) fn note_silence(&self) {
        let mut state = self.state();
        let now = Instant::now();
        (state.silent_at, state.distrusted_before) = (Some(now), Some(now));
    }

    /// Records whether a session that has just begun may write. Once one may again, older sessions are no longer used.
    pub(crate) fn note_may_write(&self, may_write: bool) {
        let mut state = self.state();
        if !may_write || state.is_read_only {
            state.read_only_at = Some(Instant::now());
        }
        state.is_read_only = !may_write;
    }

    /// Waits for the next statement that the database can never execute; returns its error.
    pub(crate) async fn program_fault(&self) -> String {
        let mut faults = self.program_fault.subscribe();
        // The sender lives as long as these calls do.
        let _ = faults.changed().await;
        faults.borrow().clone()
    }

    /// Returns whether the last session checked is read-only.
    pub(crate) fn is_read_only(&self) -> bool {
        self.state().is_read_only
    }

    /// Returns whether to close a connection instead of using it.
    pub(crate) fn distrusts(&self, connection: &PoolConnectionMetadata) -> bool {
        let state = self.state();
        let is_since = |mark: Option<Instant>, since: Duration| mark.is_some_and(|at| at.elapsed() <= since);
        is_since(state.distrusted_before, connection.idle_for) || is_since(state.read_only_at, connection.age)
    }

    /// Returns whether calls still wait that began before the database went silent.
    pub(crate) fn waits_in_vain(&self) -> bool {
        let state = self.state();
        let oldest = state.waiting.iter().flatten().min();
        state.silent_at.zip(oldest).is_some_and(|(silent_at, oldest)| *oldest < silent_at)
    }

    /// Returns whether a statement has recently met a full disk.
    pub(crate) fn met_full_disk(&self) -> bool {
        self.state().disk_full_at.is_some_and(|at| at.elapsed() < DISK_FULL_KEPT)
    }

    /// Records what an error says about the database and its connections.
    pub(crate) fn note(&self, error: &sqlx::Error) {
        let now = Some(Instant::now());
        if sqlstate::is_disk_full(error) {
            self.state().disk_full_at = now;
        }
        if sqlstate::is_program_fault(error) {
            self.program_fault.send_replace(error.to_string());
        }
        if sqlstate::is_read_only(error) {
            self.note_may_write(false);
        }
        if sqlstate::ends_connection(error) {
            // What happened to this connection has probably happened to the connections that were idle meanwhile.
            self.state().distrusted_before = now;
        }
    }

    fn state(&self) -> MutexGuard<'_, CallsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call, until its answer arrives or its bound is reached.
pub(crate) struct Call<'c> {
    calls: &'c Calls,
    fit: &'c mut bool,
    place: usize,
    begun: Instant,
    bound: Duration,
    /// Created once there is something to wait for.
    deadline: Option<Pin<Box<Sleep>>>,
    /// What is executed.
    statement: Option<SqlStr>,
}

impl Call<'_> {
    /// Names what it executes.
    pub(crate) fn of(mut self, statement: SqlStr) -> Self {
        self.statement = Some(statement);
        self
    }

    /// Passes the answer on, or ends the wait at the deadline; then the connection cannot be used any more.
    pub(crate) fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        answer: Poll<T>,
        error: impl FnOnce(&T) -> Option<&sqlx::Error>,
        late: impl FnOnce(sqlx::Error) -> T,
    ) -> Poll<T> {
        match answer {
            Poll::Ready(answer) => {
                if let Some(error) = error(&answer) {
                    self.calls.note(error);
                    *self.fit &= !sqlstate::ends_connection(error);
                }
                Poll::Ready(answer)
            }
            Poll::Pending => {
                let ends_at = self.begun + self.bound;
                let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep_until(ends_at.into())));
                deadline.as_mut().poll(context).map(|()| {
                    *self.fit = false;
                    self.calls.note_silence();
                    metrics::counter!("amends_postgres_calls_unanswered_total").increment(1);
                    late(unanswered(self.bound))
                })
            }
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.calls.state().waiting[self.place] = None;
        let Some(sql) = &self.statement else { return };
        let (took, pool) = (self.begun.elapsed(), &self.calls.pool);
        if took >= STATEMENT_SLOW {
            metrics::counter!("amends_postgres_slow_statements_total").increment(1);
            let statement = statement::name(sql.as_str());
            tracing::warn!(pool, statement, milliseconds = took.as_millis(), "a statement was slow");
        } else if tracing::enabled!(tracing::Level::TRACE) {
            let statement = statement::name(sql.as_str());
            tracing::trace!(pool, statement, microseconds = took.as_micros(), "a statement");
        }
    }
}

/// The error of a call that this client's bound ended: as if the connection had broken, so the statement may have been
/// executed.
pub(crate) fn unanswered(bound: Duration) -> sqlx::Error {
    let why =
        format!("no answer from the database within {}s; the connection is closed", bound.as_secs_f32());
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, why))
}

/// Returns whether a call ended because there was no answer.
pub(crate) fn is_unanswered(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut)
}
