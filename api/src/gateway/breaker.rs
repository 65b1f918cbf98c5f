//! A circuit breaker: a service that fails is not asked for a while, so that callers are answered at once and the service
//! can recover.
//!
//! ```text
//! closed --half of the last calls failed--> open --its pause is over--> trial --one call succeeds--> closed
//!                                            ^                            |
//!                                            +----- the call fails; twice the pause -----+
//! ```
//!
//! It is our own, because libraries read the clock themselves and have no third mode: an operator can hold it open or
//! closed. The core takes the time as an argument and is tested without one.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// Number of calls that are remembered.
const CALLS_REMEMBERED: u32 = 20;
/// Number of calls before which it does not open.
const CALLS_LEAST: u32 = 5;
/// How long it is open the first time; each time that the trial fails, twice as long.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LONGEST: Duration = Duration::from_secs(30);

/// Who decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = CircuitBreakerMode)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The outcomes of the calls.
    #[default]
    Automatic,
    /// An operator: no call is made.
    Open,
    /// An operator: every call is made.
    Closed,
}

/// Whether calls are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = CircuitBreakerState)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// They are.
    Closed,
    /// They are not.
    Open,
    /// One is, and decides.
    HalfOpen,
}

/// What is known about a breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Who decides.
    pub mode: Mode,
    /// Whether calls are made.
    pub state: BreakerState,
    /// Number of calls that are remembered, and how many of them failed.
    pub calls: u32,
    /// How many of them failed.
    pub failed: u32,
    /// Time until a call is made again, if that is known.
    pub wait: Option<Duration>,
}

/// The outcomes of the last calls, a bit each: 1 failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Recent {
    bits: u32,
    calls: u32,
}

impl Recent {
    fn note(&mut self, failed: bool) {
        self.bits = (self.bits << 1 | u32::from(failed)) & ((1 << CALLS_REMEMBERED) - 1);
        self.calls = (self.calls + 1).min(CALLS_REMEMBERED);
    }

    fn failed(self) -> u32 {
        self.bits.count_ones()
    }

    fn is_too_bad(self) -> bool {
        self.calls >= CALLS_LEAST && self.failed() * 2 >= self.calls
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    Open {
        until: Instant,
        pause: Duration,
    },
    /// One call is under way; `pause` was the last one.
    Trial {
        pause: Duration,
    },
}

/// The decisions of a breaker. Time is an argument.
#[derive(Debug, Clone)]
struct Core {
    mode: Mode,
    phase: Phase,
    recent: Recent,
    /// Counts the changes of the phase: a call that began in another one does not decide about this one.
    changes: u64,
}

impl Core {
    fn new() -> Self {
        Self { mode: Mode::Automatic, phase: Phase::Closed, recent: Recent::default(), changes: 0 }
    }

    /// Decides whether a call is made; returns the phase that it belongs to, or the time to wait.
    fn admit(&mut self, now: Instant) -> Result<u64, Option<Duration>> {
        match (self.mode, self.phase) {
            (Mode::Open, _) => Err(None),
            (Mode::Closed, _) | (Mode::Automatic, Phase::Closed) => Ok(self.changes),
            (Mode::Automatic, Phase::Open { until, pause }) if until <= now => {
                self.enter(Phase::Trial { pause });
                Ok(self.changes)
            }
            (Mode::Automatic, Phase::Open { until, .. }) => Err(Some(until - now)),
            (Mode::Automatic, Phase::Trial { .. }) => Err(Some(PAUSE_FIRST)),
        }
    }

