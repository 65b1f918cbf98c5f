//! Wakes sagas that are due, by the database's clock.

mod put_off_scan;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use amends_protocol::{
    SLOTS,
    transport::{Assignment, Sink},
};
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use put_off_scan::PutOffScan;

use super::{
    Engine, Error,
    budget::Repetition,
    clock_set_back::ClockSetBack,
    dispatch::{NotSent, Outgoing},
    put_off::PutOff,
    traces::{Causes, ENGINE},
};
use crate::{
    core::{Event, Repeats, Saga, Step, jittered, repetitions},
    port::{Clock, Deferral, DueScan, DueShare, Loaded, SagaStore},
};

/// Maximum number of sagas in a batch.
pub const BATCH: u32 = 500;
/// Interval between two scans of the owned slots.
pub const POLL: Duration = Duration::from_millis(25);
/// Interval between scans for everything that is overdue, however long.
const THOROUGH_LOOK_EVERY: Duration = Duration::from_secs(60);
/// How far a scan goes back behind the last one: a row may be committed some time after its `wake_at` was chosen.
const NEAR_LOOK_BACK: TimeDelta = TimeDelta::seconds(2);
/// Interval between scans that go back further, for rows whose commit took longer. Not every scan does: while a
/// forgotten transaction holds a snapshot, each would read again the index entries of the last minute that sagas have
/// left behind.
const WIDE_LOOK_EVERY: Duration = Duration::from_secs(5);
/// How far back such a scan goes.
const WIDE_LOOK_BACK: TimeDelta = TimeDelta::seconds(60);
/// Interval between scans of slots that this engine does not own: they may have no owner.
const ABROAD_LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long a saga of another engine's slot must be overdue.
const ABROAD_OVERDUE: Duration = Duration::from_secs(5);

/// Times of the last scans of the owned slots.
#[derive(Debug, Default)]
struct Looked {
    at: Option<DateTime<Utc>>,
    wide_at: Option<Duration>,
    thorough_at: Option<Duration>,
}

/// Times of the last scans, and the sagas that wait until a repetition can be paid for.
#[derive(Debug, Default)]
pub struct Timers {
    looked: Looked,
    put_off_scan: Option<PutOffScan>,
    abroad_at: Option<Duration>,
    generation: u64,
    put_off: PutOff,
    clock_set_back: ClockSetBack,
    /// Number of tries while nothing could be sent.
    tries: usize,
}

/// The result of a scan.
struct Taken {
    count: usize,
    now: DateTime<Utc>,
    /// Due time of the last saga.
    last: Option<DateTime<Utc>>,
    /// Participants for which sagas were put off.
    unpaid: BTreeSet<&'static str>,
}

impl Timers {
    /// Runs one scan; returns the number of due sagas. If it is below [`BATCH`], the caller may rest.
    ///
    /// # Errors
    /// The store's. Commands that were committed and not sent are sent again when they are due.
    pub async fn run_once<S: SagaStore, K: Sink, C: Clock>(
        &mut self,
        engine: &Engine<S, K, C>,
    ) -> Result<usize, Error> {
        let now = engine.clock.monotonic();
        let (assignment, _) = engine.ownership.now();
        if self.generation != assignment.generation {
            self.generation = assignment.generation;
            (self.looked, self.put_off_scan) = (Looked::default(), None);
            self.clock_set_back.search_gained_slots(engine);
        }
        let mut taken = 0;
        let slots = engine.ownership.slots();
        if !slots.is_empty() {
            taken += self.look_at_own(engine, &assignment, slots.clone(), now).await?;
            taken += self.look_at_put_off(engine, slots).await?;
        }
        if self.abroad_at.is_none_or(|at| now.saturating_sub(at) >= ABROAD_LOOK_EVERY) {
            self.abroad_at = Some(now);
            let slots: Vec<u16> = (0..SLOTS).filter(|&slot| !assignment.owns(slot)).collect();
            if !slots.is_empty() {
                let scan = DueScan { overdue: ABROAD_OVERDUE, ..due_scan(engine, slots, None) };
                let asked_at = engine.clock.monotonic();
                let due = engine.store.due(&scan).await?;
                let abroad = self.wake(engine, due, Vec::new()).await?;
                self.note_clock(engine, abroad.now, asked_at);
                taken += abroad.count;
            }
        }
        if self.clock_set_back.wake_some(engine).await? {
            taken = taken.max(BATCH as usize);
        }
        if self.put_off.len() > 0 {
            for participant in engine.budget.to_try(now) {
                self.try_sending(engine, participant).await?;
            }
        }
        Ok(taken)
    }

