//! The processes: the real loops, each in a task, driven as in the roles of the real program. Where a real loop would
//! poll and find nothing, time jumps to the poll that finds something.

use std::{
    future::{Future, poll_fn},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use amends_engine::{
    core::{Catalog, Definition, Event, Saga, SignalStep, SignalVerdict, Step, StepKind},
    port::{self, Clock as _},
    runtime::{
        Engine, Error, Ownership, RepeatAllowance, RepeatAllowances, RepeatBudget,
        apply::{Applied, apply},
        deferred,
        recovery::Recovery,
        replies, rest, timers,
    },
};
use amends_inventory::Inventory;
use amends_payment::Payments;
use amends_protocol::{Json, Reason, TokenKey, transport::Source};
use amends_shipment::Shipments;
use amends_worker::{External, ExternalExecutor, Settings, Transactional};
use amends_workflows::{self as workflows, order_fulfilment};
use futures::future::{BoxFuture, Either, select};
use rand::RngExt;
use uuid::Uuid;

use crate::{
    bus::{REPLIES, SimSink, SimSource},
    executor::{Event as Happens, Micros, SECOND, World},
    gateway::{SimCarrier, SimGateway},
    rows::SimRows,
    store::SimStore,
    world::{Handle, SimClock, Watchers, WorldState},
};

type Task = BoxFuture<'static, ()>;
/// An engine in this world.
pub type SimEngine = Engine<SimStore, SimSink, SimClock>;

/// The longest run of an engine's loop.
const TURN: Duration = Duration::from_secs(30);
const RECOVERY_POLL: Micros = 100_000;
/// How long a reviewed order waits for its review.
const REVIEW_DEADLINE: Duration = Duration::from_secs(300);
/// The few orders of a simulation have little to repeat; with these allowances repetitions are put off all the same.
const TIGHT: RepeatAllowances = RepeatAllowances {
    failed: RepeatAllowance { most: 4, a_minute: 6 },
    silent: RepeatAllowance { most: 4, a_minute: 6 },
};

/// Returns the loops of a process.
pub fn start(world: &Arc<World>, process: usize) -> Vec<Task> {
    let handle = Handle { world: world.clone(), process };
    match process {
        0 | 1 => engine_loops(&handle),
        2 | 3 => Vec::new(),
        4 | 5 => vec![Box::pin(inventory(handle))],
        6 | 7 => {
            let executor = Payments::new(SimGateway(handle.clone()));
            external(&handle, 1, executor, amends_payment::settings())
        }
        8 | 9 => {
            let executor = Shipments::new(SimCarrier(handle.clone()));
            external(&handle, 2, executor, amends_shipment::settings())
        }
        _ => vec![Box::pin(crate::clients::people(handle.clone()))],
    }
}

/// Patience with unknown outcomes: shorter than in production, so that it often ends.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the workflows of the older program.
fn known() -> Catalog {
    let settings = workflows::Settings { unknown_patience: PATIENCE, ..workflows::Settings::default() };
    let known = workflows::catalog(settings);
    let reviewed = known.iter().filter(|d| d.name == order_fulfilment::NAME).map(reviewed);
    let all: Vec<Definition> = known.iter().cloned().chain(reviewed).collect();
    Catalog::new(all).expect("as sound as the workflows")
}

/// A workflow of the simulation alone: an order that a reviewer must agree to before it is paid for.
pub const REVIEWED: &str = "order_reviewed";
/// The signal of a reviewed order.
pub const REVIEW: &str = "review";

fn reviewed(fulfilment: &Definition) -> Definition {
    let judge = |payload: &Json| match payload.read() {
        Ok(true) => SignalVerdict::Accepted,
        Ok(false) => SignalVerdict::Declined(Reason::new("said_no", "")),
        Err(_) => SignalVerdict::Malformed,
    };
    let review = Step {
        signal: Some(SignalStep { deadline: Some(REVIEW_DEADLINE), judge }),
        label_undone: order_fulfilment::FAILED,
        ..Step::signal(REVIEW, StepKind::Compensatable)
    };
    let mut steps = fulfilment.steps.clone();
    steps.insert(1, review);
    Definition { name: REVIEWED, steps, ..fulfilment.clone() }
}

/// Returns the definition of a saga's workflow.
pub fn definition(saga: &Saga) -> Option<Definition> {
    catalog().get(&saga.workflow, saga.workflow_version).cloned()
}

/// Returns the workflows of the newer program, which has one more version of each.
pub fn catalog() -> Catalog {
    let known = known();
    let next = |d: &Definition| Definition { version: d.version + 1, ..d.clone() };
    let next: Vec<Definition> = known.iter().map(next).collect();
    Catalog::new(known.iter().cloned().chain(next).collect()).expect("as sound as the versions before")
}

/// Returns the workflows that a process knows.
fn catalog_of(handle: &Handle) -> Catalog {
    let newer = handle.state().processes[handle.process].newer;
    if newer { catalog() } else { known() }
}

/// Creates the engine of a process: of an engine, or of a door.
pub fn engine(handle: &Handle) -> SimEngine {
    Engine {
        store: SimStore(handle.clone()),
        sink: SimSink(handle.clone()),
        clock: SimClock(handle.clone()),
        catalog: catalog_of(handle),
        key: TokenKey::new([7; 32]),
        epoch: handle.state().processes[handle.process].epoch,
        ownership: Ownership::default(),
        news: amends_engine::runtime::News::default(),
        budget: RepeatBudget::new(TIGHT),
        recent: Default::default(),
        passed_over: Default::default(),
        fleet: Default::default(),
    }
}

fn late<T>() -> Result<T, Error> {
    Err(port::Error::Unavailable("no answer in time".to_owned()).into())
}

/// Runs a loop once; drops it if it takes too long.
async fn turn<T>(
    engine: &SimEngine,
    turn: impl Future<Output = Result<T, Error>>,
) -> Option<Result<T, Error>> {
    let (turn, limit) = (std::pin::pin!(turn), std::pin::pin!(engine.clock.sleep(TURN)));
    match select(turn, limit).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(_) => None,
    }
}

