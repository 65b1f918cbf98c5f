//! The engine's database: sagas, timelines, orders, idempotency keys, strays, odd replies.

mod commit;
mod port;
mod returns;
mod saved;

pub use port::SimStore;
pub use returns::{AddedSaga, Addition, Wanted};
pub use saved::Saved;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use amends_engine::{
    core::{Change, Entry, Event, Known, NewSaga, Saga},
    port::{
        Committed, Deferral, DeferredId, DeferredReply, DeferredScan, DueScan, Error, Inputs, Loaded,
        OddReason, OddReplies, OddReply, SagaStore, Stray, Write,
    },
};
use amends_protocol::{Json, id, transport::Inbound};
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::{
    executor::{Micros, SECOND},
    faults::Fault,
    world::{Down, Handle, Site, Watchers, WorldState},
};

/// Number of homes: parts of the store that fail by themselves.
pub const HOMES: u16 = 3;

/// A saga as it is stored: entries are text, as in a database.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The row.
    pub saga: Saga,
    /// Time of the last change.
    pub updated_at: DateTime<Utc>,
    /// Revision, time and body of the entries.
    pub entries: Vec<(u32, DateTime<Utc>, String)>,
    /// The input.
    pub data: Json,
    /// The personal fields.
    pub personal: Option<Json>,
}

impl Stored {
    /// Returns the timeline.
    pub fn timeline(&self) -> Vec<Entry> {
        let read = |(revision, at, body): &(u32, DateTime<Utc>, String)| {
            Entry::from_stored(*revision, *at, body).expect("what was written can be read")
        };
        self.entries.iter().map(read).collect()
    }
}

/// The odd replies of a saga for one reason.
#[derive(Debug, Clone)]
pub struct OddNote {
    /// Number of replies.
    pub count: u64,
    /// Time of the first note.
    pub first_at: DateTime<Utc>,
    /// Time of the last note.
    pub last_at: DateTime<Utc>,
    /// The last reply.
    pub last: OddReply,
}

/// The content of the store.
pub struct Store {
    skew: i64,
    /// Number of times its clock was set back.
    pub set_back: u64,
    /// The epoch. Writes are those of programs that were started in it.
    pub epoch: u32,
    /// Number of failovers that lost commits: each ends all connections.
    pub failovers: u64,
    /// When a saga was changed last, in simulated time.
    changed_at: Micros,
    /// Sagas.
    pub sagas: BTreeMap<Uuid, Stored>,
    /// The saga that fulfils each order.
    pub orders: BTreeMap<Uuid, Uuid>,
    /// The returns and refunds of orders.
    pub added: BTreeMap<Uuid, Vec<AddedSaga>>,
    /// The order of each key, and the body of its request.
    pub keys: BTreeMap<String, (Uuid, u64)>,
    /// Successes that no saga ordered.
    pub strays: BTreeMap<(Uuid, Uuid), Json>,
    /// Replies that changed nothing, by saga and reason.
    pub odd: BTreeMap<(Uuid, OddReason), OddNote>,
    /// Replies that could not be judged on arrival, and when they are due.
    pub deferred: BTreeMap<DeferredId, (DateTime<Utc>, DeferredReply)>,
    /// Programs that have announced themselves: when, and what they know.
    pub programs: BTreeMap<Uuid, (Micros, Known)>,
    /// Rows that a forgotten transaction holds, and until when.
    pub held: BTreeMap<Uuid, Micros>,
    /// A home that does not answer, and until when.
    pub away: Option<(u16, Micros)>,
    batches: BTreeMap<u64, Committed>,
    drawn: u64,
    /// Futures that wait for something to become due.
    pub watchers: Watchers,
}

/// A new order.
#[derive(Debug, Clone)]
pub struct NewOrder {
    /// The order's id.
    pub id: Uuid,
    /// The order's saga.
    pub saga: NewSaga,
    /// The idempotency key, and the digest of the body.
    pub key: (String, u64),
    /// The saga's input.
    pub data: Json,
    /// The saga's personal fields.
    pub personal: Json,
}

