//! The engine's ports in memory, each able to fail, and a log of what happened in which order.

mod broker;
mod store;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use amends_engine::core::{
    Catalog, CommandToSend, Decision, Entry, Event, Known, NewSaga, Occurrence, Saga, start, transition,
};
use amends_engine::port::{self, Clock, DeferredId, DeferredReply, DueScan, OddReason, OddReply, Stray};
use amends_engine::runtime::{Engine, News, Ownership, RepeatBudget, replies};
use amends_protocol::trace::TraceContext;
use amends_protocol::transport::Assignment;
use amends_protocol::{Command, Json, Kind, Outcome, Reply, TokenKey, id, wire};
use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt;
use serde_json::json;
use uuid::Uuid;

use super::stay;

pub(crate) const KEY: [u8; 32] = [7; 32];

/// The whole state besides the loops under test.
#[derive(Default)]
pub(crate) struct WorldState {
    /// By how much the store's clock was set back; the monotonic clock runs on.
    pub(crate) set_back: TimeDelta,
    pub(crate) now: DateTime<Utc>,
    pub(crate) sagas: BTreeMap<Uuid, (Saga, Vec<Entry>)>,
    /// What happened, in order: `commit`, `send`, `offsets`, ...
    pub(crate) log: Vec<String>,
    /// The store's next errors, one for each call that writes or reads.
    pub(crate) store_fails: VecDeque<port::Error>,
    /// The store's next errors for calls that defer replies.
    pub(crate) defer_fails: VecDeque<port::Error>,
    /// The duration of a read.
    pub(crate) reading_takes: TimeDelta,
    /// Another process writes these events just before the next commits, one each.
    pub(crate) rivals: VecDeque<(Uuid, Event)>,
    /// Sagas whose events cannot be stored.
    pub(crate) poison: BTreeSet<Uuid>,
    pub(crate) strays: Vec<Stray>,
    /// Odd replies by saga and reason: their number, and the last.
    pub(crate) odd: BTreeMap<(Uuid, OddReason), (u32, OddReply)>,
    /// The store's next errors for calls that note odd replies.
    pub(crate) note_fails: VecDeque<port::Error>,
    /// Number of parts of the store; a saga's part is its slot modulo this number. 0 is one part too.
    pub(crate) parts: u16,
    /// Parts of the store that do not answer.
    pub(crate) away: BTreeSet<u16>,
    /// After so many commits a part of the store goes away.
    pub(crate) goes_after_commits: Option<(u32, u16)>,
    /// Sagas whose rows another transaction holds.
    pub(crate) locked: BTreeSet<Uuid>,
    /// Sagas whose rows a newer program wrote.
    pub(crate) newer: BTreeSet<Uuid>,
    /// Deferred replies, and when they are due.
    pub(crate) deferred: BTreeMap<DeferredId, (DateTime<Utc>, DeferredReply)>,
    /// Programs that have announced themselves: when, and what they know.
    pub(crate) programs: BTreeMap<Uuid, (DateTime<Utc>, Known)>,
    pub(crate) scans: Vec<DueScan>,
    /// Sagas that were read by id.
    pub(crate) reads: Vec<Uuid>,
    pub(crate) sent: Vec<Command>,
    /// The contexts of all messages that were sent.
    pub(crate) traceparents: Vec<String>,
    /// The context of all replies.
    pub(crate) replies_trace: Option<String>,
    pub(crate) dead: Vec<(i64, String)>,
    /// Number of times the store was restored.
    pub(crate) epoch: u32,
    pub(crate) send_fails: u32,
    /// Topics that cannot be produced to.
    pub(crate) unusable: BTreeSet<String>,
    /// Number of sends that were refused because of such a topic.
    pub(crate) refused: u32,
    /// The process dies as it is about to produce: the next send never begins.
    pub(crate) dies_before_send: bool,
    pub(crate) topic: Vec<Vec<u8>>,
    pub(crate) read_to: usize,
    pub(crate) settled_to: usize,
    pub(crate) assignment: Assignment,
}

#[derive(Clone, Default)]
pub(crate) struct World(Arc<Mutex<WorldState>>);

pub(crate) type TestEngine = Engine<World, World, World>;

impl World {
    /// Creates a world in which one process owns all slots.
    pub(crate) fn new() -> (Self, TestEngine) {
        let world = Self::default();
        world.state().epoch = 1;
        world.state().now = DateTime::from_timestamp(1_767_225_600, 0).unwrap();
        world.state().assignment = Assignment { generation: 1, partitions: (0..8).collect(), count: 8 };
        let engine = world.engine();
        (world, engine)
    }