async fn after_failure(engine: &SimEngine, failures: &mut u32) {
    *failures += 1;
    engine.clock.sleep(rest(*failures, engine.clock.jitter())).await;
}

fn engine_loops(handle: &Handle) -> Vec<Task> {
    let engine = Arc::new(engine(handle));
    let (shared, mut source) = (engine.clone(), SimSource::join(handle.clone(), REPLIES));
    let taking = async move {
        let (mut failures, mut seen) = (0, shared.ownership.now());
        loop {
            let taken = match turn(&shared, replies::run_once(&*shared, &mut source)).await {
                Some(taken) => taken,
                None => source.rewind().map_err(Error::from).and_then(|()| late()),
            };
            match taken {
                Ok(_) => failures = 0,
                Err(_) => after_failure(&shared, &mut failures).await,
            }
            if shared.ownership.now() != seen {
                seen = shared.ownership.now();
                shared.store.0.state().store.watchers.wake();
            }
        }
    };
    let shared = engine.clone();
    let waking = async move {
        let (mut timers, mut failures) = (timers::Timers::default(), 0);
        let (handle, known) = (shared.store.0.clone(), shared.known());
        loop {
            let set_back = handle.state().store.set_back;
            match turn(&shared, timers.run_once(&shared)).await.unwrap_or_else(late) {
                Ok(n) if n >= timers::BATCH as usize => continue,
                Ok(_) => failures = 0,
                Err(_) => {
                    after_failure(&shared, &mut failures).await;
                    continue;
                }
            }
            // What was put off is paid for as soon as there is an answer.
            let waits = (timers.put_off() > 0).then(|| handle.state().now + SECOND);
            let next = |s: &WorldState| {
                let (assignment, _) = shared.ownership.now();
                if s.store.set_back != set_back {
                    return Some(s.now);
                }
                s.store.next_due(&known, |slot| assignment.owns(slot)).into_iter().chain(waits).min()
            };
            poll_until(&handle, timers::POLL.as_micros() as Micros, next, |s| &mut s.store.watchers).await;
        }
    };
    let shared = engine.clone();
    let judging = async move {
        let (handle, known, mut failures) = (shared.store.0.clone(), shared.known(), 0);
        loop {
            match turn(&shared, deferred::run_once(&shared)).await.unwrap_or_else(late) {
                Ok(n) if n >= deferred::DEFERRED_BATCH as usize => continue,
                Ok(_) => failures = 0,
                Err(_) => {
                    after_failure(&shared, &mut failures).await;
                    continue;
                }
            }
            let next = |s: &WorldState| {
                let (assignment, _) = shared.ownership.now();
                let next = s.store.next_deferred(&known, |slot| assignment.owns(slot))?;
                // As in the store: a time later than any reply rests was set before the clock was set back.
                Some(if next > s.now + 60 * SECOND { s.now } else { next })
            };
            let poll = deferred::DEFERRED_POLL.as_micros() as Micros;
            poll_until(&handle, poll, next, |s| &mut s.store.watchers).await;
        }
    };
    let shared = engine;
    let recovering = async move {
        let (mut recovery, mut failures) = (Recovery::default(), 0);
        let handle = shared.store.0.clone();
        loop {
            let seen = shared.ownership.now();
            match turn(&shared, recovery.run_once(&shared)).await.unwrap_or_else(late) {
                Ok(_) => failures = 0,
                Err(_) => {
                    after_failure(&shared, &mut failures).await;
                    continue;
                }
            }
            let next = |s: &WorldState| (shared.ownership.now() != seen).then_some(s.now);
            poll_until(&handle, RECOVERY_POLL, next, |s| &mut s.store.watchers).await;
        }
    };
    vec![Box::pin(taking), Box::pin(waking), Box::pin(judging), Box::pin(recovering)]
}

