//! The lost-commit sentinel of a program, as the adapter of Postgres has it: the first request on a new connection is
//! preceded by a comparison with what was acknowledged.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::{
    executor::SECOND,
    faults::Fault,
    world::{OUTSIDE, Site, WorldState},
};

/// What the store has acknowledged to a program.
#[derive(Debug, Clone, Default)]
pub struct Sentinel {
    /// Number of the failover after which its connections were made.
    connection: u64,
    /// The saga that was written last, by slot.
    newest: BTreeMap<u16, Uuid>,
    /// The newest revision of each.
    revisions: BTreeMap<Uuid, u32>,
}

impl Sentinel {
    /// Creates that of a program that starts after so many failovers.
    pub fn new(connection: u64) -> Self {
        Self { connection, ..Self::default() }
    }

    /// Remembers a saga whose write is acknowledged.
    pub fn acknowledged(&mut self, saga: Uuid, slot: u16, revision: u32) {
        self.newest.insert(slot, saga);
        let known = self.revisions.entry(saga).or_default();
        *known = revision.max(*known);
    }
}

/// A connection on which a request is sent.
pub struct Line {
    process: usize,
    site: Site,
    connection: u64,
    is_new: bool,
    incarnation: u32,
}

impl WorldState {
    /// Returns the connection of a request that is sent now.
    pub fn connect(&self, process: usize, site: Site) -> Line {
        let (connection, from) = (self.store.failovers, &self.processes[process]);
        let is_new = from.sentinel.connection != connection;
        Line { process, site, connection, is_new, incarnation: from.incarnation }
    }

    /// Returns whether a request that arrives on this connection is executed.
    pub fn is_sound(&mut self, line: &Line) -> bool {
        if line.site != Site::Store || line.process == OUTSIDE {
            return true;
        }
        if line.connection != self.store.failovers {
            return false;
        }
        match self.processes[line.process].incarnation == line.incarnation {
            true => self.examine(line.process),
            // The program that would examine it has ended.
            false => !line.is_new,
        }
    }

    /// Compares what the store has with what it has acknowledged to a program, if its connections are new. If commits are
    /// lost, the next epoch begins, unless it has, and the program ends; returns whether it goes on.
    pub(super) fn examine(&mut self, process: usize) -> bool {
        let failovers = self.store.failovers;
        let sentinel = &mut self.processes[process].sentinel;
        if std::mem::replace(&mut sentinel.connection, failovers) == failovers {
            return true;
        }
        let sentinel = sentinel.clone();
        let lacks = |saga: &Uuid| {
            let found = self.store.sagas.get(saga).map_or(0, |stored| stored.saga.revision);
            sentinel.revisions.get(saga).is_some_and(|acknowledged| found < *acknowledged)
        };
        let epoch = self.processes[process].epoch;
        if self.store.epoch >= epoch && !sentinel.newest.values().any(lacks) {
            return true;
        }
        let lost = sentinel.revisions.iter().filter(|(saga, _)| lacks(saga));
        let lost: BTreeMap<Uuid, u32> = lost.map(|(saga, revision)| (*saga, *revision)).collect();
        self.report_lost(process, &lost);
        self.begin_epoch_after(epoch);
        self.end(process);
        false
    }

    /// Begins the epoch after this one, unless a later one has begun. People learn of it, and have what workers replied read
    /// again.
    pub fn begin_epoch_after(&mut self, epoch: u32) {
        if self.store.epoch <= epoch {
            self.begin_epoch(Fault::Failover, epoch + 1);
            self.losses.known.last_mut().into_iter().for_each(|known| *known = true);
            let since = self.losses.since;
            let after = self.plan.draw(Fault::Failover, 10 * SECOND..300 * SECOND);
            let after = after.min(self.heals_at.saturating_sub(self.now));
            self.later(after, move |s| s.reread(since));
        }
    }
}
