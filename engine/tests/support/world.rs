//! The engine's ports in memory, each able to fail, and a log of what happened in which order.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use amends_engine::core::{
    Catalog, CommandToSend, Decision, Entry, Event, Known, NewSaga, Occurrence, Requires, Saga, start,
    transition,
};
use amends_engine::port::{
    self, Clock, Committed, DeferredId, DeferredReply, DeferredScan, DueScan, FailedPart, Inputs, Loaded,
    OddReason, OddReplies, OddReply, SagaStore, Stray, Unreadable, Write,
};
use amends_engine::runtime::{Engine, News, Ownership, RepeatBudget};
use amends_protocol::trace::TraceContext;
use amends_protocol::transport::{self, Assignment, Batch, Inbound, Outbound, Sink, Source};
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

    fn loaded(&self, wanted: impl Fn(&Saga) -> bool) -> Loaded {
        let mut state = self.state();
        let newer = &state.newer;
        let (unreadable, sagas): (Vec<Saga>, Vec<Saga>) = (state.sagas.values())
            .map(|(saga, _)| saga.clone())
            .filter(|saga| wanted(saga))
            .partition(|saga| newer.contains(&saga.id));
        let unreadable = unreadable.iter().map(|saga| Unreadable {
            saga_id: saga.id,
            slot: saga.slot,
            requires: Requires { core_version: 99, ..Requires::of(saga) },
        });
        let unreadable = unreadable.collect();
        let now = state.now;
        state.now = now + state.reading_takes;
        Loaded { sagas, unreadable, unreachable: Vec::new(), now }
    }
}

fn input() -> Json {
    json!({ "rooms": 1 }).into()
}

impl WorldState {
    fn part(&self, slot: u16) -> u16 {
        slot % self.parts.max(1)
    }

    fn fails(&mut self) -> Result<(), port::Error> {
        self.store_fails.pop_front().map_or(Ok(()), Err)
    }

    fn write_part(&mut self, writes: &[&Write], committed: &mut Committed) {
        for write in writes {
            if self.locked.contains(&write.saga.id) {
                committed.locked.push(write.saga.id);
                continue;
            }
            let (saga, entries) = self.sagas.get_mut(&write.saga.id).unwrap();
            if saga.revision == write.read_revision {
                *saga = write.saga.clone();
                entries.extend(write.entries.clone());
                let data = if write.wants.data { input() } else { Json::null() };
                committed.written.push(Inputs { saga_id: write.saga.id, data, personal: None });
            }
        }
    }

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

impl SagaStore for World {
    async fn now(&self) -> Result<DateTime<Utc>, port::Error> {
        // The time is usually known without a query.
        Ok(self.state().now)
    }

    async fn epoch(&self) -> Result<u32, port::Error> {
        self.state().fails()?;
        self.state().log.push("epoch".to_owned());
        Ok(self.state().epoch)
    }

    async fn load(&self, ids: &[Uuid]) -> Result<Loaded, port::Error> {
        self.state().fails()?;
        self.state().reads.extend(ids);
        let (away, asked): (Vec<Uuid>, Vec<Uuid>) = {
            let state = self.state();
            ids.iter().partition(|id| state.away.contains(&state.part(id::slot(**id))))
        };
        Ok(Loaded { unreachable: away, ..self.loaded(|s| asked.contains(&s.id)) })
    }

    async fn due(&self, scan: &DueScan) -> Result<Loaded, port::Error> {
        self.state().fails()?;
        self.state().scans.push(scan.clone());
        let until = self.state().now - TimeDelta::from_std(scan.overdue).unwrap();
        let mut loaded = self.loaded(|s| {
            s.live
                && scan.slots.contains(&s.slot)
                && scan.share.has(&s.step)
                && scan.known.knows(&s.workflow, s.workflow_version)
                && !scan.passed_over.contains(&s.id)
                && s.wake_at.is_some_and(|at| at <= until && scan.not_before.is_none_or(|from| at >= from))
        });
        loaded.unreadable.clear();
        loaded.sagas.sort_by_key(|s| s.wake_at);
        loaded.sagas.truncate(scan.limit as usize);
        Ok(loaded)
    }

