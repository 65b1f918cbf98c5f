//! The broker: topics, partitions, consumer groups. Delivery is at least once, and nothing may rely on its order.

mod source;

pub use source::SimSource;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::poll_fn,
    task::Poll,
    time::Duration,
};

use amends_protocol::{
    Json, Kind, Outcome, SLOTS,
    transport::{Assignment, Batch, Error, Inbound, Outbound, Placement, Sink, Source},
    wire,
};
use rand::RngExt;

use crate::{
    executor::{Event, Micros, OneShot, SECOND, Schedule},
    faults::Fault,
    world::{Handle, Site, Watchers, WorldState},
};

/// The topics that workers and engines read. Each has one consumer group.
pub const TOPICS: [&str; 4] = ["inventory.commands", "payment.commands", "shipment.commands", "saga.replies"];
/// Index of the topic of replies.
pub const REPLIES: usize = 3;
/// Number of partitions of a topic.
pub const PARTITIONS: usize = 4;
/// A consumer that is silent for this long is replaced.
const SESSION: Micros = 6 * SECOND;
/// JSON that a reply may contain and the simulated store refuses.
pub const UNSTORABLE: &str = "1e999999";

/// A message in a partition.
#[derive(Debug, Clone)]
pub struct Record {
    /// The content.
    pub bytes: Vec<u8>,
    landed_at: Micros,
    traceparent: Option<String>,
    forgotten: bool,
    /// Whether it must, or may, become a dead letter.
    pub poison: Option<Poison>,
}

impl Record {
    /// Returns the trace context that it carries.
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }
}

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poison {
    /// Every reader dead-letters it.
    Unreadable,
    /// It is dead-lettered if it would change anything.
    Unstorable,
}

/// A topic that cannot be produced to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unusable {
    /// When it can be again.
    pub until: Micros,
    /// How long a send to it takes to fail.
    pub answers_after: Micros,
}

/// The readers of a topic.
#[derive(Default)]
struct Group {
    members: Vec<(u64, usize)>,
    generation: u64,
    committed: [usize; PARTITIONS],
    waiting: Watchers,
}

impl Group {
    fn rebalance(&mut self) {
        self.generation += 1;
        self.members.sort_unstable();
        self.waiting.wake();
    }

    fn assigned(&self, member: u64) -> Vec<i32> {
        let Some(at) = self.members.iter().position(|(m, _)| *m == member) else { return Vec::new() };
        let shift = self.generation as usize;
        let mine = |p: &usize| (p + shift) % self.members.len() == at;
        (0..PARTITIONS).filter(mine).map(|p| p as i32).collect()
    }
}

/// The broker.
#[derive(Default)]
pub struct Bus {
    partitions: [[Vec<Record>; PARTITIONS]; 4],
    groups: [Group; 4],
    together: [usize; 4],
    members: u64,
    removed: BTreeSet<u64>,
    /// By topic.
    pub unusable: [Unusable; 4],
    /// Dead letters: topic, partition, offset, reason.
    pub dead: Vec<(usize, usize, usize, String)>,
}

impl Bus {
    /// Creates a broker without messages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Removes the consumers of a process; the broker notices after some time.
    pub fn lose(&mut self, process: usize, schedule: &mut Schedule, now: Micros) {
        for group in 0..self.groups.len() {
            for (member, _) in self.groups[group].members.iter().filter(|(_, p)| *p == process) {
                let member = *member;
                let remove = move |s: &mut WorldState| s.bus.remove(group, member);
                schedule.push(now + SESSION, Event::Do(Box::new(remove)));
            }
        }
    }

    /// Makes a process silent for a while; if that is long, its partitions go to others.
    pub fn silent(&mut self, process: usize, length: Micros, schedule: &mut Schedule, now: Micros) {
        if length > SESSION {
            self.lose(process, schedule, now);
        }
    }

    fn remove(&mut self, group: usize, member: u64) {
        let group = &mut self.groups[group];
        let before = group.members.len();
        group.members.retain(|(m, _)| *m != member);
        if group.members.len() != before {
            group.rebalance();
            self.removed.insert(member);
        }
    }