    /// Notes the end of a call: `None` if it was given up before its outcome was known.
    fn ended(&mut self, began_in: u64, failed: Option<bool>, now: Instant) {
        if let Some(failed) = failed {
            self.recent.note(failed);
        }
        if began_in != self.changes || self.mode != Mode::Automatic {
            return;
        }
        match (self.phase, failed) {
            (Phase::Trial { .. }, Some(false)) => {
                self.recent = Recent::default();
                self.enter(Phase::Closed);
            }
            (Phase::Trial { pause }, Some(true)) => {
                let pause = (pause * 2).min(PAUSE_LONGEST);
                self.enter(Phase::Open { until: now + pause, pause });
            }
            // The next call is the trial.
            (Phase::Trial { pause }, None) => self.enter(Phase::Open { until: now, pause }),
            (Phase::Closed, Some(true)) if self.recent.is_too_bad() => {
                self.enter(Phase::Open { until: now + PAUSE_FIRST, pause: PAUSE_FIRST });
            }
            _ => {}
        }
    }

    fn hold(&mut self, mode: Mode) {
        self.mode = mode;
        self.recent = Recent::default();
        self.enter(Phase::Closed);
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.changes += 1;
    }

    fn snapshot(&self, now: Instant) -> Snapshot {
        let (state, wait) = match (self.mode, self.phase) {
            (Mode::Open, _) => (BreakerState::Open, None),
            (Mode::Closed, _) | (Mode::Automatic, Phase::Closed) => (BreakerState::Closed, None),
            (Mode::Automatic, Phase::Open { until, .. }) => {
                (BreakerState::Open, Some(until.saturating_duration_since(now)))
            }
            (Mode::Automatic, Phase::Trial { .. }) => (BreakerState::HalfOpen, None),
        };
        Snapshot { mode: self.mode, state, calls: self.recent.calls, failed: self.recent.failed(), wait }
    }
}

/// The breaker of a service, in this process.
#[derive(Debug)]
pub struct Breaker {
    name: &'static str,
    core: Mutex<Core>,
}

/// A call under way. When dropped, it was given up.
#[derive(Debug)]
pub struct Call<'a> {
    breaker: &'a Breaker,
    began_in: u64,
    failed: Option<bool>,
}

impl Breaker {
    /// Creates the breaker of this service, closed.
    pub fn new(name: &'static str) -> Self {
        let breaker = Self { name, core: Mutex::new(Core::new()) };
        breaker.show(BreakerState::Closed);
        breaker
    }

    /// Shows the state as a metric.
    fn show(&self, state: BreakerState) {
        let open = f64::from(u8::from(state != BreakerState::Closed));
        metrics::gauge!("amends_circuit_breaker_open", "service" => self.name).set(open);
    }

    /// Returns the service's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Begins a call.
    ///
    /// # Errors
    /// No call is made now; contains the time until one is, unless an operator holds the breaker open.
    pub fn admit(&self) -> Result<Call<'_>, Option<Duration>> {
        let began_in = self.changed(|core| core.admit(Instant::now()))?;
        Ok(Call { breaker: self, began_in, failed: None })
    }

    /// Lets an operator decide, or again the calls; what was remembered is forgotten.
    pub fn hold(&self, mode: Mode) {
        self.changed(|core| core.hold(mode));
    }

    /// Returns what is known about it now.
    pub fn snapshot(&self) -> Snapshot {
        self.locked().snapshot(Instant::now())
    }

    fn locked(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the core, and reports its new state.
    fn changed<T>(&self, change: impl FnOnce(&mut Core) -> T) -> T {
        let (result, before, after) = {
            let (mut core, now) = (self.locked(), Instant::now());
            let before = core.snapshot(now).state;
            let result = change(&mut core);
            (result, before, core.snapshot(now).state)
        };
        if before != after {
            self.show(after);
            match after {
                BreakerState::Open => tracing::warn!(service = self.name, "the circuit breaker opens"),
                BreakerState::Closed => tracing::info!(service = self.name, "the circuit breaker closes"),
                BreakerState::HalfOpen => {}
            }
        }
        result
    }
}

