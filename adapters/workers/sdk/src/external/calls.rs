//! Makes the calls concurrently, and records their outcomes together.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::Arc,
};

use amends_protocol::transport::Sink;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Asker, Call, Error, Shared, call,
    round::{Finished, round},
    settle::{Next, Report, settle, settled},
};
use crate::{
    executor::ExternalExecutor,
    outbox::{self, Answered},
    parts::count_passed_over,
    store::{self, Locks, Rows},
    timer::{Backoff, Timer},
    unit_of_work::UnitOfWork,
};

/// The loop that makes calls.
pub struct Calls<R, E, K, C> {
    shared: Arc<Shared<R, E, K, C>>,
    begun: mpsc::UnboundedReceiver<Call>,
    running: FuturesUnordered<BoxFuture<'static, Finished>>,
    /// Finished calls whose outcomes are not recorded yet.
    finished: Vec<Finished>,
    /// Replies that are committed but not sent yet.
    owed: Vec<Answered>,
}

impl<R, E, K, C> Calls<R, E, K, C>
where
    R: Rows + 'static,
    E: ExternalExecutor + 'static,
    K: Sink + 'static,
    C: Timer + 'static,
{
    pub(super) fn new(shared: Arc<Shared<R, E, K, C>>, begun: mpsc::UnboundedReceiver<Call>) -> Self {
        Self { shared, begun, running: FuturesUnordered::new(), finished: Vec::new(), owed: Vec::new() }
    }

    pub(super) async fn run(&mut self, stop: &CancellationToken) {
        let shared = self.shared.clone();
        let mut backoff = Backoff::default();
        loop {
            futures::select_biased! {
                () = stop.cancelled().fuse() => return,
                () = self.wait().fuse() => {}
            }
            match self.write_down().await {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    let Self { running, finished, .. } = self;
                    meanwhile(running, finished, shared.pause(&mut backoff, &error, stop)).await;
                }
            }
        }
    }

    /// Waits until no call is in progress and all outcomes are sent.
    pub(super) async fn finish(&mut self) {
        let shared = self.shared.clone();
        let mut backoff = Backoff::default();
        self.start_begun();
        while !(self.running.is_empty() && self.finished.is_empty() && self.owed.is_empty()) {
            if let Err(error) = self.run_once().await {
                shared.pause(&mut backoff, &error, &CancellationToken::new()).await;
            }
        }
    }

    /// Waits until a call has finished, then commits the outcomes of all finished calls, and sends their replies. An
    /// error loses nothing: the next call commits or sends them.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run_once(&mut self) -> Result<(), Error> {
        self.wait().await;
        self.write_down().await
    }

    /// Drives the calls until there is an outcome to record, which [`run_once`](Self::run_once) does. It sends no query
    /// to the database, and may be dropped at any time.
    pub async fn wait(&mut self) {
        while self.finished.is_empty() && self.owed.is_empty() {
            futures::select_biased! {
                finished = self.running.select_next_some() => self.finished.push(finished),
                begun = self.begun.recv().fuse() => match begun {
                    Some(call) => self.start(call),
                    // No more calls will begin; those in progress must still finish.
                    None if self.running.is_empty() => std::future::pending().await,
                    None => if let Some(finished) = self.running.next().await {
                        self.finished.push(finished);
                    },
                },
            }
        }
        self.start_begun();
        while let Some(Some(finished)) = self.running.next().now_or_never() {
            self.finished.push(finished);
        }
    }

    fn start_begun(&mut self) {
        while let Ok(call) = self.begun.try_recv() {
            self.start(call);
        }
    }

    fn start(&self, call: Call) {
        let shared = self.shared.clone();
        shared.in_flight().insert(call.work.target());
        metrics::gauge!("amends_worker_calls_in_flight", "worker" => shared.settings.name.clone())
            .increment(1);
        self.running.push(async move { round(&shared, call).await }.boxed());
    }

    async fn write_down(&mut self) -> Result<(), Error> {
        let written = self.commit().await;
        self.shared.note_result(&written);
        written?;
        let Self { shared, running, finished, owed, .. } = self;
        let sending = outbox::send(&shared.sink, &shared.settings, owed.clone());
        let sent = meanwhile(running, finished, sending).await;
        self.shared.health.transport(sent.is_ok());
        sent?;
        self.owed.clear();
        Ok(())
    }

    /// Commits the outcomes of all finished calls. The other calls continue meanwhile.
    async fn commit(&mut self) -> Result<(), Error> {
        if self.finished.is_empty() {
            return Ok(());
        }
        let Self { shared, running, finished, .. } = self;
        let mut finished_meanwhile = Vec::new();
        let committed = meanwhile(running, &mut finished_meanwhile, shared.commit(finished)).await;
        let Written { answered, mut undos } = match committed {
            Ok(written) => written,
            Err(error) => {
                finished.extend(finished_meanwhile);
                return Err(error.into());
            }
        };
        self.owed.extend(answered);
        for over in std::mem::replace(finished, finished_meanwhile) {
            let key = over.call.work.target();
            self.shared.in_flight().remove(&key);
            metrics::gauge!("amends_worker_calls_in_flight", "worker" => self.shared.settings.name.clone())
                .decrement(1);
            if let Some(undo) = undos.remove(&key) {
                self.start(Call { permit: over.call.permit, ..undo });
            }
        }
        if self.shared.has_backlog() {
            self.shared.freed.notify_one();
        }
        Ok(())
    }
}

