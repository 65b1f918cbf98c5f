//! Takes what is due, by the database's clock.

use std::{collections::BTreeMap, time::Duration};

use amends_protocol::{SLOTS, transport::Sink};
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{Engine, Error};
use crate::{
    core::{CommandState, Event, Repeats, jittered},
    port::{Clock, DueScan, Loaded, SagaStore},
};

/// Most sagas of a batch.
pub const BATCH: u32 = 500;
/// Rest between two looks at the slots owned.
pub const POLL: Duration = Duration::from_millis(25);
/// Every so often, everything that is overdue is looked for, however long.
const THOROUGH: Duration = Duration::from_secs(60);
/// A look goes back so far behind the last one: a row may be committed some time after its time was chosen.
const NEAR: TimeDelta = TimeDelta::seconds(2);
/// Every so often it goes back further, for rows whose commit took longer. Not each time: while a forgotten transaction
/// holds a snapshot, what sagas that moved on have left in the index of the last minute is read again by every look.
const WIDE: Duration = Duration::from_secs(5);
/// So far.
const FAR: TimeDelta = TimeDelta::seconds(60);
/// Every so often, slots that are not ours are looked at: perhaps they are nobody's.
const ABROAD: Duration = Duration::from_secs(5);
/// What is not ours must be overdue for so long.
const ABROAD_OVERDUE: Duration = Duration::from_secs(5);

/// When was looked last.
#[derive(Debug, Default)]
pub struct Timers {
    looked_at: Option<DateTime<Utc>>,
    wide_at: Option<Duration>,
    thorough_at: Option<Duration>,
    abroad_at: Option<Duration>,
    generation: u64,
}

impl Timers {
    /// Looks once; answers how many sagas were due. Fewer than [`BATCH`]: the caller may rest.
    ///
    /// # Errors
    /// Store or transport. What was committed and not sent is sent again when it is due.
    pub async fn run_once<S: SagaStore, K: Sink, C: Clock>(
        &mut self,
        engine: &Engine<S, K, C>,
    ) -> Result<usize, Error> {
        let now = engine.clock.monotonic();
        let (assignment, _) = engine.ownership.now();
        if self.generation != assignment.generation {
            *self = Self { generation: assignment.generation, abroad_at: self.abroad_at, ..Self::default() };
        }
        let mut taken = 0;
        let slots = engine.ownership.slots();
        if !slots.is_empty() {
            let thorough = self.thorough_at.is_none_or(|at| now.saturating_sub(at) >= THOROUGH);
            let wide = thorough || self.wide_at.is_none_or(|at| now.saturating_sub(at) >= WIDE);
            let back = if wide { FAR } else { NEAR };
            let not_before = if thorough { None } else { self.looked_at.map(|at| at - back) };
            let scan = DueScan { slots, not_before, overdue: Duration::ZERO, limit: BATCH };
            let (count, looked_at) = self.take(engine, &scan).await?;
            taken += count;
            // A full batch: there is more, and it must not fall out of the next look's window.
            if count < BATCH as usize {
                self.looked_at = Some(looked_at);
                if wide {
                    self.wide_at = Some(now);
                }
                if thorough {
                    self.thorough_at = Some(now);
                }
            }
        }
        if self.abroad_at.is_none_or(|at| now.saturating_sub(at) >= ABROAD) {
            self.abroad_at = Some(now);
            let slots: Vec<u16> = (0..SLOTS).filter(|&slot| !assignment.owns(slot)).collect();
            if !slots.is_empty() {
                let scan = DueScan { slots, not_before: None, overdue: ABROAD_OVERDUE, limit: BATCH };
                taken += self.take(engine, &scan).await?.0;
            }
        }
        Ok(taken)
    }

    async fn take<S: SagaStore, K: Sink, C: Clock>(
        &self,
        engine: &Engine<S, K, C>,
        scan: &DueScan,
    ) -> Result<(usize, DateTime<Utc>), Error> {
        let loaded = engine.store.due(scan).await?;
        let (count, now) = (loaded.sagas.len(), loaded.now);
        if count == 0 {
            return Ok((0, now));
        }
        for lateness in
            loaded.sagas.iter().filter_map(|s| s.wake_at).filter_map(|at| (now - at).to_std().ok())
        {
            metrics::histogram!("amends_engine_timer_lateness_seconds").record(lateness.as_secs_f64());
        }
        let later = put_off(engine, &loaded);
        let events: BTreeMap<_, _> = loaded
            .sagas
            .iter()
            .filter(|s| !later.contains_key(&s.id))
            .map(|s| (s.id, vec![Event::Woke]))
            .collect();
        if !later.is_empty() {
            engine.reschedule(&later.into_values().collect::<Vec<_>>()).await?;
        }
        if events.is_empty() {
            return Ok((count, now));
        }
        let outcome = engine.decide(events, Some(loaded)).await?;
        engine.park(&outcome.poisoned).await?;
        engine.dispatch(outcome.outgoing).await?;
        Ok((count, now))
    }
}

/// The sagas whose repetitions nobody can pay for now, and when they are woken instead.
fn put_off<S: SagaStore, K: Sink, C: Clock>(
    engine: &Engine<S, K, C>,
    loaded: &Loaded,
) -> BTreeMap<Uuid, (Uuid, u32, Option<DateTime<Utc>>)> {
    let (now, monotonic) = (loaded.now, engine.clock.monotonic());
    let mut later = BTreeMap::new();
    for saga in &loaded.sagas {
        let Some(definition) = engine.catalog.get(&saga.workflow, saga.workflow_version) else { continue };
        let due = saga.only_repeats_due(now).unwrap_or_default();
        let step = |command: &CommandState| &definition.steps[command.step];
        let repetitions: Vec<_> =
            due.iter().map(|(command, why)| (step(command).participant, *why)).collect();
        let Err(unpaid) = engine.budget.pay(&repetitions, monotonic) else { continue };
        let at = repetitions.iter().position(|repetition| *repetition == unpaid).unwrap_or_default();
        let (step, jitter) = (step(due[at].0), engine.clock.jitter());
        let (reason, wait) = match unpaid.1 {
            Repeats::Failed => ("failed", step.retry.delay(u32::MAX, jitter)),
            Repeats::Silent => ("silent", jittered(step.deadline, jitter)),
        };
        let labels = [("participant", unpaid.0), ("after", reason)];
        metrics::counter!("amends_engine_repeats_put_off_total", &labels).increment(1);
        let at = saga.next_due_after(now).map_or(now + wait, |due| due.min(now + wait));
        later.insert(saga.id, (saga.id, saga.revision, Some(at)));
    }
    later
}
