//! The state of a simulated world, and how a process sends a request to a server.

mod handle;

pub use handle::{Down, Handle, SimClock, Watchers};

use std::{fmt::Write, sync::Arc, task::Waker, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::BoxFuture;
use rand::RngExt;
use uuid::Uuid;

use crate::{
    bus::Bus,
    clients::Clients,
    coverage::Coverage,
    executor::{Event, Micros, OneShot, SECOND, Schedule, World},
    faults::{Fault, Plan, Rng, stream},
    gateway::Outside,
    losses::{Losses, Sentinel},
    rows::Database,
    store::Store,
};

/// Requests to the executor.
pub enum Control {
    /// Drops all futures of a process where they are.
    Kill(usize),
    /// Starts a process.
    Start(usize),
    /// Continues processes that are no longer frozen.
    Thaw,
    /// Adds a future to a process.
    Spawn(usize, BoxFuture<'static, ()>),
}

/// A process.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its name.
    pub name: &'static str,
    /// Whether it runs.
    pub alive: bool,
    /// Number of times it has died.
    pub incarnation: u32,
    /// Whether it is paused.
    pub frozen: bool,
    /// Speed of its clock.
    pub speed: f64,
    /// Whether it is an engine or an api of the newer program, which knows one more version of the workflow.
    pub newer: bool,
    /// The store's epoch in which it was started.
    pub epoch: u32,
    /// What the store has acknowledged to it.
    pub sentinel: Sentinel,
    /// By server: until when it cannot be reached.
    unreachable: [Micros; SITES],
}

/// A server that a process uses.
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

/// Number of sites.
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

/// Names of the processes. The last stands for everything outside, and never fails.
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
/// Number of processes, from the first, that run the engine, with or without its loops.
pub const PROGRAMS: usize = 4;
/// Index of the process outside.
pub const OUTSIDE: usize = 10;

/// The whole state.
pub struct WorldState {
    /// The present time.
    pub now: Micros,
    /// Future events.
    pub schedule: Schedule,
    /// Requests to the executor.
    pub control: Vec<Control>,
    /// Randomness for latencies and ids.
    pub rng: Rng,
    /// The faults.
    pub plan: Plan,
    /// From this time on no more faults occur.
    pub heals_at: Micros,
    /// Every call completes at once: for tests of a single port.
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
    /// What the engine's database has lost.
    pub losses: Losses,
    /// Faults and events met.
    pub coverage: Coverage,
    /// Violations seen during the run.
    pub violations: Vec<String>,
    /// The trace, if it is requested.
    pub trace: Option<String>,
}

impl WorldState {
    /// Creates a world before its first event.
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
            newer: false,
            epoch: 0,
            sentinel: Sentinel::default(),
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
            losses: Losses::default(),
            coverage: Coverage::default(),
            violations: Vec::new(),
            trace: None,
        }
    }

    /// Adds a line to the trace.
    pub fn note(&mut self, who: usize, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let at = self.now as f64 / 1e6;
            let _ = writeln!(trace, "{at:>12.6} {:<12} {}", self.processes[who].name, what());
        }
    }

    /// Returns whether a fault occurs now.
    pub fn strikes(&mut self, fault: Fault, probability: f64) -> bool {
        self.now < self.heals_at && self.plan.strikes(fault, probability)
    }

    /// Schedules an action.
    pub fn later(&mut self, after: Micros, act: impl FnOnce(&mut WorldState) + Send + 'static) {
        self.schedule.push(self.now + after, Event::Do(Box::new(act)));
    }

    /// Returns a time-ordered id that the seed decides.
    pub fn uuid(&mut self) -> Uuid {
        let millis = 1_767_225_600_000 + u128::from(self.now / 1000);
        let low: u128 = self.rng.random();
        Uuid::from_u128(
            (millis << 80) | (7 << 76) | (low & ((0xfff << 64) | 0x3fff_ffff_ffff_ffff)) | (2 << 62),
        )
    }

    /// Kills a process now and restarts it later.
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

    /// Starts a process.
    pub fn start(&mut self, process: usize) {
        let (epoch, sentinel) = (self.store.epoch, Sentinel::new(self.store.failovers));
        let p = &mut self.processes[process];
        (p.alive, p.frozen) = (true, false);
        (p.epoch, p.sentinel) = (epoch, sentinel);
        self.note(process, || "starts".to_owned());
        self.control.push(Control::Thaw);
        self.control.push(Control::Start(process));
    }

    /// Pauses a process.
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

    /// Makes a server unreachable for a process.
    pub fn part(&mut self, process: usize, site: Site, length: Micros) {
        self.note(process, || format!("cannot reach {site:?} for {:.3} s", length as f64 / 1e6));
        let until = self.now + length;
        let unreachable = &mut self.processes[process].unreachable[site.index()];
        *unreachable = until.max(*unreachable);
        if site == Site::Broker {
            self.bus.silent(process, length, &mut self.schedule, self.now);
        }
    }

    /// Returns until when a process cannot reach a server.
    pub fn unreachable(&self, process: usize, site: Site) -> Option<Micros> {
        let until = self.processes[process].unreachable[site.index()];
        (until > self.now).then_some(until)
    }

    /// Returns the time of a clock that is off by `skew` microseconds.
    pub fn instant_at(&self, skew: i64) -> DateTime<Utc> {
        let base = DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default();
        base + TimeDelta::microseconds(self.now as i64 + skew)
    }
}