    async fn sleeping_beyond(
        &self,
        slots: &[u16],
        beyond: Duration,
        after: Option<(DateTime<Utc>, Uuid)>,
        limit: u32,
    ) -> Result<Loaded, port::Error> {
        self.state().fails()?;
        let from = self.state().now + beyond;
        let above = |s: &Saga| s.wake_at.is_some_and(|at| at > from && after.is_none_or(|a| (at, s.id) > a));
        let mut loaded = self.loaded(|s| s.live && slots.contains(&s.slot) && above(s));
        loaded.sagas.sort_by_key(|s| (s.wake_at, s.id));
        loaded.sagas.truncate(limit as usize);
        Ok(loaded)
    }

    async fn in_flight(
        &self,
        slots: &[u16],
        _: Duration,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Loaded, port::Error> {
        self.state().fails()?;
        let mut loaded =
            self.loaded(|s| s.live && slots.contains(&s.slot) && after.is_none_or(|after| s.id > after));
        loaded.sagas.truncate(limit as usize);
        Ok(loaded)
    }

    async fn commit(&self, writes: &[Write]) -> Result<Committed, port::Error> {
        let mut state = self.state();
        state.fails()?;
        if let Some((saga, event)) = state.rivals.pop_front() {
            state.happens(saga, event);
        }
        let poison = state.poison.clone();
        let bad = |w: &Write| {
            let poisoned = |e: &Entry| matches!(e.occurrence.event, Event::Poisoned(_));
            let unstorable = |e: &Entry| matches!(&e.occurrence.event, Event::Replied(r) if r.reason.as_ref().is_some_and(|r| r.code == "unstorable"));
            w.entries.iter().any(unstorable)
                || (poison.contains(&w.saga.id) && !w.entries.iter().all(poisoned))
        };
        let mut parts: BTreeMap<u16, Vec<&Write>> = BTreeMap::new();
        writes.iter().for_each(|write| parts.entry(state.part(write.saga.slot)).or_default().push(write));
        let mut committed = Committed::default();
        for (part, writes) in parts {
            let error = match writes.iter().find(|write| bad(write)) {
                _ if state.away.contains(&part) => Some(port::Error::Unavailable(format!("{part} is away"))),
                Some(write) => Some(port::Error::Data(format!("{} is bad", write.saga.id))),
                None => None,
            };
            match error {
                None => state.write_part(&writes, &mut committed),
                Some(error) => {
                    let sagas = writes.iter().map(|write| write.saga.id).collect();
                    committed.failed.push(FailedPart { sagas, error });
                }
            }
        }
        if !committed.written.is_empty() {
            state.log.push(format!("commit {}", committed.written.len()));
        }
        match state.goes_after_commits.take() {
            Some((1, part)) => _ = state.away.insert(part),
            Some((more, part)) => state.goes_after_commits = Some((more - 1, part)),
            None => {}
        }
        match committed.failed.pop() {
            Some(failed) if state.parts <= 1 => Err(failed.error),
            failed => {
                committed.failed.extend(failed);
                Ok(committed)
            }
        }
    }

    async fn reschedule(
        &self,
        sagas: &[(Uuid, u32, Option<DateTime<Utc>>)],
    ) -> Result<Vec<Uuid>, port::Error> {
        let mut state = self.state();
        let locked: Vec<Uuid> =
            sagas.iter().map(|(id, ..)| *id).filter(|id| state.locked.contains(id)).collect();
        for (id, revision, at) in sagas.iter().filter(|(id, ..)| !locked.contains(id)) {
            if let Some((saga, _)) = state.sagas.get_mut(id).filter(|(s, _)| s.revision == *revision) {
                saga.wake_at = *at;
            }
        }
        Ok(locked)
    }

    async fn inputs(&self, ids: &[Uuid]) -> Result<Vec<Inputs>, port::Error> {
        Ok(ids.iter().map(|&saga_id| Inputs { saga_id, data: input(), personal: None }).collect())
    }

    async fn keep_strays(&self, strays: &[Stray]) -> Result<(), port::Error> {
        self.state().strays.extend_from_slice(strays);
        Ok(())
    }

    async fn note_odd(&self, odd: &[OddReplies]) -> Result<(), port::Error> {
        let mut state = self.state();
        state.note_fails.pop_front().map_or(Ok(()), Err)?;
        for OddReplies { saga_id, reason, count, last } in odd {
            if state.sagas.contains_key(saga_id) {
                let noted = state.odd.entry((*saga_id, *reason)).or_insert((0, last.clone()));
                *noted = (noted.0 + count, last.clone());
            }
        }
        state.log.push(format!("note {}", odd.len()));
        Ok(())
    }

    async fn defer(&self, replies: &[DeferredReply]) -> Result<(), port::Error> {
        let mut state = self.state();
        state.defer_fails.pop_front().map_or(Ok(()), Err)?;
        for reply in replies {
            let due_at = state.now + reply.rest;
            state.deferred.insert(reply.id(), (due_at, reply.clone()));
        }
        state.log.push(format!("defer {}", replies.len()));
        Ok(())
    }

    async fn deferred(&self, scan: &DeferredScan) -> Result<Vec<(DeferredId, Inbound)>, port::Error> {
        let state = self.state();
        let due = |(due_at, reply): &(DateTime<Utc>, DeferredReply)| {
            let wait = if scan.slots.contains(&reply.slot) { Duration::ZERO } else { scan.abroad };
            *due_at + wait <= state.now && scan.known.covers(&reply.requires)
        };
        let found = state.deferred.iter().filter(|(_, reply)| due(reply)).take(scan.limit as usize);
        Ok(found.map(|(id, (_, reply))| (*id, reply.message.clone())).collect())
    }

    async fn forget_deferred(&self, ids: &[DeferredId]) -> Result<(), port::Error> {
        let mut state = self.state();
        ids.iter().for_each(|id| _ = state.deferred.remove(id));
        state.log.push(format!("forget {}", ids.len()));
        Ok(())
    }

    async fn announce(
        &self,
        program: Uuid,
        known: &Known,
        live: Duration,
    ) -> Result<Vec<Known>, port::Error> {
        let mut state = self.state();
        state.fails()?;
        let now = state.now;
        state.programs.insert(program, (now, known.clone()));
        let others = state.programs.iter().filter(|(id, (at, _))| **id != program && *at + live > now);
        Ok(others.map(|(_, (_, known))| known.clone()).collect())
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

impl Sink for World {
    async fn send(&self, messages: Vec<Outbound>) -> Result<(), transport::Error> {
        if std::mem::take(&mut self.state().dies_before_send) {
            std::future::pending::<()>().await;
        }
        let mut state = self.state();
        if state.send_fails > 0 {
            state.send_fails -= 1;
            return Err(transport::Error("the broker is away".to_owned()));
        }
        state.log.push(format!("send {}", messages.len()));
        state.sent.extend(messages.iter().map(|m| wire::command(&m.bytes).unwrap()));
        state.traceparents.extend(messages.into_iter().filter_map(|m| m.traceparent));
        Ok(())
    }

    async fn dead_letter(&self, message: &Inbound, reason: &str) -> Result<(), transport::Error> {
        self.state().dead.push((message.offset, reason.to_owned()));
        Ok(())
    }
}

impl Source for World {
    async fn receive(&mut self, max: usize, _: Duration) -> Result<Batch, transport::Error> {
        let mut state = self.state();
        let from = state.read_to;
        let messages: Vec<Inbound> = state.topic[from..]
            .iter()
            .take(max)
            .zip(from..)
            .map(|(bytes, at)| Inbound {
                topic: "saga.replies".to_owned(),
                partition: 0,
                offset: at as i64,
                traceparent: state.replies_trace.clone(),
                signature: None,
                bytes: bytes.clone(),
            })
            .collect();
        state.read_to += messages.len();
        Ok(Batch { receipt: state.read_to as u64, messages })
    }

    fn commit(&mut self, receipt: u64) -> Result<(), transport::Error> {
        let mut state = self.state();
        state.settled_to = receipt as usize;
        state.log.push("offsets".to_owned());
        Ok(())
    }

    fn rewind(&mut self) -> Result<(), transport::Error> {
        let mut state = self.state();
        state.read_to = state.settled_to;
        state.log.push("rewind".to_owned());
        Ok(())
    }

    fn assignment(&self) -> Assignment {
        self.state().assignment.clone()
    }
}

/// Runs a future of this world, in which nothing ever waits.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the world answers at once")
}
