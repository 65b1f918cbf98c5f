//! Processes workers' replies: all that have arrived are decided together and written in one transaction (very many in
//! a few concurrent transactions).

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use amends_protocol::{
    Kind, Outcome, Reply, trace,
    transport::{Inbound, Sink, Source},
    wire,
};
use chrono::{DateTime, Utc};
use futures::future::join_all;
use uuid::Uuid;

use super::{
    Engine, Error,
    budget::AnswerReceived,
    counts::AnswerCounts,
    odd::OddBatch,
    outcome::BatchOutcome,
    restored::BeforeRestore,
    strays::{keep_strays, not_ordered, not_ordered_strays},
    traces::{Causes, ENGINE},
};
use crate::{
    core::{Echo, Event, Nothing, RESEND, ReplyEvent, Requires},
    port::{self, Clock, Deferral, DeferredReply, EPOCHS_FROM, OddReason, SagaStore},
};

/// Maximum number of replies in a batch.
pub const BATCH: usize = LANE_SIZE * LANES;
/// Approximate number of sagas that are decided and written together: at this size the fixed cost of a transaction no
/// longer matters.
const LANE_SIZE: usize = 500;
/// Maximum number of concurrent transactions of a batch: the store processes some while others are decided or sent. By
/// default it is one less than a role's connections, so that the other loops need not wait.
const LANES: usize = 3;
/// How long an empty receive waits. It bounds the delay until a change of ownership is seen.
const REPLIES_PATIENCE: Duration = Duration::from_millis(250);

/// By so many seconds an epoch may be ahead of the store's clock, which may have been set back.
const EPOCH_EARLY: i64 = 24 * 60 * 60;
/// Why a reply with the right token is dead-lettered.
const WRONG_ECHO: &str = "the reply's step, part, generation, workflow or slot is not its command's";
/// How long a reply rests if another transaction holds its saga, or its part of the store does not answer.
const LOCKED_REST: Duration = Duration::from_secs(1);
/// How long a deferred reply rests if it still cannot be judged.
const DEFERRED_REST: Duration = Duration::from_secs(5);

/// The message of a reply, and whether its outcome is a success.
pub(super) struct BatchReply {
    pub message: usize,
    pub succeeded: bool,
}

/// The replies of a batch to judge, by saga, and the messages that are not valid replies.
#[derive(Default)]
struct Judged<'a> {
    by_saga: BTreeMap<Uuid, Vec<BatchReply>>,
    events: BTreeMap<Uuid, Vec<Event>>,
    dead: Vec<(&'a Inbound, String)>,
    odd: OddBatch,
    /// Successes from before a restore, with their messages.
    before_restore: Vec<(usize, Reply)>,
}

/// What remains to do once a batch is settled.
pub(super) struct Settled {
    /// The deferred replies.
    pub deferred: Vec<DeferredReply>,
    /// Replies that changed nothing, to be noted.
    pub odd: OddBatch,
}

/// Processes one batch; returns the number of its replies.
///
/// Offsets move only after the transaction is committed, and the resulting commands are acknowledged or could not be sent.
/// A command that could not be sent stands in its row, and goes out when that is due: the batch need not come again for
/// it, and the replies of other participants must not wait for it.
///
/// # Errors
/// Store or transport; the batch is received again.
pub async fn run_once<S: SagaStore, K: Sink, C: Clock>(
    engine: &Engine<S, K, C>,
    source: &mut impl Source,
) -> Result<usize, Error> {
    let batch = source.receive(BATCH, REPLIES_PATIENCE).await?;
    let drained = batch.messages.len() < BATCH;
    let assignment = source.assignment();
    if batch.messages.is_empty() {
        engine.ownership.update(assignment, drained);
        return Ok(0);
    }
    engine.ownership.update(assignment.clone(), false);
    let began = engine.clock.monotonic();
    match take(engine, &batch.messages, Taken::First).await {
        Ok(settled) => {
            source.commit(batch.receipt)?;
            engine.ownership.update(assignment, drained);
            metrics::histogram!("amends_engine_batch_size").record(batch.messages.len() as f64);
            let took = engine.clock.monotonic().saturating_sub(began);
            metrics::histogram!("amends_engine_reply_to_command_seconds").record(took.as_secs_f64());
            settled.odd.note(engine).await;
            Ok(batch.messages.len())
        }
        Err(error) => {
            source.rewind()?;
            Err(error)
        }
    }
}