    /// Returns the number of sagas that wait, as far as this process remembers, until a repetition can be paid for.
    pub fn put_off(&self) -> usize {
        self.put_off.len()
    }

    /// Sends the due repetitions of one saga that was put off, to find out whether sending to this participant works
    /// again. The row stays as it is: an unsent message is no repetition.
    async fn try_sending<S: SagaStore, K: Sink, C: Clock>(
        &mut self,
        engine: &Engine<S, K, C>,
        participant: &'static str,
    ) -> Result<(), Error> {
        self.tries = self.tries.wrapping_add(1);
        let nearest = self.put_off.nearest(participant, self.tries, BATCH as usize);
        let Some((unpaid, nearest)) = nearest else { return Ok(()) };
        let ids: Vec<Uuid> = nearest.iter().map(|(_, saga_id)| *saga_id).collect();
        let Loaded { sagas, now, .. } = engine.store.load(&ids).await?;
        let mut sagas: HashMap<Uuid, Saga> = sagas.into_iter().map(|saga| (saga.id, saga)).collect();
        for (promise, saga_id) in nearest {
            let sends = sagas.get(&saga_id).and_then(|saga| {
                let definition = engine.catalog.get(&saga.workflow, saga.workflow_version)?;
                let mut sends = repetitions(definition, saga, now);
                sends.retain(|send| definition.steps[send.step].participant == participant);
                Some(sends).filter(|sends| !sends.is_empty())
            });
            let (Some(sends), Some(saga)) = (sends, sagas.remove(&saga_id)) else {
                // It was answered meanwhile, and may wait for another participant.
                self.put_off.remove(unpaid, promise, saga_id);
                continue;
            };
            if let Some(inputs) = engine.store.inputs(&[saga_id]).await?.pop() {
                // It records whether sending succeeded.
                let outgoing = vec![Outgoing { saga: Arc::new(saga), sends, inputs }];
                let _ = engine.dispatch(outgoing, &Causes::none(ENGINE)).await?;
            }
            return Ok(());
        }
        Ok(())
    }

    async fn look_at_own<S: SagaStore, K: Sink, C: Clock>(
        &mut self,
        engine: &Engine<S, K, C>,
        assignment: &Assignment,
        slots: Vec<u16>,
        now: Duration,
    ) -> Result<usize, Error> {
        let thorough = self.looked.thorough_at.is_none_or(|at| now.saturating_sub(at) >= THOROUGH_LOOK_EVERY);
        let wide = thorough || self.looked.wide_at.is_none_or(|at| now.saturating_sub(at) >= WIDE_LOOK_EVERY);
        let back = if wide { WIDE_LOOK_BACK } else { NEAR_LOOK_BACK };
        let not_before = if thorough { None } else { self.looked.at.map(|at| at - back) };
        let share =
            self.put_off_scan.as_ref().map_or(DueShare::All, |scan| DueShare::NotAt(scan.steps.clone()));
        let payable = self.payable(engine, assignment, now).await?;
        let due = engine.store.due(&DueScan { share, ..due_scan(engine, slots, not_before) }).await?;
        let full = due.sagas.len() + due.unreadable.len() >= BATCH as usize;
        let Taken { count, now: looked_at, unpaid, .. } = self.wake(engine, due, payable).await?;
        if self.note_clock(engine, looked_at, now) {
            return Ok(count);
        }
        // After a full batch there is more, and it must not fall out of the next scan's window.
        if full {
            self.scan_separately(engine, &unpaid);
        } else {
            self.looked.at = Some(looked_at);
            if wide {
                self.looked.wide_at = Some(now);
            }
            if thorough {
                self.looked.thorough_at = Some(now);
            }
        }
        Ok(count)
    }

