//! Processes one batch of events: reads the rows, decides each in the core, and writes all decisions in one
//! transaction.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use amends_protocol::{Json, Kind, Reason, transport::Sink};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    Engine, Error,
    counts::{count_incidents, time_ended, time_steps},
    dispatch::Outgoing,
    outcome::{BatchOutcome, Ignored, PassedOverSaga, Poison},
    recent::Kept,
    written::Wrote,
};
use crate::{
    core::{CommandToSend, Decision, Event, Illegal, Needs, Nothing, Occurrence, Saga, transition},
    port::{Clock, Deferral, Inputs, Loaded, SagaStore, Wants, Write},
};

/// Maximum number of times a batch is decided again because another writer was first.
const DECISION_ROUNDS: usize = 20;

/// The decision for one saga.
struct Decided {
    write: Option<Write>,
    sends: Vec<CommandToSend>,
    raise: Option<Option<DateTime<Utc>>>,
}

/// Events of one saga that change nothing, by index in the saga's list, and refused actions.
#[derive(Default)]
struct Refused {
    ignored: Vec<(usize, Nothing)>,
    illegal: Vec<Illegal>,
}

impl Refused {
    /// Returns whether none of the results needs a row that was just read. Duplicates do not: a write beside them is
    /// fenced by the revision of the remembered row, and without a write the row is read.
    fn is_empty(&self) -> bool {
        self.illegal.is_empty() && self.ignored.iter().all(|(_, why)| *why == Nothing::Duplicate)
    }
}

/// A saga to decide.
struct Found {
    saga: Arc<Saga>,
    data: Option<Json>,
    /// Whether the row was just read. A remembered row may be outdated; only a write may follow from it, because the
    /// revision fences writes.
    read: bool,
}

impl Found {
    fn read(saga: Saga) -> (Uuid, Self) {
        (saga.id, Self { saga: Arc::new(saga), data: None, read: true })
    }

    fn remembered((id, Kept { saga, data }): (Uuid, Kept)) -> (Uuid, Self) {
        (id, Self { saga, data, read: false })
    }
}

/// What is needed of a saga once it is written.
struct Pending {
    sends: Vec<CommandToSend>,
    data: Option<Json>,
}

/// Events with their times, by saga.
type Occurrences = BTreeMap<Uuid, Vec<Occurrence>>;

/// The result of one round of decisions.
#[derive(Default)]
struct Round {
    writes: Vec<Write>,
    pending: HashMap<Uuid, Pending>,
    /// New `wake_at` of sagas of which nothing else is to be written.
    raises: Vec<(Uuid, u32, Option<DateTime<Utc>>)>,
    /// Events to decide again if the write fails because another writer was first.
    again: Occurrences,
    /// Events to decide again by rows that are read, because remembered rows may be outdated.
    unsure: Occurrences,
}

impl<S: SagaStore, K: Sink, C: Clock> Engine<S, K, C> {
    /// Decides and writes events by saga. `first` contains rows that were just read; other rows are remembered, or read
    /// here.
    pub(super) async fn decide(
        &self,
        events: BTreeMap<Uuid, Vec<Event>>,
        first: Option<Loaded>,
    ) -> Result<BatchOutcome, Error> {
        self.decide_within(DECISION_ROUNDS, events, first).await
    }