    /// Creates one more process in this world, which remembers nothing.
    pub(crate) fn engine(&self) -> TestEngine {
        Engine {
            store: self.clone(),
            sink: self.clone(),
            clock: self.clone(),
            catalog: Catalog::new(vec![stay()]).unwrap(),
            key: TokenKey::new(KEY),
            epoch: 1,
            ownership: Ownership::default(),
            news: News::default(),
            budget: RepeatBudget::default(),
            recent: Default::default(),
            passed_over: Default::default(),
            fleet: Default::default(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, WorldState> {
        self.0.lock().unwrap()
    }

    /// Creates a stay; ids count from 1. Its first command was sent.
    pub(crate) fn born(&self, slot: u16) -> Uuid {
        self.born_of(slot, None)
    }

    /// Creates a stay that is born of a request with this context.
    pub(crate) fn born_of(&self, slot: u16, trace: Option<TraceContext>) -> Uuid {
        let mut state = self.state();
        let id = id::at_slot(Uuid::from_u128((state.sagas.len() as u128 + 1) << 10), slot);
        let new = NewSaga { id, business_key: format!("stay-{id}"), trace };
        let change = start(&stay(), new, &input(), state.now);
        state.sagas.insert(id, (change.saga, vec![change.entry]));
        id
    }

    pub(crate) fn saga(&self, id: Uuid) -> Saga {
        self.state().sagas[&id].0.clone()
    }

    pub(crate) fn passes(&self, seconds: i64) {
        self.state().now += TimeDelta::seconds(seconds);
    }

    /// Returns a worker's answer to a saga's command.
    pub(crate) fn answer(&self, saga: Uuid, step: &str, kind: Kind, outcome: Outcome) -> Reply {
        let execute = id::execute(saga, step, 0, 1);
        let (definition, now) = (stay(), self.state().now);
        let row = self.state().sagas.get(&saga).cloned();
        let saga = row.map_or_else(|| self.somebody(saga), |(saga, _)| saga);
        let at = definition.step(step).unwrap().0;
        let send = CommandToSend {
            kind,
            step: at,
            part: 0,
            generation: 1,
            attempt: 1,
            issued_at: now,
            deadline: now,
        };
        let data = input();
        let input = amends_engine::core::Input { data: &data, personal: None };
        let key = TokenKey::new(KEY);
        let command = amends_engine::core::command(&definition, &saga, &send, input, 1, &key);
        assert_eq!(command.row_key(), execute);
        let mut reply = command.reply(outcome, now);
        reply.sent_at = Some(now);
        if outcome == Outcome::Succeeded && kind != Kind::Compensate {
            reply.exposure = (definition.steps[at].may_hold)(&saga.call(0, input));
        }
        reply
    }

    fn somebody(&self, id: Uuid) -> Saga {
        let new = NewSaga { id, business_key: "gone".to_owned(), trace: None };
        start(&stay(), new, &input(), self.state().now).saga
    }

    /// A worker answers an execute.
    pub(crate) fn answers(&self, saga: Uuid, step: &str, outcome: Outcome) {
        self.delivers(&self.answer(saga, step, Kind::Execute, outcome));
    }

    pub(crate) fn delivers(&self, reply: &Reply) {
        self.state().topic.push(wire::write(reply));
    }

    /// Returns the commands sent since the last call, such as `charge execute`, with their sagas.
    pub(crate) fn sent(&self) -> Vec<(Uuid, String)> {
        let sent = std::mem::take(&mut self.state().sent);
        sent.into_iter().map(|c| (c.saga_id, format!("{} {}", c.step, c.kind.as_str()))).collect()
    }

    /// Returns what happened since the last call.
    pub(crate) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    /// Returns the number of a saga's odd replies for each reason.
    pub(crate) fn odd(&self, saga: Uuid) -> Vec<(OddReason, u32)> {
        let state = self.state();
        let of_saga = state.odd.iter().filter(|((id, _), _)| *id == saga);
        of_saga.map(|((_, reason), (count, _))| (*reason, *count)).collect()
    }
}

fn input() -> Json {
    json!({ "rooms": 1 }).into()
}

impl WorldState {
    /// Another process applies the event.
    pub(crate) fn happens(&mut self, id: Uuid, event: Event) {
        let (saga, entries) = self.sagas.get_mut(&id).unwrap();
        let occurrence = Occurrence { event, at: self.now, jitter: 0 };
        if let Decision::Changed(change) = transition(&stay(), saga, &occurrence) {
            *saga = change.saga;
            entries.push(change.entry);
        }
    }
}

impl Clock for World {
    fn monotonic(&self) -> Duration {
        let state = self.state();
        Duration::from_millis((state.now + state.set_back).timestamp_millis().unsigned_abs())
    }

    async fn sleep(&self, duration: Duration) {
        self.state().now += duration;
    }

    fn jitter(&self) -> u16 {
        0
    }
}

/// Runs a future of this world, in which nothing ever waits.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the world answers at once")
}

/// Reads the source once, so that the owned slots are known and drained.
pub(crate) fn own(world: &World, engine: &TestEngine, partitions: &[i32]) {
    let mut state = world.state();
    let generation = state.assignment.generation + 1;
    state.assignment = Assignment { generation, partitions: partitions.to_vec(), count: 8 };
    drop(state);
    block_on(replies::run_once(engine, &mut world.clone())).unwrap();
}