    /// Loses the messages that have not been consumed, or whose consumption was not committed.
    pub fn forget(&mut self, topic: usize) -> usize {
        let mut forgotten = 0;
        for (partition, records) in self.partitions[topic].iter_mut().enumerate() {
            for record in &mut records[self.groups[topic].committed[partition]..] {
                record.forgotten = true;
                forgotten += 1;
            }
        }
        forgotten
    }

    /// Moves a topic's consumers this many messages back.
    pub fn replay(&mut self, topic: usize, back: usize) {
        let group = &mut self.groups[topic];
        group.committed.iter_mut().for_each(|at| *at = at.saturating_sub(back));
        group.rebalance();
    }

    /// Has a topic's consumers begin again with what has landed since a moment, as `--reset-offsets --to-datetime`.
    pub fn reread(&mut self, topic: usize, since: Micros) {
        let group = &mut self.groups[topic];
        for (partition, committed) in group.committed.iter_mut().enumerate() {
            *committed = self.partitions[topic][partition].partition_point(|record| record.landed_at < since);
        }
        group.rebalance();
    }

    /// Moves partitions between the members of a group.
    pub fn rebalance(&mut self, topic: usize) {
        self.groups[topic].rebalance();
    }

    /// Iterates over all messages, with topic, partition, offset, and whether they have been consumed.
    pub fn records(&self) -> impl Iterator<Item = (usize, usize, usize, &Record, bool)> {
        self.partitions.iter().enumerate().flat_map(move |(t, partitions)| {
            partitions.iter().enumerate().flat_map(move |(p, records)| {
                let committed = self.groups[t].committed[p];
                let consumed = move |(o, r): (usize, &'_ Record)| o < committed && !r.forgotten;
                records.iter().enumerate().map(move |(o, r)| (t, p, o, r, consumed((o, r))))
            })
        })
    }

    /// Returns the message at an offset.
    pub fn at(&self, topic: usize, partition: usize, offset: usize) -> Option<&Record> {
        self.partitions[topic][partition].get(offset)
    }
}

impl WorldState {
    /// Handles a message that arrives at the broker.
    pub fn land(&mut self, topic: usize, partition: usize, mut bytes: Vec<u8>, traceparent: Option<String>) {
        let mut poison = None;
        if topic == REPLIES && self.strikes(Fault::Unstorable, 0.004) {
            if let Ok(mut reply) = wire::reply(&bytes)
                && reply.outcome != Outcome::InFlight
            {
                reply.result = serde_json::from_str::<Json>(UNSTORABLE).ok();
                bytes = wire::write(&reply);
                poison = Some(Poison::Unstorable);
            }
        } else if topic == REPLIES && self.strikes(Fault::Forged, 0.004) {
            if let Ok(mut reply) = wire::reply(&bytes) {
                reply.reply_token = "00112233445566778899aabbccddeeff".to_owned();
                reply.outcome = Outcome::Succeeded;
                self.append(topic, partition, wire::write(&reply), None, Some(Poison::Unreadable));
            }
        } else if topic == REPLIES && self.strikes(Fault::Echo, 0.004) {
            if let Ok(mut reply) = wire::reply(&bytes) {
                match self.plan.draw(Fault::Echo, 0..7) {
                    0 => reply.step = if reply.step == "pay" { "ship" } else { "pay" }.to_owned(),
                    1 => reply.part += 1,
                    2 => reply.generation += 1,
                    3 => reply.slot = (reply.slot + 1) % SLOTS,
                    4 => reply.workflow += "_of_others",
                    5 => reply.epoch += 1_000_000_000,
                    _ => reply.workflow_version += 1,
                }
                reply.outcome = Outcome::Refused;
                self.append(topic, partition, wire::write(&reply), None, Some(Poison::Unreadable));
            }
        } else if topic == REPLIES && self.strikes(Fault::Unnetted, 0.02) {
            if let Ok(mut reply) = wire::reply(&bytes)
                && reply.kind == Kind::Compensate
            {
                reply.exposure.clear();
                bytes = wire::write(&reply);
            }
        } else if topic != REPLIES
            && self.strikes(Fault::Unsupported, 0.01)
            && let Ok(mut command) = wire::command(&bytes)
        {
            command.schema_version += 1;
            bytes = wire::write(&command);
        }
        self.append(topic, partition, bytes, traceparent, poison);
    }