    /// Decides at most so many times.
    ///
    /// # Errors
    /// [`Error::Contended`]: another writer was first each time.
    pub(super) async fn decide_within(
        &self,
        rounds: usize,
        events: BTreeMap<Uuid, Vec<Event>>,
        mut first: Option<Loaded>,
    ) -> Result<BatchOutcome, Error> {
        let mut outcome = BatchOutcome::default();
        let occur = |event| Occurrence { event, at: DateTime::UNIX_EPOCH, jitter: 0 };
        let mut events: Occurrences =
            events.into_iter().map(|(id, list)| (id, list.into_iter().map(occur).collect())).collect();
        let mut one_by_one = Vec::new();
        let mut remembered = if first.is_none() { self.recent.take(events.keys()) } else { HashMap::new() };
        for _ in 0..rounds {
            let loaded = match first.take() {
                Some(loaded) => loaded,
                None => self.load(events.keys().filter(|id| !remembered.contains_key(id)).copied()).await?,
            };
            for unreadable in loaded.unreadable {
                if events.remove(&unreadable.saga_id).is_some() {
                    self.pass_over(unreadable.into(), &mut outcome);
                }
            }
            for saga_id in loaded.unreachable {
                if events.remove(&saga_id).is_some() {
                    self.pass_over(PassedOverSaga::unread(saga_id), &mut outcome);
                }
            }
            let read = loaded.sagas.into_iter().map(Found::read);
            let found = read.chain(remembered.drain().map(Found::remembered)).collect();
            let mut round = self.decide_each(events, found, loaded.now, &mut outcome);
            if !round.raises.is_empty() {
                self.reschedule(&round.raises).await?;
            }
            let Wrote { written, refused, locked, unreachable } = self.write(&round.writes).await?;
            self.pass_over_unwritten(&mut round, &locked, Deferral::Locked, &mut outcome);
            self.pass_over_unwritten(&mut round, &unreachable, Deferral::Unreachable, &mut outcome);
            self.settle(&mut round, written, &mut outcome);
            let Round { mut again, unsure, .. } = round;
            for (saga_id, why) in refused {
                match again.remove(&saga_id) {
                    Some(list) if list.len() > 1 => one_by_one.push((saga_id, list)),
                    _ => outcome.poisoned.push(Poison { saga_id, place: 0, why }),
                }
            }
            // Another writer was first, and its write may change the decision.
            metrics::counter!("amends_engine_conflicts_total").increment(again.len() as u64);
            outcome.retract(|id| again.contains_key(id));
            events = again;
            events.extend(unsure);
            if events.is_empty() {
                self.decide_one_by_one(one_by_one, &mut outcome).await?;
                return Ok(outcome);
            }
        }
        Err(Error::Contended)
    }

    /// Decides each saga's events by its row as found. `now` is the database's time at the read. The write happens a
    /// little later, so no decision is early.
    fn decide_each(
        &self,
        events: Occurrences,
        mut found: HashMap<Uuid, Found>,
        now: DateTime<Utc>,
        outcome: &mut BatchOutcome,
    ) -> Round {
        let mut round = Round::default();
        for (id, mut list) in events {
            for occurrence in &mut list {
                (occurrence.at, occurrence.jitter) = (now, self.clock.jitter());
            }
            let Some(Found { saga, data, read }) = found.remove(&id) else {
                outcome.missing.push(id);
                continue;
            };
            let mut refused = Refused::default();
            let decided = self.decide_one(&saga, &list, &mut refused);
            if !read && (!refused.is_empty() || decided.as_ref().is_none_or(|d| d.write.is_none())) {
                round.unsure.insert(id, list);
                continue;
            }
            let ignored = refused.ignored.into_iter();
            outcome.ignored.extend(ignored.map(|(place, why)| Ignored { saga_id: id, place, why }));
            outcome.illegal.extend(refused.illegal.into_iter().map(|illegal| (id, illegal)));
            let Some(decided) = decided else {
                // A newer program's saga is left to that program, and must not stop the others here.
                self.pass_over(PassedOverSaga::of(&saga, Deferral::UnknownWorkflow), outcome);
                continue;
            };
            if let Some(raise) = decided.raise {
                round.raises.push((id, saga.revision, raise));
            }
            match decided.write {
                Some(mut write) => {
                    write.wants.data &= data.is_none();
                    round.pending.insert(id, Pending { sends: decided.sends, data });
                    round.writes.push(write);
                    round.again.insert(id, list);
                }
                None => outcome.rows.push(saga),
            }
        }
        round
    }

