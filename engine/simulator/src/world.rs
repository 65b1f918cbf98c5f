//! The state of a simulated world, and how a process asks a server for something.

use std::{fmt::Write, sync::Arc, task::Waker, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::BoxFuture;
use rand::RngExt;
use uuid::Uuid;

use crate::{
    bus::Bus,
    clients::Clients,
    coverage::Coverage,
    executor::{Event, Micros, SECOND, Schedule, Slot, World},
    faults::{Fault, Plan, Rng, stream},
    gateway::Outside,
    rows::Database,
    store::Store,
};

/// What is asked of the executor.
pub enum Control {
    /// All of a process's futures are dropped where they are.
    Kill(usize),
    /// A process starts.
    Start(usize),
    /// Some process is no longer frozen.
    Thaw,
    /// A process does one more thing.
    Spawn(usize, BoxFuture<'static, ()>),
}

/// A process.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its name.
    pub name: &'static str,
    /// Whether it runs.
    pub alive: bool,
    /// How often it has died.
    pub incarnation: u32,
    /// Whether it stands still.
    pub frozen: bool,
    /// How fast its clock runs.
    pub speed: f64,
    /// By server: until when it cannot be reached.
    unreachable: [Micros; SITES],
}

/// What a process may talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// The engine's database.
    Store,
    /// The broker.
    Broker,
    /// A worker's database, 0–2.
    Rows(usize),
    /// The payment gateway or the carrier.
    Gateway,
}

/// How many sites there are.
pub const SITES: usize = 6;

impl Site {
    fn index(self) -> usize {
        match self {
            Site::Store => 0,
            Site::Broker => 1,
            Site::Rows(n) => 2 + n,
            Site::Gateway => 5,
        }
    }
}

/// Names of the processes. The last stands for everybody outside, and never fails.
pub const PROCESSES: [&str; 11] = [
    "engine-0",
    "engine-1",
    "api-0",
    "api-1",
    "inventory-0",
    "inventory-1",
    "payment-0",
    "payment-1",
    "shipment-0",
    "shipment-1",
    "outside",
];
/// The process of everybody outside.
pub const OUTSIDE: usize = 10;

/// Everything there is.
pub struct State {
    /// What time it is.
    pub now: Micros,
    /// What will happen.
    pub schedule: Schedule,
    /// For the executor.
    pub control: Vec<Control>,
    /// Latencies and ids.
    pub rng: Rng,
    /// What goes wrong.
    pub plan: Plan,
    /// From then on nothing goes wrong any more.
    pub heals_at: Micros,
    /// Every call is done at once: for tests of a single port.
    pub instant: bool,
    /// The processes.
    pub processes: Vec<Process>,
    /// The engine's database.
    pub store: Store,
    /// The broker.
    pub bus: Bus,
    /// The workers' databases: inventory, payment, shipment.
    pub databases: [Database; 3],
    /// Gateway and carrier.
    pub outside: Outside,
    /// What customers and operators know.
    pub clients: Clients,
    /// What was met.
    pub coverage: Coverage,
    /// What must not be, seen while it happened.
    pub violations: Vec<String>,
    /// What happened, if anybody wants to know.
    pub trace: Option<String>,
}

impl State {
    /// A world before its first instant.
    pub fn new(seed: u64, without: &[Fault], heals_at: Micros) -> Self {
        let mut plan = Plan::new(seed, without);
        let mut skew = |range: i64| {
            if plan.rate(Fault::Skew) == 0.0 {
                return 0;
            }
            plan.struck[Fault::Skew as usize] += 1;
            plan.stream(Fault::Skew).random_range(-range..=range)
        };
        let minutes = 5 * 60 * SECOND as i64;
        let processes = PROCESSES.map(|name| Process {
            name,
            alive: false,
            incarnation: 0,
            frozen: false,
            speed: if name == "outside" { 1.0 } else { 1.0 + skew(50_000) as f64 / 1e6 },
            unreachable: [0; SITES],
        });
        let skews = [0, 1, 2, 3].map(|_| skew(minutes));
        Self {
            now: 0,
            schedule: Schedule::default(),
            control: Vec::new(),
            rng: stream(seed, 2),
            plan,
            heals_at,
            instant: false,
            processes: processes.to_vec(),
            store: Store::new(skews[0]),
            bus: Bus::new(),
            databases: [Database::new(skews[1]), Database::new(skews[2]), Database::new(skews[3])],
            outside: Outside::default(),
            clients: Clients::default(),
            coverage: Coverage::default(),
            violations: Vec::new(),
            trace: None,
        }
    }

