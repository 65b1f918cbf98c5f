//! How a process sends a request to a server, and its clock.

use super::*;

/// The server did not answer, or refused. The request may have been executed.
#[derive(Debug, Clone, Copy)]
pub struct Down;

/// A process's access to the world.
#[derive(Clone)]
pub struct Handle {
    /// The world.
    pub world: Arc<World>,
    /// Index of this process.
    pub process: usize,
}

/// What happens to a request.
struct Fate {
    there: Option<Micros>,
    back: Micros,
    answered: bool,
}

impl Handle {
    /// Returns the world's state.
    pub fn state(&self) -> std::sync::MutexGuard<'_, WorldState> {
        self.world.state()
    }

    /// Sends a request to a server. It is on its way as soon as this is first polled, whatever happens to the process:
    /// dropping the future takes nothing back.
    pub async fn ask<T: Send + 'static>(
        &self,
        site: Site,
        lossy: Option<Fault>,
        what: &'static str,
        effect: impl FnOnce(&mut WorldState) -> T + Send + 'static,
    ) -> Result<T, Down> {
        let slot = OneShot::default();
        let unused = {
            let mut state = self.state();
            if state.instant {
                drop(state);
                self.world.settle_dropped();
                let mut state = self.state();
                state.now += 1000;
                return Ok(effect(&mut state));
            }
            let line = state.connect(self.process, site);
            let fate = state.fate(self.process, site, lossy, what);
            let answer = slot.clone();
            match fate.there {
                Some(there) => {
                    state.later(there, move |s| {
                        let value = if s.is_sound(&line) { Ok(effect(s)) } else { Err(Down) };
                        let value = value.and_then(|value| if fate.answered { Ok(value) } else { Err(Down) });
                        s.later(fate.back, move |_| answer.fill(value));
                    });
                    None
                }
                None => {
                    state.later(fate.back, move |_| answer.fill(Err(Down)));
                    Some(effect)
                }
            }
        };
        drop(unused);
        slot.await
    }

    /// Waits for this time.
    pub async fn sleep(&self, time: Micros) {
        let slot: OneShot<()> = OneShot::default();
        let wake = slot.clone();
        self.state().later(time, move |_| wake.fill(()));
        slot.await;
    }
}

impl WorldState {
    fn fate(&mut self, process: usize, site: Site, lossy: Option<Fault>, what: &'static str) -> Fate {
        let there = self.rng.random_range(200..3_000);
        let back = self.rng.random_range(200..2_000);
        let mut fate = Fate { there: Some(there), back, answered: true };
        if process == OUTSIDE {
            return fate;
        }
        if self.unreachable(process, site).is_some() {
            return Fate { there: None, back: self.rng.random_range(SECOND..6 * SECOND), answered: false };
        }
        if self.strikes(Fault::CrashAtPort, 0.0004) {
            let (after, down) = (
                self.plan.draw(Fault::CrashAtPort, 0..2) == 1,
                self.plan.draw(Fault::CrashAtPort, 0..30 * SECOND),
            );
            self.note(process, || {
                format!("dies at {what}, {} its effect", if after { "after" } else { "before" })
            });
            self.crash(process, down);
            fate.there = after.then_some(there);
        } else if matches!(site, Site::Store | Site::Rows(_)) && self.strikes(Fault::Refusal, 0.003) {
            self.note(process, || format!("{what}: refused by {site:?}"));
            fate.there = None;
        } else if let Some(fault) = lossy.filter(|fault| self.strikes(*fault, 0.01)) {
            let arrives = self.plan.draw(fault, 0..4) > 0;
            self.note(process, || {
                format!("{what}: answer lost ({})", if arrives { "done" } else { "not done" })
            });
            fate = Fate { there: arrives.then_some(there), back: SECOND, answered: false };
        }
        fate
    }
}

/// The clock of a process.
#[derive(Clone)]
pub struct SimClock(pub Handle);

impl SimClock {
    async fn pause(&self, pause: Duration) {
        let speed = self.0.state().processes[self.0.process].speed;
        self.0.sleep((pause.as_micros() as f64 / speed) as Micros).await;
    }
}

impl amends_engine::port::Clock for SimClock {
    fn monotonic(&self) -> Duration {
        let state = self.0.state();
        Duration::from_micros((state.now as f64 * state.processes[self.0.process].speed) as u64)
    }
    async fn sleep(&self, duration: Duration) {
        self.pause(duration).await;
    }
    fn jitter(&self) -> u16 {
        self.0.state().rng.random_range(0..=1000)
    }
}

impl amends_worker::Timer for SimClock {
    async fn sleep(&self, pause: Duration) {
        self.pause(pause).await;
    }
}

/// Futures that wait for a change.
#[derive(Default)]
pub struct Watchers(Vec<Waker>);

impl Watchers {
    /// Adds a waiting future.
    pub fn add(&mut self, waker: &Waker) {
        if !self.0.iter().any(|w| w.will_wake(waker)) {
            self.0.push(waker.clone());
        }
    }
    /// Wakes all waiting futures.
    pub fn wake(&mut self) {
        self.0.drain(..).for_each(Waker::wake);
    }
}