/// Waits as long as a loop would that polls at this interval and finds nothing before `next`, which may change whenever
/// the watchers are woken.
async fn poll_until(
    handle: &Handle,
    interval: Micros,
    next: impl Fn(&WorldState) -> Option<Micros>,
    watchers: impl Fn(&mut WorldState) -> &mut Watchers,
) {
    let from = handle.state().now;
    let mut scheduled = None;
    poll_fn(|cx| {
        let mut guard = handle.state();
        let state = &mut *guard;
        if let Some(next) = next(state) {
            let polls = next.saturating_sub(from).div_ceil(interval).max(1);
            let at = from + polls * interval;
            if at <= state.now {
                return Poll::Ready(());
            }
            if scheduled != Some(at) {
                scheduled = Some(at);
                state.schedule.push(at, Happens::Wake(cx.waker().clone()));
            }
        }
        watchers(state).add(cx.waker());
        Poll::Pending
    })
    .await;
}

/// Pauses a worker after failures.
async fn back_off(handle: &Handle, failures: &mut u32) {
    let longest = (10 * SECOND).min(100_000 << (*failures).min(7));
    *failures += 1;
    let jitter = handle.state().rng.random_range(0.5..1.0);
    handle.sleep((longest as f64 * jitter) as Micros).await;
}

async fn inventory(handle: Handle) {
    let rows = SimRows { handle: handle.clone(), database: 0 };
    let (source, sink) = (SimSource::join(handle.clone(), 0), SimSink(handle.clone()));
    let clock = SimClock(handle.clone());
    let mut worker = Transactional::with_timer(
        rows,
        Inventory::default(),
        source,
        sink,
        amends_inventory::settings(),
        clock,
    );
    let mut failures = 0;
    loop {
        match worker.run_once().await {
            Ok(()) => failures = 0,
            Err(_) => back_off(&handle, &mut failures).await,
        }
    }
}

fn external<E: ExternalExecutor + 'static>(
    handle: &Handle,
    database: usize,
    executor: E,
    settings: Settings,
) -> Vec<Task> {
    let rows = SimRows { handle: handle.clone(), database };
    let (source, sink) = (SimSource::join(handle.clone(), database), SimSink(handle.clone()));
    let (interval, lease) = (settings.recovery_interval, settings.lease);
    let worker = External::with_timer(rows, executor, source, sink, settings, SimClock(handle.clone()));
    let (mut intake, mut calls, mut recovery) = worker.loops();
    let h = handle.clone();
    let taking = async move {
        let mut failures = 0;
        loop {
            match intake.run_once().await {
                Ok(()) => failures = 0,
                Err(_) => back_off(&h, &mut failures).await,
            }
        }
    };
    let h = handle.clone();
    let calling = async move {
        let mut failures = 0;
        loop {
            match calls.run_once().await {
                Ok(()) => failures = 0,
                Err(_) => {
                    // Calls in progress continue meanwhile.
                    let (rest, wait) =
                        (std::pin::pin!(back_off(&h, &mut failures)), std::pin::pin!(driven(&mut calls)));
                    select(rest, wait).await;
                }
            }
        }
    };
    let h = handle.clone();
    let recovering = async move {
        let mut failures = 0;
        let (interval, third) = (interval.as_micros() as Micros, (lease / 3).as_micros() as Micros);
        let mut renewed = h.state().now;
        loop {
            match recovery.run_once().await {
                Ok(()) => failures = 0,
                Err(_) => back_off(&h, &mut failures).await,
            }
            let due = |s: &WorldState| {
                let db = &s.databases[database];
                let renew = db.has_calls().then_some(renewed + third);
                db.next_due().into_iter().chain(renew).min()
            };
            poll_until(&h, interval, due, |s| &mut s.databases[database].watchers).await;
            if h.state().now >= renewed + third {
                renewed = h.state().now;
                let _ = recovery.renew().await;
            }
        }
    };
    vec![Box::pin(taking), Box::pin(calling), Box::pin(recovering)]
}

/// Drives calls and never completes: for a pause in which nothing can be recorded.
async fn driven<R, E, K, C>(calls: &mut amends_worker::Calls<R, E, K, C>)
where
    R: amends_worker::Rows + 'static,
    E: ExternalExecutor + 'static,
    K: amends_protocol::transport::Sink + 'static,
    C: amends_worker::Timer + 'static,
{
    calls.wait().await;
    std::future::pending().await
}

/// Applies an event at this process.
pub async fn act(handle: &Handle, saga: Uuid, event: Event) -> Result<Applied, Error> {
    apply(&engine(handle), saga, event).await
}