    /// Handles sagas that cannot be written now: their events wait, whatever was decided.
    fn pass_over_unwritten(
        &self,
        round: &mut Round,
        sagas: &[Uuid],
        why: Deferral,
        outcome: &mut BatchOutcome,
    ) {
        for id in sagas {
            round.again.remove(id);
            outcome.retract(|saga| saga == id);
            let write = round.writes.iter().find(|write| write.saga.id == *id);
            if let Some(write) = write {
                self.pass_over(PassedOverSaga::of(&write.saga, why), outcome);
            }
        }
    }

    fn pass_over(&self, saga: PassedOverSaga, outcome: &mut BatchOutcome) {
        metrics::counter!("amends_engine_passed_over_total", "why" => saga.why.as_str()).increment(1);
        self.passed_over.note(saga.saga_id, saga.why, self.clock.monotonic());
        outcome.passed_over.push(saga);
    }

    /// Handles sagas that were written: remembers them and releases their commands.
    fn settle(&self, round: &mut Round, written: Vec<Inputs>, outcome: &mut BatchOutcome) {
        let mut writes: HashMap<Uuid, Write> = round.writes.drain(..).map(|w| (w.saga.id, w)).collect();
        let mut kept = Vec::with_capacity(written.len());
        for mut inputs in written {
            let id = inputs.saga_id;
            round.again.remove(&id);
            let (Some(write), Some(pending)) = (writes.remove(&id), round.pending.remove(&id)) else {
                continue;
            };
            self.news.mark(write.saga.slot);
            count_incidents(&write.entries);
            time_ended(&write);
            if let Some(definition) = self.catalog.get(&write.saga.workflow, write.saga.workflow_version) {
                time_steps(definition, &write);
            }
            let data = if write.wants.data { Some(inputs.data.clone()) } else { pending.data };
            let saga = Arc::new(write.saga);
            outcome.rows.push(saga.clone());
            kept.push(Kept { saga: saga.clone(), data: data.clone() });
            if !pending.sends.is_empty() {
                inputs.data = data.unwrap_or_default();
                outcome.outgoing.push(Outgoing { saga, sends: pending.sends, inputs });
            }
        }
        self.recent.keep(kept.into_iter());
    }

    /// Sets `wake_at` of sagas that still have this revision.
    pub(super) async fn reschedule(&self, sagas: &[(Uuid, u32, Option<DateTime<Utc>>)]) -> Result<(), Error> {
        for locked in self.store.reschedule(sagas).await? {
            self.passed_over.note(locked, Deferral::Locked, self.clock.monotonic());
        }
        self.recent.reschedule(sagas);
        Ok(())
    }

    /// Reads sagas; without ids it reads only the database's time.
    async fn load(&self, ids: impl Iterator<Item = Uuid>) -> Result<Loaded, Error> {
        let ids: Vec<Uuid> = ids.collect();
        if ids.is_empty() {
            let now = self.store.now().await?;
            return Ok(Loaded { sagas: Vec::new(), unreadable: Vec::new(), unreachable: Vec::new(), now });
        }
        Ok(self.store.load(&ids).await?)
    }

    /// Decides a saga's events one at a time: one of them cannot be stored, and the others must not be affected by it.
    async fn decide_one_by_one(
        &self,
        sagas: Vec<(Uuid, Vec<Occurrence>)>,
        outcome: &mut BatchOutcome,
    ) -> Result<(), Error> {
        for (saga_id, list) in sagas {
            outcome.retract(|id| *id == saga_id);
            for (place, occurrence) in list.into_iter().enumerate() {
                let alone = BTreeMap::from([(saga_id, vec![occurrence.event])]);
                let one = Box::pin(self.decide(alone, None)).await?;
                outcome.outgoing.extend(one.outgoing);
                outcome.ignored.extend(one.ignored.into_iter().map(|event| Ignored { place, ..event }));
                outcome.poisoned.extend(one.poisoned.into_iter().map(|poison| Poison { place, ..poison }));
                outcome.illegal.extend(one.illegal);
                // All events of the saga wait. Those judged already are duplicates when they are received again.
                outcome.passed_over.extend(one.passed_over);
                outcome.rows.extend(one.rows);
            }
        }
        Ok(())
    }

