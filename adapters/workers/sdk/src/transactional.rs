//! The worker of a [`TransactionalExecutor`]: a batch of commands is one transaction.

use std::collections::HashSet;

use amends_protocol::{
    Kind, Outcome, Reply,
    transport::{self, Batch, Sink, Source},
};
use chrono::{DateTime, Utc};
use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::{
    executor::{Action, Answer, TransactionalExecutor, Work},
    health::Health,
    inbox::{self, Delivery},
    outbox::{self, Answered},
    parts::{Part, Parts, count_passed_over, split_new},
    row::{CommandRow, Status},
    settings::Settings,
    store::{self, Locked, Locks, Rows},
    timer::{Backoff, Timer, TokioTimer},
    traces::Times,
    unit_of_work::{FollowUp, UnitOfWork},
};

/// Why a batch was not settled. It is received again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The transport failed.
    #[error(transparent)]
    Transport(#[from] transport::Error),
}

/// A worker whose effects are stored in its own database.
pub struct Transactional<R, E, S, K, C = TokioTimer> {
    rows: R,
    executor: E,
    source: S,
    sink: K,
    timer: C,
    settings: Settings,
    health: Health,
}

impl<R, E, S, K> Transactional<R, E, S, K>
where
    R: Rows,
    E: TransactionalExecutor<R::Tx>,
    S: Source,
    K: Sink,
{
    /// Creates a worker on a tokio runtime.
    pub fn new(rows: R, executor: E, source: S, sink: K, settings: Settings) -> Self {
        Self::with_timer(rows, executor, source, sink, settings, TokioTimer)
    }
}

impl<R, E, S, K, C> Transactional<R, E, S, K, C>
where
    R: Rows,
    E: TransactionalExecutor<R::Tx>,
    S: Source,
    K: Sink,
    C: Timer,
{
    /// Creates a worker with the given timer.
    pub fn with_timer(rows: R, executor: E, source: S, sink: K, settings: Settings, timer: C) -> Self {
        Self { rows, executor, source, sink, timer, settings, health: Health::default() }
    }

    /// Returns the worker's readiness.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Runs until stopped, through outages. It stops between batches.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        while !stop.is_cancelled() {
            let received = futures::select_biased! {
                () = stop.cancelled().fuse() => return,
                received = self.receive().fuse() => received,
            };
            let settled = match received {
                Ok(batch) => self.settle(batch).await,
                Err(error) => Err(error),
            };
            match settled {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    tracing::warn!(worker = self.settings.name, %error, "the batch failed and will be retried");
                    futures::select_biased! {
                        () = stop.cancelled().fuse() => return,
                        () = self.timer.sleep(backoff.pause()).fuse() => {}
                    }
                }
            }
        }
    }

    /// Receives a batch and settles it. After an error the batch is received again.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run_once(&mut self) -> Result<(), Error> {
        let batch = self.receive().await?;
        self.settle(batch).await
    }

    async fn receive(&mut self) -> Result<Batch, Error> {
        if !self.health.readiness().database {
            let pinged = self.rows.ping().await;
            self.health.database(pinged.is_ok());
            pinged?;
        }
        let received = self.source.receive(self.settings.batch_max, self.settings.patience).await;
        self.health.transport(received.is_ok());
        Ok(received?)
    }

    async fn settle(&mut self, batch: Batch) -> Result<(), Error> {
        if batch.messages.is_empty() {
            return Ok(());
        }
        let receipt = batch.receipt;
        let settled = self.answer(batch).await;
        match &settled {
            Ok(()) => self.source.commit(receipt)?,
            Err(error) => {
                match error {
                    Error::Store(_) => self.health.database(false),
                    Error::Transport(_) => self.health.transport(false),
                }
                self.source.rewind()?;
            }
        }
        settled
    }

    async fn answer(&self, batch: Batch) -> Result<(), Error> {
        outbox::count_batch(&self.settings, batch.messages.len());
        let times = Times::arrived();
        let (deliveries, mut dead_letters) = inbox::open(batch, &self.settings);
        let mut answered = Vec::with_capacity(deliveries.len());
        let (deliveries, locks) = self.try_new(deliveries, &mut answered, times).await?;
        let mut parts = Parts::new(&deliveries, locks);
        while let Some(part) = parts.next() {
            match self.transact(part, times.begun()).await {
                Ok(replies) => answered.extend(replies),
                Err(store::Error::Locked) => parts.pass_over(part, &self.settings),
                Err(store::Error::Poison(reason)) => {
                    dead_letters.extend(parts.halve(part).map(|poison| (poison.message.clone(), reason)));
                }
                Err(error) => return Err(error.into()),
            }
        }
        inbox::dead_letter(&self.sink, &self.settings, &dead_letters).await?;
        let replies: Vec<&Reply> = answered.iter().map(|answered| &answered.reply).collect();
        self.executor.committed(&replies).await;
        Ok(outbox::send(&self.sink, &self.settings, answered).await?)
    }

    /// Runs commands that seem new, on trial: first the work, then one insertion of their rows with the outcomes. If
    /// one of the rows exists already, nothing has happened. Returns the commands left for a transaction that locks
    /// rows first, and what that transaction does about rows that others hold: after one wait for a lock it does not
    /// wait again.
    async fn try_new(
        &self,
        deliveries: Vec<Delivery>,
        answered: &mut Vec<Answered>,
        times: Times,
    ) -> Result<(Vec<Delivery>, Locks), Error> {
        let now = self.rows.now().await?;
        let (new, mut left) = split_new(deliveries, now, &self.settings);
        if new.is_empty() {
            return Ok((left, Locks::Wait));
        }
        let mut locks = Locks::Wait;
        match self.try_together(&new, now).await {
            Ok(Some(replies)) => {
                times.committed(&self.settings, new.len(), new.iter().map(Delivery::parts));
                answered.extend(replies);
            }
            Ok(None) | Err(store::Error::Poison(_)) => left.extend(new),
            Err(store::Error::Locked) => {
                locks = Locks::PassOver;
                left.extend(new);
            }
            Err(error) => return Err(error.into()),
        }
        Ok((left, locks))
    }

    async fn try_together(
        &self,
        new: &[Delivery],
        now: DateTime<Utc>,
    ) -> Result<Option<Vec<Answered>>, store::Error> {
        let nothing = Locked { now, ..Locked::default() };
        let mut unit = UnitOfWork::new(nothing, &[], &self.settings);
        let work: Vec<Work> = new.iter().map(|delivery| work(&unit, Action::Execute, delivery)).collect();
        let mut tx = self.rows.begin().await?;
        let answers = self.work(&mut tx, &work, Locks::Wait).await?;
        for (delivery, answer) in new.iter().zip(answers) {
            record(&mut unit, delivery, answer);
        }
        let rows: Vec<CommandRow> = std::mem::take(&mut unit.rows).into_values().collect();
        if !self.rows.insert_in(&mut tx, &rows).await? {
            metrics::counter!("amends_worker_trials_failed_total", "worker" => self.settings.name.clone())
                .increment(1);
            return Ok(None);
        }
        self.rows.commit(tx).await?;
        self.health.database(true);
        Ok(Some(unit.answered))
    }

    async fn work(&self, tx: &mut R::Tx, work: &[Work], locks: Locks) -> Result<Vec<Answer>, store::Error> {
        let answers = match locks {
            Locks::Wait => self.executor.run(tx, work).await?,
            Locks::PassOver => self.executor.run_past(tx, work).await?,
        };
        if answers.len() != work.len() {
            let (got, of) = (answers.len(), work.len());
            return Err(store::Error::Unavailable(format!("the executor answered {got} of {of}")));
        }
        Ok(answers)
    }

    /// Decides and runs these commands in one transaction.
    async fn transact(&self, part: Part<'_>, times: Times) -> Result<Vec<Answered>, store::Error> {
        let Part { deliveries, locks } = part;
        if deliveries.is_empty() {
            return Ok(Vec::new());
        }
        let commands = inbox::known(deliveries);
        let mut tx = self.rows.begin().await?;
        let locked = self.rows.lock(&mut tx, &commands, locks).await?;
        let mut unit = UnitOfWork::new(locked, &commands, &self.settings);

        // Commands for the same row take turns: the executor's answer to the first decides about the next.
        let mut waiting: Vec<&Delivery> = deliveries.iter().collect();
        while !waiting.is_empty() {
            let (begun, later) = take(&mut unit, waiting);
            let work: Vec<Work> = begun.iter().map(|(action, d)| work(&unit, *action, d)).collect();
            if !work.is_empty() {
                let answers = self.work(&mut tx, &work, locks).await?;
                for ((_, delivery), answer) in begun.into_iter().zip(answers) {
                    record(&mut unit, delivery, answer);
                }
            }
            waiting = later;
        }
        let passed_over = unit.passed_over();
        let answered = unit.commit(&self.rows, tx).await?;
        times.committed(&self.settings, deliveries.len(), deliveries.iter().map(Delivery::parts));
        count_passed_over(&self.settings, passed_over);
        self.health.database(true);
        Ok(answered)
    }
}

