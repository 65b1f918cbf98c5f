//! Accepts commands, and begins those that can begin at once.

use std::{collections::HashSet, sync::Arc};

use amends_protocol::{
    Kind, Outcome,
    transport::{Batch, Sink, Source},
};
use tokio_util::sync::CancellationToken;

use super::{Asker, Call, Error, Shared, call};
use crate::{
    executor::ExternalExecutor,
    inbox::{self, Delivery},
    outbox::{self, Answered},
    parts::{Part, Parts, count_passed_over, split_new},
    row::{AnswerDetails, CommandRow, Lease, Status},
    store::{self, Due, Locks, Rows},
    timer::{Backoff, Timer},
    traces::Times,
    unit_of_work::{FollowUp, UnitOfWork},
};

/// The loop that accepts commands.
pub struct Intake<R, E, S, K, C> {
    shared: Arc<Shared<R, E, K, C>>,
    source: S,
}

impl<R, E, S, K, C> Intake<R, E, S, K, C>
where
    R: Rows,
    E: ExternalExecutor,
    S: Source,
    K: Sink,
    C: Timer,
{
    pub(super) fn new(shared: Arc<Shared<R, E, K, C>>, source: S) -> Self {
        Self { shared, source }
    }

    pub(super) async fn run(&mut self, stop: &CancellationToken) {
        let mut backoff = Backoff::default();
        while !stop.is_cancelled() {
            match self.run_once().await {
                Ok(()) => backoff.reset(),
                Err(error) => self.shared.pause(&mut backoff, &error, stop).await,
            }
        }
    }

    /// Receives a batch, accepts its commands in one transaction, answers what can be answered at once, and moves the
    /// offsets. After an error the batch is received again.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run_once(&mut self) -> Result<(), Error> {
        let settings = &self.shared.settings;
        let received = self.source.receive(settings.batch_max, settings.patience).await;
        self.shared.health.transport(received.is_ok());
        let batch = received?;
        if batch.messages.is_empty() {
            return Ok(());
        }
        let receipt = batch.receipt;
        let accepted = self.accept(batch).await;
        self.shared.note_result(&accepted);
        match &accepted {
            Ok(()) => self.source.commit(receipt)?,
            Err(_) => self.source.rewind()?,
        }
        accepted
    }

    async fn accept(&self, batch: Batch) -> Result<(), Error> {
        let Shared { settings, sink, .. } = &*self.shared;
        outbox::count_batch(settings, batch.messages.len());
        let times = Times::arrived();
        let (deliveries, mut dead_letters) = inbox::open(batch, settings);
        let deliveries = self.begin_new(deliveries, times).await?;
        let mut answered = Vec::new();
        let mut parts = Parts::new(&deliveries, Locks::Wait);
        while let Some(part) = parts.next() {
            match self.transact(part, times.begun()).await {
                Ok(replies) => answered.extend(replies),
                Err(store::Error::Locked) => parts.pass_over(part, settings),
                Err(store::Error::Poison(reason)) => {
                    dead_letters.extend(parts.halve(part).map(|poison| (poison.message.clone(), reason)));
                }
                Err(error) => return Err(error.into()),
            }
        }
        inbox::dead_letter(sink, settings, &dead_letters).await?;
        Ok(outbox::send(sink, settings, answered).await?)
    }

    /// Begins new commands for which there is room, by one statement that commits their rows as started. Returns the
    /// commands left for a transaction that locks rows first.
    async fn begin_new(&self, deliveries: Vec<Delivery>, times: Times) -> Result<Vec<Delivery>, Error> {
        let shared = &*self.shared;
        if shared.has_backlog() {
            return Ok(deliveries);
        }
        let now = shared.rows.now().await?;
        let (new, mut left) = split_new(deliveries, now, &shared.settings);
        let keeps = shared.executor.port().keeps_keys_for;
        let (mut rows, mut begun) = (Vec::with_capacity(new.len()), Vec::with_capacity(new.len()));
        for delivery in new {
            let Some(permit) = shared.permit(Due::Sure) else {
                left.push(delivery);
                continue;
            };
            let mut row = CommandRow::new(&delivery.command);
            row.status = Status::Started;
            row.command = Some(delivery.command.clone());
            let Some(call) = call(&mut row, shared.lease(now), now, keeps) else { continue };
            rows.push(row);
            begun.push((delivery, Call { permit: Some(permit), ..call }));
        }
        if rows.is_empty() {
            return Ok(left);
        }
        let inserted = match shared.rows.insert(&rows).await {
            Ok(inserted) => inserted,
            // The transaction that locks rows first halves the batch, or passes rows over.
            Err(store::Error::Poison(_) | store::Error::Locked) => HashSet::new(),
            Err(error) => return Err(error.into()),
        };
        let mut calls = Vec::with_capacity(inserted.len());
        let accepted = begun.iter().filter(|(_, call)| inserted.contains(&call.work.target()));
        times.committed(&shared.settings, inserted.len(), accepted.map(|(delivery, _)| delivery.parts()));
        for (delivery, call) in begun {
            if inserted.contains(&call.work.target()) {
                let Delivery { command, message } = delivery;
                calls.push(Call { asker: Some(Asker { command, traceparent: message.traceparent }), ..call });
            } else {
                left.push(delivery);
            }
        }
        shared.begin(calls);
        Ok(left)
    }

    async fn transact(&self, part: Part<'_>, times: Times) -> Result<Vec<Answered>, store::Error> {
        let Part { deliveries, locks } = part;
        if deliveries.is_empty() {
            return Ok(Vec::new());
        }
        let shared = &*self.shared;
        let commands = inbox::known(deliveries);
        let mut tx = shared.rows.begin().await?;
        let locked = shared.rows.lock(&mut tx, &commands, locks).await?;
        let mut unit = UnitOfWork::new(locked, &commands, &shared.settings);
        let (mut begun, mut waiting) = (Vec::new(), false);
        for delivery in deliveries {
            if let Some(follow_up) = unit.decide(&delivery.command, delivery.message.traceparent.as_deref()) {
                let call = self.begin(&mut unit, follow_up, delivery);
                waiting |= call.is_none() && follow_up != FollowUp::LookUp;
                begun.extend(call);
            }
        }
        let passed_over = unit.passed_over();
        let answered = unit.commit(&shared.rows, tx).await?;
        times.committed(&shared.settings, deliveries.len(), deliveries.iter().map(Delivery::parts));
        count_passed_over(&shared.settings, passed_over);
        shared.begin(begun);
        if waiting {
            // Only now can the recovery loop see them.
            shared.set_backlog(true);
            shared.freed.notify_one();
        }
        Ok(answered)
    }

    /// Accepts a command. Its call begins now if there is room and no other row waits longer; otherwise the row is due,
    /// and the recovery loop begins it. Look-ups have separate room.
    fn begin(&self, unit: &mut UnitOfWork, follow_up: FollowUp, delivery: &Delivery) -> Option<Call> {
        let (shared, now, command) = (&*self.shared, unit.now, &delivery.command);
        let permit = match follow_up {
            FollowUp::LookUp => shared.permit(Due::Unsure),
            FollowUp::Execute | FollowUp::Undo if shared.has_backlog() => None,
            FollowUp::Execute | FollowUp::Undo => shared.permit(Due::Sure),
        };
        let row = unit.change(command);
        match follow_up {
            FollowUp::Execute => {
                row.status = Status::Accepted;
                row.attempt = command.attempt;
                row.command = Some(command.clone());
                row.details = AnswerDetails::default();
                row.unsure = false;
                row.started_at = None;
            }
            FollowUp::Undo => {
                row.status = Status::Undoing;
                row.undo = Some(command.clone());
                row.unsure = false;
                row.started_at = None;
            }
            FollowUp::LookUp => {
                row.unsure = true;
                if command.kind == Kind::Compensate {
                    row.undo = Some(command.clone());
                }
            }
        }
        let Some(permit) = permit else {
            row.lease = Some(Lease { owner: None, until: now });
            if follow_up == FollowUp::LookUp {
                let reply = row.reply(command, Outcome::InFlight, now);
                unit.answer(reply, delivery.message.traceparent.as_deref());
            } else {
                shared.set_backlog(true);
            }
            return None;
        };
        if row.status == Status::Accepted {
            row.status = Status::Started;
        }
        let asker = Asker { command: command.clone(), traceparent: delivery.message.traceparent.clone() };
        let begun = call(row, shared.lease(now), now, shared.executor.port().keeps_keys_for)?;
        Some(Call { asker: Some(asker), permit: Some(permit), ..begun })
    }
}