/// Whether messages are processed for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// They have just been received.
    First,
    /// They were deferred.
    Again,
}

impl Taken {
    /// Returns how long a reply rests that cannot be judged this time either.
    fn rest(self, why: Deferral) -> Duration {
        match (self, why) {
            (Taken::Again, _) => DEFERRED_REST,
            (Taken::First, Deferral::BeforeRestore | Deferral::Locked | Deferral::Unreachable) => LOCKED_REST,
            // A reply that needs another program is left to that program at once.
            (Taken::First, Deferral::UnknownWorkflow | Deferral::Unreadable) => Duration::ZERO,
        }
    }
}

/// Processes messages: on return, each has moved its saga, or is a duplicate, a stray, a dead letter, or deferred.
pub(super) async fn take<S: SagaStore, K: Sink, C: Clock>(
    engine: &Engine<S, K, C>,
    messages: &[Inbound],
    taken: Taken,
) -> Result<Settled, Error> {
    let now = engine.store.now().await?;
    let Judged { by_saga, events, mut dead, mut odd, before_restore } =
        read(engine, messages, taken, now).await?;
    let traced = traced(messages, &by_saga, &events);
    let mut outcome = BatchOutcome::default();
    // All are completed, even if one fails.
    for lane in join_all(lanes(events).into_iter().map(|events| advance(engine, events, &traced))).await {
        outcome.append(lane?);
    }
    let BeforeRestore { mut strays, deferred } = BeforeRestore::of(engine, messages, &before_restore).await?;
    strays.extend(not_ordered_strays(messages, &by_saga, &outcome));
    keep_strays(engine, strays).await?;
    let unparked = engine.park(&outcome.poisoned).await?;
    outcome.poisoned.retain(|poison| unparked.iter().all(|saga| saga.saga_id != poison.saga_id));
    outcome.passed_over.extend(unparked);
    // All replies of a saga that is passed over wait, whatever was decided about them.
    let passed_over: BTreeSet<Uuid> = outcome.passed_over.iter().map(|saga| saga.saga_id).collect();
    outcome.retract(|id| passed_over.contains(id));
    traced.end(|saga| !passed_over.contains(saga));
    let deferred = defer(engine, messages, &by_saga, &outcome, taken, deferred).await?;
    for (received, why, dead_letter) in unchanging(&by_saga, &outcome) {
        let message = &messages[received.message];
        odd.add_again(why, message);
        dead.extend(dead_letter.map(|why| (message, why)));
    }
    for (message, why) in dead {
        metrics::counter!("amends_engine_dead_letters_total").increment(1);
        engine.sink.dead_letter(message, &why).await?;
    }
    Ok(Settled { deferred, odd })
}

/// Returns the judged replies that changed nothing, with the reason and the text of their dead letter.
fn unchanging<'a>(
    by_saga: &'a BTreeMap<Uuid, Vec<BatchReply>>,
    outcome: &'a BatchOutcome,
) -> impl Iterator<Item = (&'a BatchReply, OddReason, Option<String>)> {
    let received = |id: &Uuid, place: usize| by_saga.get(id)?.get(place);
    let poisoned = outcome.poisoned.iter().filter_map(move |poison| {
        let received = received(&poison.saga_id, poison.place)?;
        Some((received, OddReason::NotStorable, Some(poison.why.clone())))
    });
    let ignored = outcome.ignored.iter().filter_map(move |event| {
        let received = received(&event.saga_id, event.place)?;
        match event.why {
            Nothing::WrongEcho => Some((received, OddReason::WrongEcho, Some(WRONG_ECHO.to_owned()))),
            Nothing::Duplicate => Some((received, OddReason::Duplicate, None)),
            Nothing::NotMine | Nothing::InFlight | Nothing::AlreadyCancelling => None,
        }
    });
    let not_ordered = not_ordered(by_saga, outcome).map(|received| match received.succeeded {
        true => (received, OddReason::SuccessNotOrdered, None),
        false => (received, OddReason::NotOrdered, None),
    });
    poisoned.chain(ignored).chain(not_ordered)
}