    fn decide_one(&self, saga: &Saga, events: &[Occurrence], refused: &mut Refused) -> Option<Decided> {
        let definition = self.catalog.get(&saga.workflow, saga.workflow_version)?;
        let (mut entries, mut sends, mut raise) = (Vec::new(), Vec::new(), None);
        let raised;
        let mut saga = saga;
        // The saga moves to the newest rules that all live programs know, and never to older rules than its own.
        if saga.core_version < self.fleet.core_version() {
            raised = Saga { core_version: self.fleet.core_version(), ..saga.clone() };
            saga = &raised;
        }
        let mut next = None;
        for (place, occurrence) in events.iter().enumerate() {
            match transition(definition, next.as_ref().unwrap_or(saga), occurrence) {
                Decision::Changed(change) => {
                    let change = *change;
                    next = Some(change.saga);
                    entries.push(change.entry);
                    sends.extend(change.sends);
                }
                Decision::Nothing(Nothing::InFlight | Nothing::AlreadyCancelling) => {}
                Decision::Nothing(why) => refused.ignored.push((place, why)),
                Decision::Rescheduled(at) => raise = Some(at),
                Decision::Illegal(illegal) => refused.illegal.push(illegal),
            }
        }
        let write = next.map(|next| {
            // Only an execute has a payload.
            let executes = sends.iter().filter(|send: &&CommandToSend| send.kind == Kind::Execute);
            let needs = executes.map(|send| definition.steps[send.step].needs).max();
            let wants = Wants { data: needs >= Some(Needs::Input), personal: needs >= Some(Needs::Personal) };
            Write { read_revision: saga.revision, saga: next, entries, wants }
        });
        let raise = if write.is_some() { None } else { raise };
        Some(Decided { write, sends, raise })
    }

    /// Parks sagas whose events cannot be stored. Returns the sagas that cannot be parked now; they are parked when
    /// their events are received again.
    pub(super) async fn park(&self, poisoned: &[Poison]) -> Result<Vec<PassedOverSaga>, Error> {
        let mut passed_over = Vec::new();
        for Poison { saga_id: id, why, .. } in poisoned {
            metrics::counter!("amends_engine_poisoned_total").increment(1);
            let loaded = self.store.load(&[*id]).await?;
            let trace = loaded.sagas.first().map(|saga| saga.trace().trace_id_hex());
            tracing::error!(saga = %id, trace, why, "the saga's events cannot be stored; parking the saga");
            passed_over.extend(loaded.unreadable.into_iter().map(PassedOverSaga::from));
            passed_over.extend(loaded.unreachable.into_iter().map(PassedOverSaga::unread));
            let event = Event::Poisoned(Reason::new("poisoned", "what came for it cannot be stored"));
            let poison = [Occurrence { event, at: loaded.now, jitter: 0 }];
            for saga in &loaded.sagas {
                let decided = self.decide_one(saga, &poison, &mut Refused::default());
                let Some(write) = decided.and_then(|d| d.write) else { continue };
                let Wrote { refused, locked, unreachable, .. } = self.write(&[write]).await?;
                for (saga, why) in refused {
                    tracing::error!(%saga, trace, why, "the saga cannot be parked either");
                }
                passed_over.extend(locked.iter().map(|_| PassedOverSaga::of(saga, Deferral::Locked)));
                passed_over
                    .extend(unreachable.iter().map(|_| PassedOverSaga::of(saga, Deferral::Unreachable)));
            }
        }
        Ok(passed_over)
    }
}