/// Waits for a future while calls continue; keeps those that finish.
async fn meanwhile<T>(
    running: &mut FuturesUnordered<BoxFuture<'static, Finished>>,
    finished: &mut Vec<Finished>,
    something: impl Future<Output = T>,
) -> T {
    let mut something = pin!(something.fuse());
    loop {
        futures::select_biased! {
            done = something => return done,
            call = running.select_next_some() => finished.push(call),
        }
    }
}

/// What follows from a commit.
#[derive(Default)]
struct Written {
    answered: Vec<Answered>,
    /// Compensations to begin, by row.
    undos: HashMap<Uuid, Call>,
}

impl<R: Rows, E: ExternalExecutor, K, C: Timer> Shared<R, E, K, C> {
    /// Commits outcomes: plain ones by one statement, which skips rows that have changed since; the others in a
    /// transaction that locks their rows first.
    async fn commit(&self, finished: &[Finished]) -> Result<Written, store::Error> {
        let now = self.rows.now().await?;
        let (mut rows, mut plain, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for done in finished {
            match settled(done) {
                Some(row) => {
                    rows.push(row);
                    plain.push(done);
                }
                None => others.push(done),
            }
        }
        let settled = match self.rows.settle(self.owner, &rows).await {
            _ if rows.is_empty() => HashSet::new(),
            Ok(settled) => settled,
            Err(store::Error::Poison(_) | store::Error::Locked) => HashSet::new(),
            Err(error) => return Err(error),
        };
        let mut written = Written::default();
        for (row, done) in rows.iter().zip(plain) {
            if !settled.contains(&row.key) {
                others.push(done);
            } else if let Some(reply) = row.recorded(&done.call.work.command, now) {
                let traceparent = done.call.asker.as_ref().and_then(|asker| asker.traceparent.clone());
                written.answered.push(Answered { reply, traceparent });
            }
        }
        if !others.is_empty() {
            let more = self.commit_locked(&others).await?;
            written.answered.extend(more.answered);
            written.undos = more.undos;
        }
        Ok(written)
    }

    /// Commits outcomes in one transaction; one at a time if the data of one of them is at fault. A row that another
    /// transaction holds for too long is passed over: its lease lapses, and its outcome is looked up.
    async fn commit_locked(&self, finished: &[&Finished]) -> Result<Written, store::Error> {
        let mut written = self.commit_together(finished, Locks::Wait).await;
        if let Err(store::Error::Locked) = written {
            written = self.commit_together(finished, Locks::PassOver).await;
        }
        match written {
            Err(store::Error::Poison(_)) if finished.len() > 1 => {
                let mut all = Written::default();
                for one in finished.chunks(1) {
                    let written = Box::pin(self.commit_locked(one)).await?;
                    all.answered.extend(written.answered);
                    all.undos.extend(written.undos);
                }
                Ok(all)
            }
            Err(store::Error::Poison(reason)) => {
                // The row stays started; its lease lapses, and its outcome is looked up.
                for work in finished.iter().map(|finished| &finished.call.work) {
                    let (worker, saga, command) = (&self.settings.name, work.command.saga_id, work.target());
                    tracing::error!(worker, %saga, %command, reason, "an outcome cannot be stored");
                }
                Ok(Written::default())
            }
            written => written,
        }
    }

    async fn commit_together(&self, finished: &[&Finished], locks: Locks) -> Result<Written, store::Error> {
        let mut keys: Vec<Uuid> = finished.iter().map(|f| f.call.work.target()).collect();
        keys.sort_unstable();
        keys.dedup();
        let mut tx = self.rows.begin().await?;
        let locked = self.rows.get(&mut tx, &keys, locks).await?;
        count_passed_over(&self.settings, locked.passed_over.len());
        let mut unit = UnitOfWork::new(locked, &[], &self.settings);
        let port = self.executor.port();
        let mut undos = HashMap::new();
        for done in finished {
            let (key, now) = (done.call.work.target(), unit.now);
            let asker = done.call.asker.as_ref();
            let report = Report {
                key,
                command: &done.call.work.command,
                action: done.call.work.action,
                found: done.found.clone(),
                unsure: done.unsure,
                asker: asker.map(|a| &a.command),
                traceparent: asker.and_then(|a| a.traceparent.as_deref()),
            };
            if settle(&mut unit, report, port, self.owner) == Next::Undo
                && let Some(row) = unit.change_row(key)
                && let Some(undo) = call(row, self.lease(now), now, port.keeps_keys_for)
            {
                undos.insert(key, Call { asker: Some(Asker::of_undo(&undo)), ..undo });
            }
        }
        Ok(Written { answered: unit.commit(&self.rows, tx).await?, undos })
    }
}