/// The result of placing an order.
#[derive(Debug, Clone)]
pub enum Placed {
    /// The order is new.
    New(Box<Change>),
    /// The request was repeated.
    Replayed(Uuid),
    /// The key is known, with a different body.
    KeyReused,
}

impl Store {
    /// Creates an empty store, whose clock is off by `skew` microseconds.
    pub fn new(skew: i64) -> Self {
        Self {
            skew,
            set_back: 0,
            epoch: 0,
            failovers: 0,
            changed_at: 0,
            sagas: BTreeMap::new(),
            orders: BTreeMap::new(),
            added: BTreeMap::new(),
            keys: BTreeMap::new(),
            strays: BTreeMap::new(),
            odd: BTreeMap::new(),
            deferred: BTreeMap::new(),
            programs: BTreeMap::new(),
            held: BTreeMap::new(),
            away: None,
            batches: BTreeMap::new(),
            drawn: 0,
            watchers: Watchers::default(),
        }
    }

    /// Sets its clock back by this many microseconds.
    pub fn set_back(&mut self, by: Micros) {
        self.skew -= i64::try_from(by).unwrap_or_default();
        self.set_back += 1;
        self.watchers.wake();
    }

    /// Returns when the next saga is due for a program with this knowledge, in simulated time; sagas of slots that are
    /// not `owned` five seconds later.
    pub fn next_due(&self, known: &Known, owned: impl Fn(u16) -> bool) -> Option<Micros> {
        let due = |stored: &Stored| {
            let saga = &stored.saga;
            if !known.knows(&saga.workflow, saga.workflow_version) {
                return None;
            }
            let at = self.simulated(saga.wake_at.filter(|_| saga.live)?);
            Some(if owned(saga.slot) { at } else { at + 5 * SECOND })
        };
        self.sagas.values().filter_map(due).min()
    }

    /// Returns when the next deferred reply is due for a program with this knowledge, in simulated time; replies of
    /// slots that are not `owned` one second later.
    pub fn next_deferred(&self, known: &Known, owned: impl Fn(u16) -> bool) -> Option<Micros> {
        let covered = self.deferred.values().filter(|(_, reply)| known.covers(&reply.requires));
        let due = covered.map(|(at, reply)| self.simulated(*at) + if owned(reply.slot) { 0 } else { SECOND });
        due.min()
    }

    /// Returns whether a deferred reply is a success from before a loss whose saga has not ended.
    pub fn waits_for_its_end(&self, reply: &DeferredReply) -> bool {
        let saga = self.sagas.get(&reply.saga_id);
        reply.why == Deferral::BeforeRestore && saga.is_some_and(|stored| stored.saga.outcome.is_none())
    }

    /// Converts a time of this database to simulated time.
    pub fn simulated(&self, at: DateTime<Utc>) -> Micros {
        let base = DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default();
        (at - base).num_microseconds().map_or(0, |at| (at - self.skew).max(0)) as Micros
    }

    /// Stores a new saga.
    pub fn create(&mut self, change: &Change, personal: &Json) {
        let entry = &change.entry;
        let data = match &entry.occurrence.event {
            Event::Started(input) => input.clone(),
            _ => Json::null(),
        };
        let stored = Stored {
            saga: change.saga.clone(),
            updated_at: entry.occurrence.at,
            entries: vec![(entry.revision, entry.occurrence.at, entry.body(self.epoch))],
            data,
            personal: Some(personal.clone()).filter(|p| !p.is_null()),
        };
        self.sagas.insert(change.saga.id, stored);
        self.watchers.wake();
    }

    fn inputs(&self, ids: &[Uuid]) -> Vec<Inputs> {
        let of = |id: &Uuid| {
            let stored = self.sagas.get(id)?;
            let (data, personal) = (stored.data.clone(), stored.personal.clone());
            Some(Inputs { saga_id: *id, data, personal })
        };
        ids.iter().filter_map(of).collect()
    }
}

impl WorldState {
    /// Returns the time of the engine's database.
    pub fn store_now(&self) -> DateTime<Utc> {
        self.instant_at(self.store.skew)
    }

