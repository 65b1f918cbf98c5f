//! A single-threaded executor with simulated time. Only futures woken by an event run, and time jumps to the next
//! event: an idle hour costs nothing.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, VecDeque},
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::future::BoxFuture;

use crate::world::{Control, WorldState};

/// Simulated time since the beginning, in microseconds.
pub type Micros = u64;

/// One second.
pub const SECOND: Micros = 1_000_000;

/// An event of the schedule.
pub enum Event {
    /// A future may continue.
    Wake(Waker),
    /// The world changes.
    Do(Box<dyn FnOnce(&mut WorldState) + Send>),
}

/// Events by time; events of the same time keep the order in which they were scheduled.
#[derive(Default)]
pub struct Schedule {
    heap: BinaryHeap<Scheduled>,
    seq: u64,
}

struct Scheduled {
    at: Micros,
    seq: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.seq).cmp(&(self.at, self.seq))
    }
}

impl Schedule {
    /// Schedules an event.
    pub fn push(&mut self, at: Micros, event: Event) {
        self.seq += 1;
        self.heap.push(Scheduled { at, seq: self.seq, event });
    }

    fn pop(&mut self, until: Micros) -> Option<(Micros, Event)> {
        if self.heap.peek()?.at > until {
            return None;
        }
        self.heap.pop().map(|s| (s.at, s.event))
    }

    /// Removes all events; returns them to be dropped elsewhere.
    fn clear(&mut self) -> impl Sized + use<> {
        std::mem::take(&mut self.heap)
    }
}

/// A world and its lock.
pub struct World {
    state: Mutex<WorldState>,
    ready: Arc<Mutex<VecDeque<usize>>>,
    /// Transactions that were dropped: (database, transaction).
    pub dropped: Mutex<Vec<(usize, u64)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// Creates a world in this state.
    pub fn new(state: WorldState) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(state), ready: Arc::default(), dropped: Mutex::default() })
    }

    /// Locks the state. Never held across an await.
    pub fn state(&self) -> MutexGuard<'_, WorldState> {
        lock(&self.state)
    }

    /// Records that a transaction was dropped. Takes no lock that may be held.
    pub fn drop_transaction(&self, database: usize, id: u64) {
        lock(&self.dropped).push((database, id));
    }

    /// Releases the locks of dropped transactions.
    pub fn settle_dropped(&self) {
        let dropped = std::mem::take(&mut *lock(&self.dropped));
        if !dropped.is_empty() {
            let mut state = self.state();
            for (database, id) in dropped {
                state.databases[database].release(id);
            }
        }
    }
}

struct TaskWaker {
    id: usize,
    queued: AtomicBool,
    ready: Arc<Mutex<VecDeque<usize>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Relaxed) {
            lock(&self.ready).push_back(self.id);
        }
    }
}

struct Task {
    process: usize,
    future: BoxFuture<'static, ()>,
    waker: Arc<TaskWaker>,
}

/// Starts the loops of a process.
pub type Starter = fn(&Arc<World>, usize) -> Vec<BoxFuture<'static, ()>>;

/// Runs a world's processes.
pub struct Executor {
    world: Arc<World>,
    tasks: Vec<Option<Task>>,
    held: Vec<usize>,
    start: Starter,
}

impl Executor {
    /// Creates an executor for a world whose processes are started by `start`.
    pub fn new(world: Arc<World>, start: Starter) -> Self {
        Self { world, tasks: Vec::new(), held: Vec::new(), start }
    }

    fn spawn(&mut self, process: usize, future: BoxFuture<'static, ()>) {
        let id = self.tasks.len();
        let waker =
            Arc::new(TaskWaker { id, queued: AtomicBool::new(false), ready: self.world.ready.clone() });
        waker.wake_by_ref();
        self.tasks.push(Some(Task { process, future, waker }));
    }

    /// Runs all events up to this time.
    pub fn run(&mut self, until: Micros) {
        loop {
            self.control();
            self.world.settle_dropped();
            let next = lock(&self.world.ready).pop_front();
            if let Some(id) = next {
                self.poll(id);
                continue;
            }
            let mut state = self.world.state();
            match state.schedule.pop(until) {
                Some((at, event)) => {
                    state.now = state.now.max(at);
                    match event {
                        Event::Wake(waker) => {
                            drop(state);
                            waker.wake();
                        }
                        Event::Do(act) => act(&mut state),
                    }
                }
                None => {
                    state.now = until;
                    return;
                }
            }
        }
    }

    fn poll(&mut self, id: usize) {
        let Some(task) = self.tasks[id].as_mut() else { return };
        if self.world.state().processes[task.process].frozen {
            self.held.push(id);
            return;
        }
        task.waker.queued.store(false, Relaxed);
        let waker = Waker::from(task.waker.clone());
        if task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            self.tasks[id] = None;
        }
    }

    fn control(&mut self) {
        loop {
            let control = std::mem::take(&mut self.world.state().control);
            if control.is_empty() {
                return;
            }
            for control in control {
                match control {
                    Control::Kill(process) => {
                        for task in &mut self.tasks {
                            if task.as_ref().is_some_and(|t| t.process == process) {
                                *task = None;
                            }
                        }
                    }
                    Control::Start(process) => {
                        let futures = (self.start)(&self.world, process);
                        futures.into_iter().for_each(|future| self.spawn(process, future));
                    }
                    Control::Thaw => {
                        for id in std::mem::take(&mut self.held) {
                            if let Some(task) = &self.tasks[id] {
                                lock(&task.waker.ready).push_back(id);
                            }
                        }
                    }
                    Control::Spawn(process, future) => self.spawn(process, future),
                }
            }
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.tasks.clear();
        let left = self.world.state().schedule.clear();
        drop(left);
    }
}

/// A value that is filled in later.
pub struct OneShot<T>(Arc<Mutex<(Option<T>, Option<Waker>)>>);

impl<T> Clone for OneShot<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for OneShot<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new((None, None))))
    }
}

impl<T> OneShot<T> {
    /// Sets the value.
    pub fn fill(&self, value: T) {
        let waker = {
            let mut slot = lock(&self.0);
            slot.0 = Some(value);
            slot.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Future for OneShot<T> {
    type Output = T;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut slot = lock(&self.0);
        match slot.0.take() {
            Some(value) => Poll::Ready(value),
            None => {
                slot.1 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
