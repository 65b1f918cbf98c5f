//! One seed: a world is created, fails, heals, and is checked.

use rand::RngExt;

use amends_inventory::stock::Stock;

use crate::{
    bus::{PARTITIONS, Poison, REPLIES, TOPICS, Unusable},
    clients::{PRODUCTS, plan_orders},
    coverage::Coverage,
    executor::{Executor, Micros, SECOND, World},
    faults::{Fault, stream},
    invariants, losses, processes,
    world::{OUTSIDE, PROCESSES, PROGRAMS, SITES, Site, WorldState},
};

/// From this time on no more faults occur.
pub const HEALS_AT: Micros = 1800 * SECOND;
/// At this time everything must be idle.
pub const ENDS_AT: Micros = 4500 * SECOND;

/// Options of a run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Kinds of faults that do not occur.
    pub without: Vec<Fault>,
    /// Only these orders.
    pub only: Option<Vec<usize>>,
    /// Whether to record a trace.
    pub trace: bool,
}

/// The result of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The violations.
    pub violations: Vec<String>,
    /// Faults and events met.
    pub coverage: Coverage,
    /// Number of orders placed.
    pub orders: usize,
    /// The trace.
    pub trace: String,
}

/// Runs a seed.
pub fn run(seed: u64, options: &Options) -> Report {
    let mut state = WorldState::new(seed, &options.without, HEALS_AT);
    state.trace = options.trace.then(String::new);
    state.clients.planned_orders = plan_orders(seed, HEALS_AT - 120 * SECOND, options.only.as_deref());
    state.clients.holiday = stream(seed, 4).random_bool(0.33);
    for (product, on_hand) in PRODUCTS {
        let stock = Stock { on_hand, reserved: 0, shipped: 0 };
        state.databases[0].stock.insert(product.to_owned(), stock);
    }
    for process in 0..PROCESSES.len() {
        state.start(process);
    }
    calamities(&mut state);
    losses::schedule(&mut state);
    let world = World::new(state);
    let mut executor = Executor::new(world.clone(), processes::start);
    executor.run(ENDS_AT);
    let mut state = world.state();
    let violations = invariants::check(&state);
    let mut coverage = std::mem::take(&mut state.coverage);
    let struck = Fault::ALL.iter().copied().zip(state.plan.struck.iter().copied());
    coverage.faults = struck.filter(|(_, n)| *n > 0).collect();
    let trace = state.trace.take().unwrap_or_default();
    let orders = state.store.orders.len();
    drop(state);
    Report { seed, violations, coverage, orders, trace }
}