    /// Appends a message.
    pub fn append(
        &mut self,
        topic: usize,
        partition: usize,
        bytes: Vec<u8>,
        traceparent: Option<String>,
        poison: Option<Poison>,
    ) {
        let landed_at = self.now;
        let record = Record { bytes, landed_at, traceparent, forgotten: false, poison };
        self.bus.partitions[topic][partition].push(record);
        self.bus.groups[topic].waiting.wake();
    }

    fn send(&mut self, process: usize, messages: Vec<Outbound>) -> Result<Micros, Micros> {
        if self.unreachable(process, Site::Broker).is_some() {
            return Err(5 * SECOND);
        }
        for message in &messages {
            let topic = TOPICS.iter().position(|topic| *topic == message.topic);
            let unusable = topic.map(|topic| self.bus.unusable[topic]).unwrap_or_default();
            if unusable.until > self.now {
                return Err(unusable.answers_after);
            }
        }
        let mut sent = messages.len();
        let mut acknowledged = true;
        if self.strikes(Fault::Loss, 0.01) {
            (sent, acknowledged) = (self.plan.draw(Fault::Loss, 0..sent as u64 + 1) as usize, false);
            self.note(process, || {
                format!("{sent} of {} messages are sent, and no answer comes", messages.len())
            });
        }
        if self.strikes(Fault::CrashAtPort, 0.002) {
            sent = self.plan.draw(Fault::CrashAtPort, 0..sent as u64 + 1) as usize;
            let down = self.plan.draw(Fault::CrashAtPort, 0..30 * SECOND);
            self.note(process, || format!("dies sending: {sent} of {} are sent", messages.len()));
            self.crash(process, down);
        }
        let mut together = [None; 4];
        for message in messages.into_iter().take(sent) {
            let Some(topic) = TOPICS.iter().position(|t| *t == message.topic) else { continue };
            let partition = match message.placement {
                Placement::Slot(slot) => usize::from(slot) % PARTITIONS,
                Placement::Together => *together[topic].get_or_insert_with(|| {
                    self.bus.together[topic] += 1;
                    self.bus.together[topic] % PARTITIONS
                }),
            };
            let mut copies = vec![self.rng.random_range(500..3_000)];
            if self.strikes(Fault::Duplicate, 0.03) {
                copies.push(self.plan.draw(Fault::Duplicate, 1_000..90 * SECOND));
            }
            for mut delay in copies {
                if self.strikes(Fault::Delay, 0.02) {
                    delay += self.plan.draw(Fault::Delay, 100_000..120 * SECOND);
                } else if self.strikes(Fault::Reorder, 0.1) {
                    delay += self.plan.draw(Fault::Reorder, 1_000..200_000);
                }
                let (bytes, traceparent) = (message.bytes.clone(), message.traceparent.clone());
                self.later(delay, move |s| s.land(topic, partition, bytes, traceparent));
            }
        }
        let answer = self.rng.random_range(1_000..6_000);
        if acknowledged { Ok(answer) } else { Err(answer + SECOND) }
    }
}

/// The port for sending.
#[derive(Clone)]
pub struct SimSink(pub Handle);

impl Sink for SimSink {
    async fn send(&self, messages: Vec<Outbound>) -> Result<(), Error> {
        let answer = OneShot::default();
        {
            let mut state = self.0.state();
            let filled = answer.clone();
            let (after, result) = match state.send(self.0.process, messages) {
                Ok(after) => (after, Ok(())),
                Err(after) => (after, Err(Error("no answer".to_owned()))),
            };
            state.later(after, move |_| filled.fill(result));
        }
        answer.await
    }

    async fn dead_letter(&self, message: &Inbound, reason: &str) -> Result<(), Error> {
        let Some(topic) = TOPICS.iter().position(|t| *t == message.topic) else { return Ok(()) };
        let (partition, offset) = (message.partition as usize, message.offset as usize);
        let (reason, process) = (reason.to_owned(), self.0.process);
        let put = move |s: &mut WorldState| {
            s.note(process, || format!("dead letter {}/{partition}/{offset}: {reason}", TOPICS[topic]));
            s.bus.dead.push((topic, partition, offset, reason));
        };
        self.0
            .ask(Site::Broker, Some(Fault::Loss), "dead_letter", put)
            .await
            .map_err(|_| Error("no answer".to_owned()))
    }
}