/// Parses messages, and accepts those whose token is right and whose epoch is this deployment's.
async fn read<'a, S: SagaStore, K: Sink, C: Clock>(
    engine: &Engine<S, K, C>,
    messages: &'a [Inbound],
    taken: Taken,
    now: DateTime<Utc>,
) -> Result<Judged<'a>, Error> {
    let mut judged = Judged::default();
    let mut verified: Vec<(usize, Reply)> = Vec::with_capacity(messages.len());
    let mut answers = AnswerCounts::default();
    for (message, inbound) in messages.iter().enumerate() {
        match wire::reply(&inbound.bytes) {
            Err(why) => {
                judged.dead.push((inbound, why.to_string()));
                judged.odd.add_unreadable(inbound);
            }
            Ok(reply) if !engine.key.verifies(reply.command_id, &reply.reply_token) => {
                metrics::counter!("amends_engine_forged_replies_total").increment(1);
                judged.dead.push((inbound, "the reply token is not that command's".to_owned()));
                judged.odd.add(OddReason::Forged, inbound, &reply);
            }
            Ok(reply) => verified.push((message, reply)),
        }
    }
    let epochs = verified.iter().map(|(_, reply)| reply.epoch);
    check_epoch(engine, epochs.filter(|epoch| may_have_begun(*epoch, now)).max()).await?;
    for (message, reply) in verified {
        match reply.epoch.cmp(&engine.epoch) {
            // From before the store was restored: the engine asks again for what it settles.
            Ordering::Less => {
                if taken == Taken::First {
                    metrics::counter!("amends_engine_old_epoch_replies_total").increment(1);
                    judged.odd.add(OddReason::OldEpoch, &messages[message], &reply);
                }
                if reply.outcome == Outcome::Succeeded {
                    judged.before_restore.push((message, reply));
                }
            }
            Ordering::Greater => {
                let why = format!(
                    "the reply's epoch {} cannot have begun; this deployment's is {}",
                    reply.epoch, engine.epoch
                );
                judged.dead.push((&messages[message], why));
                judged.odd.add(OddReason::NewerEpoch, &messages[message], &reply);
            }
            Ordering::Equal => {
                if taken == Taken::First {
                    note(engine, &reply, now);
                    answers.add(engine.catalog.get(&reply.workflow, reply.workflow_version), &reply);
                }
                let received = BatchReply { message, succeeded: reply.outcome == Outcome::Succeeded };
                judged.by_saga.entry(reply.saga_id).or_default().push(received);
                judged.events.entry(reply.saga_id).or_default().push(replied(engine, reply));
            }
        }
    }
    answers.record();
    Ok(judged)
}

/// Returns whether an epoch can have begun by now. Epochs are counted on, or begin with the number of seconds since 2020.
fn may_have_begun(epoch: u32, now: DateTime<Utc>) -> bool {
    i64::from(epoch) <= now.timestamp() - EPOCHS_FROM + EPOCH_EARLY
}

/// Replies that name a newer epoch than this process was started in: the store was restored since, or has lost the beginning
/// of that epoch, which begins the next one. A process does not outlive either, because it may remember what the store no
/// longer contains.
///
/// # Errors
/// [`port::Error::OtherEpoch`]; nothing of the batch is judged.
async fn check_epoch<S: SagaStore, K: Sink, C: Clock>(
    engine: &Engine<S, K, C>,
    newest: Option<u32>,
) -> Result<(), Error> {
    let Some(newest) = newest.filter(|newest| *newest > engine.epoch) else { return Ok(()) };
    let present = engine.store.epoch().await?;
    let why = if present > engine.epoch {
        format!("it was restored to an earlier state: its epoch is {present}")
    } else {
        // Only an engine in that epoch sends what these replies answer.
        engine.store.begin_epoch_after(newest).await?;
        format!("it has lost commits: workers answer commands of epoch {newest}, of which it knows nothing")
    };
    let why = format!("{why}, and this program was started in epoch {}", engine.epoch);
    Err(port::Error::OtherEpoch(why).into())
}

/// Stores these replies, and those of sagas that were passed over. An ended or parked saga has no timer that would ask again, so
/// this happens before their offsets move.
async fn defer<S: SagaStore, K: Sink, C: Clock>(
    engine: &Engine<S, K, C>,
    messages: &[Inbound],
    by_saga: &BTreeMap<Uuid, Vec<BatchReply>>,
    outcome: &BatchOutcome,
    taken: Taken,
    mut deferred: Vec<DeferredReply>,
) -> Result<Vec<DeferredReply>, Error> {
    for saga in &outcome.passed_over {
        for received in by_saga.get(&saga.saga_id).into_iter().flatten() {
            metrics::counter!("amends_engine_deferred_replies_total", "why" => saga.why.as_str())
                .increment(1);
            deferred.push(DeferredReply {
                message: messages[received.message].clone(),
                saga_id: saga.saga_id,
                slot: saga.slot,
                requires: saga
                    .requires
                    .clone()
                    .unwrap_or_else(|| required(engine, &messages[received.message])),
                why: saga.why,
                rest: taken.rest(saga.why),
            });
        }
    }
    // A reply that was received twice is stored once.
    deferred.sort_by_key(DeferredReply::id);
    deferred.dedup_by_key(|reply| reply.id());
    if !deferred.is_empty() {
        engine.store.defer(&deferred).await?;
    }
    Ok(deferred)
}

