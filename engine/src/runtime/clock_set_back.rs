//! Finds sagas whose timers were set before the database's clock was set back: they would sleep too long, by as much as
//! the clock moved.
//!
//! An engine notices the step by its own clock, which only runs forward. It also searches the slots that it gains,
//! because it did not observe the clock while others owned them; so nothing has to be stored. Sagas that an owner
//! cannot judge are left to an engine that can: each engine searches its own slots, and some time later all others.

use std::time::Duration;

use amends_protocol::{SLOTS, transport::Sink};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Engine, Error, put_off};
use crate::port::{Clock, SagaStore};

/// Maximum number of sagas in a page of the search.
const CLOCK_SET_BACK_BATCH: u32 = 500;
/// The database's clock was set back if it is behind by more than this; no answer of the database takes longer.
const CLOCK_STEP: Duration = Duration::from_secs(5);
/// How long a slot's owner has to correct its timers before other engines do.
const OWNERS_FIRST: Duration = Duration::from_secs(5);

/// What is known about the database's clock, and the progress of the search.
#[derive(Debug, Default)]
pub(super) struct ClockSetBack {
    /// The database's time and this process's monotonic time at the last reading.
    read_at: Option<(DateTime<Utc>, Duration)>,
    search: Option<Search>,
}

/// A search through the sagas that sleep longer than any timer is set.
#[derive(Debug, Clone, Copy)]
struct Search {
    longest: Duration,
    above: Option<(DateTime<Utc>, Uuid)>,
    /// Monotonic time at which the search of other engines' slots begins.
    abroad_from: Option<Duration>,
}

impl Search {
    fn among_own(longest: Duration) -> Self {
        Self { longest, above: None, abroad_from: None }
    }

    /// Returns the search after this page, whose last saga was at `above`.
    fn next(self, is_last_page: bool, above: Option<(DateTime<Utc>, Uuid)>, now: Duration) -> Option<Self> {
        match (is_last_page, self.abroad_from) {
            (false, _) => Some(Self { above, ..self }),
            (true, None) => Some(Self { above: None, abroad_from: Some(now + OWNERS_FIRST), ..self }),
            (true, Some(_)) => None,
        }
    }
}

impl ClockSetBack {
    /// Starts a search after slots were gained. Sagas put off for lack of budget may sleep longer than others.
    pub fn search_gained_slots<S, K, C>(&mut self, engine: &Engine<S, K, C>) {
        let longest = engine.catalog.timer_reach() + put_off::PUT_OFF_LONGEST;
        self.search = Some(Search::among_own(longest));
    }

    /// Records the database's time and this process's; returns whether the database's clock was set back. A search then
    /// begins.
    pub fn note_clock<S, K, C>(
        &mut self,
        engine: &Engine<S, K, C>,
        now: DateTime<Utc>,
        monotonic: Duration,
    ) -> bool {
        let expected = self.read_at.map(|(then, at)| then + monotonic.saturating_sub(at));
        self.read_at = Some((now, monotonic));
        let ahead = expected.and_then(|at| (at - now).to_std().ok()).filter(|ahead| *ahead > CLOCK_STEP);
        let Some(ahead) = ahead else { return false };
        tracing::warn!(seconds = ahead.as_secs(), "the database's clock was set back; timers are set anew");
        metrics::counter!("amends_engine_clock_set_back_total").increment(1);
        self.search = Some(Search::among_own(engine.catalog.timer_reach()));
        true
    }

    /// Sets the timers of the next page anew, spread over half the reach of a timer; returns whether there may be more.
    pub async fn wake_some<S: SagaStore, K: Sink, C: Clock>(
        &mut self,
        engine: &Engine<S, K, C>,
    ) -> Result<bool, Error> {
        let Some(search) = self.search else { return Ok(false) };
        let Search { longest, above, abroad_from } = search;
        let now = engine.clock.monotonic();
        if abroad_from.is_some_and(|from| now < from) {
            return Ok(false);
        }
        let (assignment, _) = engine.ownership.now();
        let is_searched = |slot: &u16| assignment.owns(*slot) == abroad_from.is_none();
        let slots: Vec<u16> = (0..SLOTS).filter(is_searched).collect();
        let found = engine.store.sleeping_beyond(&slots, longest, above, CLOCK_SET_BACK_BATCH).await?;
        let reach = engine.catalog.timer_reach();
        let known = |name: &str, version| engine.catalog.get(name, version).is_some();
        let early: Vec<_> = found
            .sagas
            .iter()
            .filter(|saga| {
                known(&saga.workflow, saga.workflow_version) && saga.sleeps_too_long(found.now, longest)
            })
            .map(|saga| {
                let wait = reach.mul_f64(f64::from(engine.clock.jitter()) / 2000.0);
                (saga.id, saga.revision, Some(found.now + wait))
            })
            .collect();
        if !early.is_empty() {
            tracing::warn!(
                sagas = early.len(),
                "the timers of sagas that would have slept too long are set anew"
            );
            engine.reschedule(&early).await?;
        }
        let last = found.sagas.iter().filter_map(|saga| Some((saga.wake_at?, saga.id))).max();
        let is_last_page = found.sagas.len() < CLOCK_SET_BACK_BATCH as usize;
        self.search = search.next(is_last_page, last, now);
        Ok(!is_last_page)
    }
}