    /// Writes a line of the trace.
    pub fn note(&mut self, who: usize, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let at = self.now as f64 / 1e6;
            let _ = writeln!(trace, "{at:>12.6} {:<12} {}", self.processes[who].name, what());
        }
    }

    /// Whether a fault strikes now.
    pub fn strikes(&mut self, fault: Fault, probability: f64) -> bool {
        self.now < self.heals_at && self.plan.strikes(fault, probability)
    }

    /// Lets something happen later.
    pub fn later(&mut self, after: Micros, act: impl FnOnce(&mut State) + Send + 'static) {
        self.schedule.push(self.now + after, Event::Do(Box::new(act)));
    }

    /// An id that the seed decides, in the order of time.
    pub fn uuid(&mut self) -> Uuid {
        let millis = 1_767_225_600_000 + u128::from(self.now / 1000);
        let low: u128 = self.rng.random();
        Uuid::from_u128(
            (millis << 80) | (7 << 76) | (low & ((0xfff << 64) | 0x3fff_ffff_ffff_ffff)) | (2 << 62),
        )
    }

    /// A process dies now and starts again after a while.
    pub fn crash(&mut self, process: usize, down: Micros) {
        if !self.processes[process].alive {
            return;
        }
        self.note(process, || format!("dies, for {:.3} s", down as f64 / 1e6));
        self.processes[process].alive = false;
        self.processes[process].incarnation += 1;
        self.control.push(Control::Kill(process));
        self.bus.lose(process, &mut self.schedule, self.now);
        self.later(down, move |s| s.start(process));
    }

    /// A process starts.
    pub fn start(&mut self, process: usize) {
        let p = &mut self.processes[process];
        (p.alive, p.frozen) = (true, false);
        self.note(process, || "starts".to_owned());
        self.control.push(Control::Thaw);
        self.control.push(Control::Start(process));
    }

    /// A process stands still for a while.
    pub fn freeze(&mut self, process: usize, length: Micros) {
        if !self.processes[process].alive || self.processes[process].frozen {
            return;
        }
        self.note(process, || format!("is frozen for {:.3} s", length as f64 / 1e6));
        self.processes[process].frozen = true;
        self.bus.silent(process, length, &mut self.schedule, self.now);
        self.later(length, move |s| {
            s.note(process, || "thaws".to_owned());
            s.processes[process].frozen = false;
            s.control.push(Control::Thaw);
        });
    }

    /// A process cannot reach a server for a while.
    pub fn part(&mut self, process: usize, site: Site, length: Micros) {
        self.note(process, || format!("cannot reach {site:?} for {:.3} s", length as f64 / 1e6));
        let until = self.now + length;
        let unreachable = &mut self.processes[process].unreachable[site.index()];
        *unreachable = until.max(*unreachable);
        if site == Site::Broker {
            self.bus.silent(process, length, &mut self.schedule, self.now);
        }
    }

    /// Until when a process cannot reach a server.
    pub fn unreachable(&self, process: usize, site: Site) -> Option<Micros> {
        let until = self.processes[process].unreachable[site.index()];
        (until > self.now).then_some(until)
    }

    /// An instant, by a clock that is so many microseconds off.
    pub fn instant_at(&self, skew: i64) -> DateTime<Utc> {
        let base = DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default();
        base + TimeDelta::microseconds(self.now as i64 + skew)
    }
}

/// The server did not answer, or said that it could not. What was asked may have been done.
#[derive(Debug, Clone, Copy)]
pub struct Down;

/// A process's way into the world.
#[derive(Clone)]
pub struct Handle {
    /// The world.
    pub world: Arc<World>,
    /// Which process this is.
    pub process: usize,
}

/// What becomes of a request.
struct Fate {
    there: Option<Micros>,
    back: Micros,
    answered: bool,
}

impl Handle {
    /// The world's state.
    pub fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.world.state()
    }

    /// Asks a server for something. The request is on its way as soon as this is first polled, whatever becomes of
    /// the process: dropping the future takes nothing back.
    pub async fn ask<T: Send + 'static>(
        &self,
        site: Site,
        lossy: Option<Fault>,
        what: &'static str,
        effect: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> Result<T, Down> {
        let slot = Slot::default();
        let unused = {
            let mut state = self.state();
            if state.instant {
                state.now += 1000;
                return Ok(effect(&mut state));
            }
            let fate = state.fate(self.process, site, lossy, what);
            let answer = slot.clone();
            match fate.there {
                Some(there) => {
                    state.later(there, move |s| {
                        let value = effect(s);
                        let value = if fate.answered { Ok(value) } else { Err(Down) };
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

    /// Waits.
    pub async fn sleep(&self, time: Micros) {
        let slot: Slot<()> = Slot::default();
        let wake = slot.clone();
        self.state().later(time, move |_| wake.fill(()));
        slot.await;
    }
}

impl State {
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

impl amends_worker::Clock for SimClock {
    async fn sleep(&self, pause: Duration) {
        self.pause(pause).await;
    }
}

/// Futures that wait for something to change.
#[derive(Default)]
pub struct Watchers(Vec<Waker>);

impl Watchers {
    /// Waits for the next change.
    pub fn add(&mut self, waker: &Waker) {
        if !self.0.iter().any(|w| w.will_wake(waker)) {
            self.0.push(waker.clone());
        }
    }
    /// Something changed.
    pub fn wake(&mut self) {
        self.0.drain(..).for_each(Waker::wake);
    }
}