/// Schedules the faults that occur at a time of their own, not at a call.
fn calamities(state: &mut WorldState) {
    timed(state, Fault::Crash, 4, |s, rng| {
        let (process, down) = (rng(0..OUTSIDE as u64) as usize, rng(1000..60 * SECOND));
        s.crash(process, down);
    });
    timed(state, Fault::Freeze, 3, |s, rng| {
        let (process, length) = (rng(0..OUTSIDE as u64) as usize, rng(SECOND..60 * SECOND));
        s.freeze(process, length);
    });
    timed(state, Fault::Partition, 3, |s, rng| {
        let (process, length) = (rng(0..OUTSIDE as u64) as usize, rng(SECOND..90 * SECOND));
        let own = match process {
            4..=9 if rng(0..2) == 0 => Site::Rows((process - 4) / 2),
            6..=9 if rng(0..2) == 0 => Site::Gateway,
            0..=3 if rng(0..2) == 0 => Site::Store,
            _ => Site::Broker,
        };
        s.part(process, own, length);
    });
    timed(state, Fault::Outage, 1, |s, rng| {
        let site = match rng(0..SITES as u64) {
            0 => Site::Store,
            1 => Site::Broker,
            5 => Site::Gateway,
            n => Site::Rows(n as usize - 2),
        };
        let length = rng(SECOND..120 * SECOND);
        (0..OUTSIDE).for_each(|process| s.part(process, site, length));
    });
    timed(state, Fault::LongOutage, 1, |s, rng| {
        let length = rng(180 * SECOND..660 * SECOND).min(s.heals_at - s.now);
        (0..OUTSIDE).for_each(|process| s.part(process, Site::Broker, length));
    });
    timed(state, Fault::Amnesia, 3, |s, rng| {
        let topic = rng(0..4) as usize;
        let forgotten = s.bus.forget(topic);
        s.note(OUTSIDE, || format!("the broker forgets {forgotten} messages of {}", TOPICS[topic]));
    });
    timed(state, Fault::Replay, 2, |s, rng| {
        let (topic, back) = (rng(0..4) as usize, rng(1..40) as usize);
        s.note(OUTSIDE, || format!("{} is read again from {back} messages ago", TOPICS[topic]));
        s.bus.replay(topic, back);
    });
    timed(state, Fault::Rebalance, 4, |s, rng| {
        let topic = rng(0..4) as usize;
        s.note(OUTSIDE, || format!("consumers of {} change places", TOPICS[topic]));
        s.bus.rebalance(topic);
    });
    timed(state, Fault::ClockBack, 1, |s, rng| {
        let back = rng(SECOND..2400 * SECOND);
        s.note(OUTSIDE, || format!("the database's clock is set back by {} s", back / SECOND));
        s.store.set_back(back);
    });
    timed(state, Fault::RowHeld, 6, |s, rng| {
        let (nth, length) = (rng(0..1_000) as usize, rng(SECOND..60 * SECOND));
        let Some(saga) = s.store.sagas.keys().rev().nth(nth % s.store.sagas.len().max(1)).copied() else {
            return;
        };
        s.note(OUTSIDE, || format!("a forgotten transaction holds {}", crate::store::short(saga)));
        s.store.held.insert(saga, s.now + length);
    });
    timed(state, Fault::HomeAway, 3, |s, rng| {
        let (home, length) = (rng(0..u64::from(crate::store::HOMES)) as u16, rng(SECOND..60 * SECOND));
        s.note(OUTSIDE, || format!("home {home} of the engine's database is away for {} s", length / SECOND));
        s.store.away = Some((home, s.now + length));
    });
    timed(state, Fault::TopicUnusable, 1, |s, rng| {
        let (topic, length) = (rng(0..REPLIES as u64) as usize, rng(60 * SECOND..660 * SECOND));
        // It does not exist, or it has no leader: then the client waits for one.
        let answers_after = [10_000, 10 * SECOND][rng(0..2) as usize];
        s.note(OUTSIDE, || format!("{} cannot be produced to for {} s", TOPICS[topic], length / SECOND));
        s.bus.unusable[topic] = Unusable { until: s.heals_at.min(s.now + length), answers_after };
    });
    timed(state, Fault::Upgrade, 6, |s, rng| {
        let (process, down) = (rng(0..PROGRAMS as u64) as usize, rng(1000..10 * SECOND));
        s.processes[process].newer = !s.processes[process].newer;
        s.crash(process, down);
    });
    if state.plan.rate(Fault::Upgrade) > 0.0 {
        // At the end some engine knows everything.
        state.later(HEALS_AT + SECOND, |s| {
            for process in 0..PROGRAMS {
                if !std::mem::replace(&mut s.processes[process].newer, true) {
                    s.crash(process, SECOND);
                }
            }
        });
    }
    timed(state, Fault::Poison, 4, |s, rng| {
        let (topic, partition) = (rng(0..4) as usize, rng(0..PARTITIONS as u64) as usize);
        let bytes = match rng(0..5) {
            0 => b"not JSON at all".to_vec(),
            1 => b"{\"schemaVersion\":1}".to_vec(),
            2 => "[".repeat(2_000).into_bytes(),
            3 => vec![b' '; (1 << 20) + 1],
            _ if topic == REPLIES => b"{\"schemaVersion\":99,\"outcome\":\"splendid\"}".to_vec(),
            _ => b"\"\\u0000\"".to_vec(),
        };
        s.note(OUTSIDE, || format!("poison on {}", TOPICS[topic]));
        s.append(topic, partition, bytes, None, Some(Poison::Unreadable));
    });
}

/// Draws numbers from a fault's stream.
type Draw<'a> = &'a mut dyn FnMut(std::ops::Range<u64>) -> u64;

fn timed(state: &mut WorldState, fault: Fault, usual: u64, strike: fn(&mut WorldState, Draw<'_>)) {
    let rate = state.plan.rate(fault);
    if rate == 0.0 {
        return;
    }
    let count = state.plan.draw(fault, 0..(usual as f64 * 2.0 * rate).ceil() as u64 + 1);
    for _ in 0..count {
        let at = state.plan.draw(fault, SECOND..state.heals_at);
        state.later(at, move |s| {
            s.plan.struck[fault as usize] += 1;
            let mut stream = s.plan.stream(fault).clone();
            strike(s, &mut |range| stream.random_range(range));
            *s.plan.stream(fault) = stream;
        });
    }
}