    /// Records the database's time and this process's; returns whether the database's clock was set back. If so, no
    /// scan has yet run by the present clock.
    fn note_clock<S, K, C>(
        &mut self,
        engine: &Engine<S, K, C>,
        looked_at: DateTime<Utc>,
        now: Duration,
    ) -> bool {
        let is_set_back = self.clock_set_back.note_clock(engine, looked_at, now);
        if is_set_back {
            (self.looked, self.put_off_scan) = (Looked::default(), None);
            self.put_off.forget_places();
        }
        is_set_back
    }

    /// Reads sagas that were put off and whose repetitions can be paid for now, the nearest promise first.
    async fn payable<S: SagaStore, K: Sink, C: Clock>(
        &mut self,
        engine: &Engine<S, K, C>,
        assignment: &Assignment,
        now: Duration,
    ) -> Result<Vec<Saga>, Error> {
        let ids = Vec::from_iter(self.put_off.take(&engine.budget, now, BATCH as usize));
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let Loaded { mut sagas, now, .. } = engine.store.load(&ids).await?;
        // The others were answered meanwhile, or have another owner.
        sagas.retain(|saga| saga.live && assignment.owns(saga.slot) && saga.only_repeats_due(now).is_some());
        Ok(sagas)
    }

    /// Wakes sagas that are due, and sagas put off that can be paid for; puts off what cannot be paid for.
    async fn wake<S: SagaStore, K: Sink, C: Clock>(
        &mut self,
        engine: &Engine<S, K, C>,
        mut due: Loaded,
        payable: Vec<Saga>,
    ) -> Result<Taken, Error> {
        let (count, now) = (due.sagas.len(), due.now);
        // Damaged rows must not keep filling the batch.
        for row in &due.unreadable {
            engine.passed_over.note(row.saga_id, Deferral::Unreadable, engine.clock.monotonic());
        }
        let last = due.sagas.iter().filter_map(|saga| saga.wake_at).max();
        for at in due.sagas.iter().filter_map(|saga| saga.wake_at) {
            let lateness = (now - at).to_std().unwrap_or_default();
            metrics::histogram!("amends_engine_timer_lateness_seconds").record(lateness.as_secs_f64());
        }
        let known: BTreeSet<Uuid> = due.sagas.iter().map(|saga| saga.id).collect();
        let turn: BTreeSet<Uuid> = payable.iter().map(|saga| saga.id).collect();
        due.sagas.extend(payable.into_iter().filter(|saga| !known.contains(&saga.id)));
        due.sagas.sort_by_key(|saga| (saga.promise(), saga.id));

        let Sorted { paid, later, awake, unpaid } = self.sort(engine, &due, &turn);
        let taken = Taken { count, now, last, unpaid };
        if !later.is_empty() {
            engine.reschedule(&later).await?;
        }
        if awake.is_empty() {
            return Ok(taken);
        }
        // Committed commands are sent when they are due again, and other due sagas must not wait for the broker.
        let advanced = advance(engine, awake, due).await;
        let mut unsent = paid;
        if let Ok(not_sent) = &advanced {
            unsent.retain(|(participant, _)| not_sent.participants.contains(participant));
        }
        engine.budget.refund(&unsent, engine.clock.monotonic());
        advanced.map(|_| taken)
    }