    fn load(&mut self, wanted: impl Fn(&Stored) -> bool) -> Loaded {
        let there = self.store.sagas.values().filter(|s| !self.is_away(s.saga.id));
        let sagas = there.filter(|s| wanted(s)).map(|s| s.saga.clone()).collect();
        Loaded { sagas, unreadable: Vec::new(), unreachable: Vec::new(), now: self.store_now() }
    }

    /// Returns whether the home of a saga, or of an order, does not answer.
    fn is_away(&self, id: Uuid) -> bool {
        self.store.away.is_some_and(|(home, until)| until > self.now && id::slot(id) % HOMES == home)
    }

    /// Returns the error of a call that needs every home.
    fn all_are_there(&self) -> Result<(), Error> {
        match self.store.away {
            Some((_, until)) if until > self.now => Err(Error::Unavailable("a home is away".to_owned())),
            _ => Ok(()),
        }
    }

    fn is_held(&self, saga: Uuid) -> bool {
        self.store.held.get(&saga).is_some_and(|until| *until > self.now)
    }

    fn due(&mut self, scan: &DueScan) -> Loaded {
        let now = self.store_now();
        let until = now - TimeDelta::from_std(scan.overdue).unwrap_or_default();
        let slots: BTreeSet<u16> = scan.slots.iter().copied().collect();
        let mut loaded = self.load(|stored| {
            let saga = &stored.saga;
            let due = |at| at <= until && scan.not_before.is_none_or(|from| at >= from);
            saga.live
                && saga.wake_at.is_some_and(due)
                && slots.contains(&saga.slot)
                && scan.share.has(&saga.step)
                && scan.known.knows(&saga.workflow, saga.workflow_version)
                && !scan.passed_over.contains(&saga.id)
        });
        loaded.sagas.sort_by_key(|s| (s.wake_at, s.id));
        loaded.sagas.truncate(scan.limit as usize);
        loaded
    }

    fn note_odd(&mut self, odd: Vec<OddReplies>) {
        let now = self.store_now();
        for OddReplies { saga_id, reason, count, last } in odd {
            if !self.store.sagas.contains_key(&saga_id) || self.is_away(saga_id) {
                continue;
            }
            *self.coverage.odd.entry(reason.as_str()).or_default() += u64::from(count);
            let new = OddNote { count: 0, first_at: now, last_at: now, last: last.clone() };
            let note = self.store.odd.entry((saga_id, reason)).or_insert(new);
            note.count += u64::from(count);
            (note.last_at, note.last) = (now, last);
        }
    }

    /// Returns the error of a write by a program that was started in another epoch.
    fn is_epoch(&self, epoch: u32) -> Result<(), Error> {
        if epoch == self.store.epoch {
            return Ok(());
        }
        Err(Error::OtherEpoch(format!("its epoch is {}, the program's {epoch}", self.store.epoch)))
    }

    /// Places orders in one transaction.
    fn place(
        &mut self,
        epoch: u32,
        orders: &[NewOrder],
        birth: impl Fn(&NewOrder, DateTime<Utc>) -> Change,
    ) -> Result<Vec<Placed>, Error> {
        if orders.iter().any(|order| self.is_away(order.id)) {
            return Err(Error::Unavailable("its home is away".to_owned()));
        }
        self.is_epoch(epoch)?;
        let now = self.store_now();
        self.store.changed_at = self.now;
        let mut placed = Vec::new();
        for order in orders {
            let (key, body) = &order.key;
            if let Some((known, same)) = self.store.keys.get(key) {
                placed.push(if same == body { Placed::Replayed(*known) } else { Placed::KeyReused });
                continue;
            }
            let change = birth(order, now);
            self.store.create(&change, &order.personal);
            self.store.keys.insert(key.clone(), (order.id, *body));
            self.store.orders.insert(order.id, order.saga.id);
            placed.push(Placed::New(Box::new(change)));
        }
        Ok(placed)
    }
}

/// Returns the beginning of an id, for people.
pub fn short(id: Uuid) -> String {
    id.simple().to_string()[24..].to_owned()
}