/// Returns what a program must know to look at a reply whose saga could not be read: a workflow of this program, the
/// reply's if it is one of them. The row then says what judging it needs.
pub(super) fn required<S, K, C>(engine: &Engine<S, K, C>, message: &Inbound) -> Requires {
    // It has already been parsed once.
    let named = wire::reply(&message.bytes).ok();
    let definition = named
        .and_then(|reply| engine.catalog.get(&reply.workflow, reply.workflow_version))
        .or_else(|| engine.catalog.iter().next());
    definition.map_or_else(Requires::default, |definition| Requires {
        workflow: definition.name.to_owned(),
        workflow_version: definition.version,
        ..Requires::default()
    })
}

/// Decides and writes events, and sends the resulting commands. Those that cannot be sent are left to the timers.
async fn advance<S: SagaStore, K: Sink, C: Clock>(
    engine: &Engine<S, K, C>,
    events: BTreeMap<Uuid, Vec<Event>>,
    causes: &Causes,
) -> Result<BatchOutcome, Error> {
    let mut outcome = engine.decide(events, None).await?;
    let _ = engine.dispatch(std::mem::take(&mut outcome.outgoing), causes).await?;
    Ok(outcome)
}

/// Begins the spans in which these replies are processed.
fn traced(
    messages: &[Inbound],
    by_saga: &BTreeMap<Uuid, Vec<BatchReply>>,
    events: &BTreeMap<Uuid, Vec<Event>>,
) -> Causes {
    let mut causes = Causes::none(ENGINE);
    if trace::is_recording() {
        let of_saga = |saga| by_saga.get(saga).into_iter().flatten();
        for (saga, events) in events {
            for (received, event) in of_saga(saga).zip(events) {
                causes.replied(*saga, &messages[received.message], event);
            }
        }
    }
    causes
}

/// Divides many sagas over lanes of equal size, in order: sagas that were born together stay together, so that lanes
/// rarely wait for each other's slots.
fn lanes<V>(mut events: BTreeMap<Uuid, V>) -> Vec<BTreeMap<Uuid, V>> {
    let sagas = events.len();
    let count = (sagas / (LANE_SIZE * 3 / 4)).clamp(1, LANES);
    let firsts: Vec<Uuid> =
        (1..count).filter_map(|n| events.keys().nth(n * sagas / count).copied()).collect();
    let mut lanes: Vec<_> = firsts.into_iter().rev().map(|first| events.split_off(&first)).collect();
    lanes.push(events);
    lanes
}

/// Converts a reply to an event, with the fields that it repeats of its command.
fn replied<S, K, C>(engine: &Engine<S, K, C>, reply: Reply) -> Event {
    let echo = Echo::of(&reply, engine.catalog.get(&reply.workflow, reply.workflow_version));
    Event::Replied(ReplyEvent { echo: Some(echo), ..ReplyEvent::from(reply) })
}

/// Records an answer in the participant's budget: answers decide whether further attempts are worth while.
fn note<S, K, C: Clock>(engine: &Engine<S, K, C>, reply: &Reply, now: DateTime<Utc>) {
    let definition = engine.catalog.get(&reply.workflow, reply.workflow_version);
    if let Some((_, step)) = definition.and_then(|d| d.step(&reply.step))
        && matches!(reply.kind, Kind::Execute | Kind::Compensate)
    {
        let answer =
            AnswerReceived { outcome: reply.outcome, attempt: reply.attempt, soon: came_soon(reply, now) };
        engine.budget.note_answer(step.participant, answer, engine.clock.monotonic());
    }
}

/// Returns whether the answer took less time than the engine waits before it sends a command again. Both times are from
/// the engine's database, so that no other clock matters. An answer without the time of its command's sending counts as
/// late.
fn came_soon(reply: &Reply, now: DateTime<Utc>) -> bool {
    reply.sent_at.is_some_and(|sent_at| now - sent_at < RESEND)
}