    /// Pays for repetitions, in the order of the sagas. What answers have paid for since the sagas in `turn` were taken
    /// out belongs to those that still wait, and not to a saga that is merely due and has a later promise.
    fn sort<S: SagaStore, K: Sink, C: Clock>(
        &mut self,
        engine: &Engine<S, K, C>,
        due: &Loaded,
        turn: &BTreeSet<Uuid>,
    ) -> Sorted {
        let (now, monotonic) = (due.now, engine.clock.monotonic());
        let mut sorted = Sorted::default();
        for saga in &due.sagas {
            let definition = engine.catalog.get(&saga.workflow, saga.workflow_version);
            let repeats = saga.only_repeats_due(now).unwrap_or_default();
            let steps = repeats.iter().filter_map(|(command, why)| {
                let step = definition?.steps.get(command.step)?;
                Some((step, (step.participant, *why)))
            });
            let (steps, repetitions): (Vec<&Step>, Vec<Repetition>) = steps.unzip();
            let promised = (saga.promise(), saga.id);
            let overtaken = repetitions
                .iter()
                .find(|wanted| !turn.contains(&saga.id) && self.put_off.has_nearer(**wanted, promised));
            let paid = match overtaken {
                Some(wanted) => Err(*wanted),
                None => engine.budget.pay(&repetitions, monotonic),
            };
            let Err(unpaid) = paid else {
                sorted.paid.extend(repetitions);
                sorted.awake.insert(saga.id, vec![Event::Woke]);
                continue;
            };
            self.put_off.add(unpaid, saga.promise(), saga.id);
            sorted.unpaid.insert(unpaid.0);
            // A saga that was put off before keeps its `wake_at`.
            if saga.wake_at.is_some_and(|at| at > now) {
                continue;
            }
            let at = repetitions.iter().position(|repetition| *repetition == unpaid).unwrap_or_default();
            let (step, jitter) = (steps[at], engine.clock.jitter());
            let (reason, wait) = match unpaid.1 {
                _ if engine.budget.is_unsent(unpaid.0) => ("unsent", jittered(step.deadline, jitter)),
                Repeats::Failed => ("failed", step.retry.delay(u32::MAX, jitter)),
                Repeats::Silent => ("silent", jittered(step.deadline, jitter)),
            };
            let labels = [("participant", unpaid.0), ("after", reason)];
            metrics::counter!("amends_engine_repeats_put_off_total", &labels).increment(1);
            let at = self.put_off.wake_at(unpaid, now, now + wait);
            let at = saga.next_due_after(now).map_or(at, |due| due.min(at));
            sorted.later.push((saga.id, saga.revision, Some(at)));
        }
        sorted
    }
}

/// Due sagas, sorted by whether their repetitions can be paid for.
#[derive(Default)]
struct Sorted {
    /// Sagas to wake now.
    awake: BTreeMap<Uuid, Vec<Event>>,
    /// Repetitions paid for them.
    paid: Vec<Repetition>,
    /// New `wake_at` of the other sagas.
    later: Vec<(Uuid, u32, Option<DateTime<Utc>>)>,
    /// Participants whose budget is exhausted.
    unpaid: BTreeSet<&'static str>,
}

/// A scan for what this program can judge, without recently passed-over sagas.
fn due_scan<S, K, C: Clock>(
    engine: &Engine<S, K, C>,
    slots: Vec<u16>,
    not_before: Option<DateTime<Utc>>,
) -> DueScan {
    DueScan {
        slots,
        known: engine.known(),
        passed_over: engine.passed_over.now(engine.clock.monotonic()),
        not_before,
        overdue: Duration::ZERO,
        share: DueShare::All,
        limit: BATCH,
    }
}

/// Decides, writes and sends.
async fn advance<S: SagaStore, K: Sink, C: Clock>(
    engine: &Engine<S, K, C>,
    awake: BTreeMap<Uuid, Vec<Event>>,
    due: Loaded,
) -> Result<NotSent, Error> {
    let causes = Causes::woken(due.sagas.iter().filter(|saga| awake.contains_key(&saga.id)));
    let outcome = engine.decide(awake, Some(due)).await?;
    engine.park(&outcome.poisoned).await?;
    let not_sent = engine.dispatch(outcome.outgoing, &causes).await;
    causes.end(|_| true);
    not_sent
}