/// Decides as many commands as possible, in order for each row. Returns those that the executor must run, and those
/// that must wait for its answers.
fn take<'a>(
    unit: &mut UnitOfWork,
    waiting: Vec<&'a Delivery>,
) -> (Vec<(Action, &'a Delivery)>, Vec<&'a Delivery>) {
    let (mut begun, mut later, mut busy) = (Vec::new(), Vec::new(), HashSet::new());
    for delivery in waiting {
        let key = delivery.command.row_key();
        if busy.contains(&key) {
            later.push(delivery);
            continue;
        }
        let action = match unit.decide(&delivery.command, delivery.message.traceparent.as_deref()) {
            Some(FollowUp::Execute) => Action::Execute,
            Some(FollowUp::Undo) => Action::Undo,
            // In a transactional worker no row is between accepted and settled, so this does not occur.
            Some(FollowUp::LookUp) | None => continue,
        };
        busy.insert(key);
        begun.push((action, delivery));
    }
    (begun, later)
}

fn work(unit: &UnitOfWork, action: Action, delivery: &Delivery) -> Work {
    let held = unit.rows.get(&delivery.command.row_key()).map(|row| row.details.exposure.clone());
    Work { action, command: delivery.command.clone(), held: held.unwrap_or_default() }
}

/// Records the executor's answer.
fn record(unit: &mut UnitOfWork, delivery: &Delivery, answer: Answer) {
    let (command, now) = (&delivery.command, unit.now);
    let traceparent = delivery.message.traceparent.as_deref();
    if answer == Answer::PassedOver {
        return unit.pass_over(command.row_key());
    }
    let (outcome, details) = answer.split();
    if outcome == Outcome::Unknown {
        // Nothing is recorded: the row stays as it was before this command.
        let mut reply = command.reply(outcome, now);
        reply.reason = details.reason;
        return unit.answer(reply, traceparent);
    }
    let row = unit.change(command);
    let reply = if command.kind == Kind::Compensate {
        row.settle_undo(outcome, command.attempt, details);
        row.recorded_undo(command, now)
    } else {
        row.attempt = command.attempt;
        row.settle(Status::settled(outcome), details);
        row.recorded(command, now)
    };
    if let Some(reply) = reply {
        unit.answer(reply, traceparent);
    }
}