impl Call<'_> {
    /// The service has answered.
    pub fn answered(mut self) {
        self.failed = Some(false);
    }

    /// The service has failed, or has not answered in time.
    pub fn failed(mut self) {
        self.failed = Some(true);
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let (began_in, failed) = (self.began_in, self.failed);
        self.breaker.changed(|core| core.ended(began_in, failed, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Makes calls that end at once, as long as they are admitted; returns how many were.
    fn calls(core: &mut Core, now: Instant, outcomes: &[bool]) -> usize {
        let call = |failed: &&bool| match core.admit(now) {
            Ok(began_in) => {
                core.ended(began_in, Some(**failed), now);
                true
            }
            Err(_) => false,
        };
        outcomes.iter().take_while(call).count()
    }

    #[test]
    fn it_opens_once_half_of_the_last_calls_failed_and_not_before_there_were_some() {
        let (mut core, now) = (Core::new(), Instant::now());
        assert_eq!(calls(&mut core, now, &[true; 9]), 5);
        assert_eq!(core.admit(now), Err(Some(PAUSE_FIRST)));
        let mut core = Core::new();
        assert_eq!(calls(&mut core, now, &[false, false, true].repeat(20)), 60, "a third fails");
        assert_eq!(calls(&mut core, now, &[true; 20]), 4, "20 are remembered, of which 7 had failed");
    }

    #[test]
    fn after_its_pause_one_call_decides_and_a_failure_doubles_the_pause() {
        let (mut core, mut now) = (Core::new(), Instant::now());
        calls(&mut core, now, &[true; 5]);
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(core.admit(now), Err(Some(pause * SECOND)));
            now += pause * SECOND;
            let trial = core.admit(now).unwrap();
            assert!(core.admit(now).is_err(), "one at a time");
            assert_eq!(core.snapshot(now).state, BreakerState::HalfOpen);
            core.ended(trial, Some(true), now);
        }
        now += 30 * SECOND;
        let trial = core.admit(now).unwrap();
        core.ended(trial, Some(false), now);
        assert_eq!(core.snapshot(now).state, BreakerState::Closed);
        assert_eq!(calls(&mut core, now, &[true; 9]), 5, "nothing is remembered of before");
    }

    #[test]
    fn a_trial_that_is_given_up_leaves_the_next_call_to_decide() {
        let (mut core, now) = (Core::new(), Instant::now());
        calls(&mut core, now, &[true; 5]);
        let trial = core.admit(now + SECOND).unwrap();
        core.ended(trial, None, now + SECOND);
        let next = core.admit(now + SECOND).unwrap();
        core.ended(next, Some(false), now + SECOND);
        assert_eq!(core.snapshot(now + SECOND).state, BreakerState::Closed);
    }

    #[test]
    fn a_call_that_began_before_it_opened_does_not_decide_the_trial() {
        let (mut core, now) = (Core::new(), Instant::now());
        let slow = core.admit(now).unwrap();
        calls(&mut core, now, &[true; 5]);
        let trial = core.admit(now + SECOND).unwrap();
        core.ended(slow, Some(false), now + SECOND);
        assert_eq!(core.snapshot(now + SECOND).state, BreakerState::HalfOpen);
        core.ended(trial, Some(true), now + SECOND);
        assert_eq!(core.admit(now + SECOND), Err(Some(2 * SECOND)));
    }

    #[test]
    fn an_operator_holds_it_open_or_closed_and_gives_it_back() {
        let (mut core, now) = (Core::new(), Instant::now());
        core.hold(Mode::Open);
        assert_eq!(core.admit(now), Err(None));
        core.hold(Mode::Closed);
        assert_eq!(calls(&mut core, now, &[true; 50]), 50);
        core.hold(Mode::Automatic);
        assert_eq!(calls(&mut core, now, &[true; 50]), 5);
    }

    #[test]
    fn a_call_that_is_dropped_is_neither_a_success_nor_a_failure() {
        let breaker = Breaker::new("inventory");
        for _ in 0..50 {
            drop(breaker.admit().unwrap());
        }
        assert_eq!((breaker.snapshot().calls, breaker.snapshot().state), (0, BreakerState::Closed));
        for _ in 0..5 {
            breaker.admit().unwrap().failed();
        }
        assert!(breaker.admit().is_err());
    }
}
