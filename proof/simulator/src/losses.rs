//! The engine's database goes back to an earlier moment: it is restored, or fails over to a standby that lagged. Workers,
//! gateways and topics stay as they are.

mod sentinel;

pub use sentinel::Sentinel;

use std::collections::{BTreeMap, BTreeSet};

use amends_engine::core::Entry;
use uuid::Uuid;

use crate::{
    bus::REPLIES,
    executor::{Micros, SECOND},
    faults::Fault,
    processes::definition,
    store::{Saved, short},
    world::{OUTSIDE, PROGRAMS, WorldState},
};

/// A seed has at most so many restores, and so many failovers.
const MOST: u64 = 3;
/// Replies are read again from this long before the newest change: engines may have lagged.
const READ_AGAIN: Micros = 3600 * SECOND;
/// Seconds from 2020 to the beginning of a run.
const SINCE_2020: u32 = 189_388_800;
/// A program announces itself at this interval, and so notices a new epoch.
const HEARTBEAT: Micros = 2 * SECOND;

/// What the engine's database has lost.
#[derive(Default)]
pub struct Losses {
    /// The moments to which it will go back, by number.
    backups: BTreeMap<u64, Saved>,
    /// From when on replies are read again after the newest loss.
    since: Micros,
    /// Every loss: whether anybody knows of it.
    pub known: Vec<bool>,
    /// Orders that were there before a loss, and not after it.
    pub orders: BTreeSet<Uuid>,
    /// Idempotency keys that were forgotten.
    pub keys: BTreeSet<String>,
    /// Entries that were lost, with those of lost sagas.
    pub entries: Vec<LostEntry>,
    /// Commands that were lost with the entries that issued them, by key.
    pub commands: BTreeMap<Uuid, LostCommand>,
}

/// An entry of a timeline that was lost.
#[derive(Debug, Clone)]
pub struct LostEntry {
    /// Index of the loss.
    pub loss: usize,
    /// The saga.
    pub saga: Uuid,
    /// The saga's workflow.
    pub workflow: String,
    /// The entry.
    pub entry: Entry,
}

/// A command that was lost.
#[derive(Debug, Clone)]
pub struct LostCommand {
    /// Index of the loss.
    pub loss: usize,
    /// The saga.
    pub saga: Uuid,
    /// The step.
    pub step: &'static str,
}

impl Losses {
    /// Returns the lost entries of a saga.
    pub fn of(&self, saga: Uuid) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |lost| lost.saga == saga).map(|lost| &lost.entry)
    }

    /// Returns whether anything was ever lost.
    pub fn any(&self) -> bool {
        !self.known.is_empty()
    }
}

/// Schedules restores and failovers.
pub fn schedule(state: &mut WorldState) {
    let mut number = 0;
    for (fault, usual) in [(Fault::Restore, 1.0), (Fault::Failover, 1.5)] {
        let rate = state.plan.rate(fault);
        if rate == 0.0 {
            continue;
        }
        let count = state.plan.draw(fault, 0..(usual * 2.0 * rate).ceil() as u64 + 1).min(MOST);
        for _ in 0..count {
            let longest = match fault {
                Fault::Restore => {
                    [10 * SECOND, 60 * SECOND, 900 * SECOND][state.plan.draw(fault, 0..3) as usize]
                }
                _ => [SECOND / 10, SECOND, 20 * SECOND][state.plan.draw(fault, 0..3) as usize],
            };
            let at = state.plan.draw(fault, 60 * SECOND..state.heals_at - 60 * SECOND);
            let back = state.plan.draw(fault, SECOND / 100..longest + 1).min(at);
            number += 1;
            let backup = number;
            state.later(at - back, move |s| {
                let saved = s.store.saved(s.now);
                s.losses.backups.insert(backup, saved);
            });
            state.later(at, move |s| match fault {
                Fault::Restore => s.restore(backup),
                _ => s.fail_over(backup),
            });
        }
    }
}

impl WorldState {
    /// An operator stops the programs, restores the database and begins the next epoch, has the engines read again what
    /// workers have replied since, and starts them. Sometimes a program is overlooked.
    fn restore(&mut self, backup: u64) {
        let fault = Fault::Restore;
        self.plan.struck[fault as usize] += 1;
        let down = self.plan.draw(fault, SECOND..60 * SECOND);
        for program in 0..PROGRAMS {
            if self.plan.draw(fault, 0..5) > 0 {
                self.crash(program, down);
            }
        }
        self.go_back(backup, "is restored to what it was");
        if let Some(known) = self.losses.known.last_mut() {
            *known = true;
        }
        // As `amends restore` numbers it: not by what the database contains, which may have forgotten an epoch.
        let seconds = u32::try_from(self.now / SECOND).unwrap_or_default();
        self.begin_epoch(fault, (self.store.epoch + 1).max(SINCE_2020 + seconds));
        self.reread(self.losses.since);
    }

    /// All connections end. Programs notice by themselves what is gone.
    fn fail_over(&mut self, backup: u64) {
        let fault = Fault::Failover;
        self.plan.struck[fault as usize] += 1;
        self.go_back(backup, "fails over to a standby that has only what was there");
        self.store.failovers += 1;
        for program in 0..PROGRAMS {
            let after = self.plan.draw(fault, 0..HEARTBEAT);
            self.beat_later(program, after);
        }
    }

    /// Brings back a saved moment, and records what is lost by that.
    fn go_back(&mut self, backup: u64, how: &str) {
        let Some(saved) = self.losses.backups.remove(&backup) else { return };
        let ago = (self.now - saved.at) as f64 / 1e6;
        self.note(OUTSIDE, || format!("the engine's database {how} {ago:.3} s ago"));
        let loss = self.losses.known.len();
        self.losses.known.push(false);
        self.losses.since = saved.changed_at.saturating_sub(READ_AGAIN);
        for stored in self.store.sagas.values() {
            let saga = stored.saga.id;
            let kept = saved.sagas.get(&saga);
            let workflow = &stored.saga.workflow;
            let lost = stored.timeline().into_iter().skip(kept.map_or(0, |kept| kept.entries.len()));
            let lost = lost.map(|entry| LostEntry { loss, saga, workflow: workflow.clone(), entry });
            self.losses.entries.extend(lost);
            let Some(definition) = definition(&stored.saga) else { continue };
            let known = kept.map_or(0, |kept| kept.saga.state.commands.len());
            for command in stored.saga.state.commands.iter().skip(known) {
                let step = definition.steps[command.step].name;
                self.losses.commands.insert(command.id(saga, &definition), LostCommand { loss, saga, step });
            }
        }
        let gone = self.store.orders.iter().filter(|(_, saga)| !saved.sagas.contains_key(saga));
        self.losses.orders.extend(gone.map(|(order, _)| *order));
        let forgotten = self.store.keys.keys().filter(|key| !saved.keys.contains_key(*key));
        self.losses.keys.extend(forgotten.cloned());
        // What is lost cannot be brought back by another restore.
        for later in self.losses.backups.values_mut().filter(|later| later.at > saved.at) {
            *later = saved.clone();
        }
        self.store.bring_back(saved);
    }

    /// Begins the next epoch. Programs of the epoch before notice it at their next heartbeat, and end.
    fn begin_epoch(&mut self, fault: Fault, epoch: u32) {
        self.store.epoch = epoch;
        self.note(OUTSIDE, || format!("epoch {epoch} begins"));
        for program in 0..PROGRAMS {
            let after = self.plan.draw(fault, 0..HEARTBEAT);
            self.beat_later(program, after);
        }
    }

    fn beat_later(&mut self, program: usize, after: Micros) {
        let incarnation = self.processes[program].incarnation;
        self.later(after, move |s| s.beat(program, incarnation));
    }

    /// A program announces itself: it examines a new connection, and ends if it was started in another epoch.
    fn beat(&mut self, program: usize, incarnation: u32) {
        let process = &self.processes[program];
        if !process.alive || process.incarnation != incarnation {
            return;
        }
        if process.frozen || self.unreachable(program, crate::world::Site::Store).is_some() {
            return self.beat_later(program, HEARTBEAT);
        }
        if self.examine(program) && self.processes[program].epoch != self.store.epoch {
            self.note(program, || "was started in another epoch, and ends".to_owned());
            self.end(program);
        }
    }

    /// Ends a program; its supervisor starts it again.
    fn end(&mut self, program: usize) {
        let down = self.plan.draw(Fault::Failover, 100_000..10 * SECOND);
        self.crash(program, down);
    }

    /// The operator has the engines read again what workers have replied since a moment. The engines are stopped for that,
    /// once those of another epoch have ended.
    fn reread(&mut self, since: Micros) {
        let engines = 0..2;
        let is_old = |p: usize| self.processes[p].alive && self.processes[p].epoch != self.store.epoch;
        if engines.clone().any(is_old) {
            return self.later(SECOND, move |s| s.reread(since));
        }
        self.note(OUTSIDE, || format!("replies since {:.3} s are read again", since as f64 / 1e6));
        engines.for_each(|engine| self.crash(engine, SECOND));
        self.bus.reread(REPLIES, since);
    }

    /// Tells people what a program has found to be lost.
    fn report_lost(&mut self, program: usize, lost: &BTreeMap<Uuid, u32>) {
        self.note(program, || {
            let lost: Vec<String> = lost.iter().map(|(saga, at)| format!("{} {at}", short(*saga))).collect();
            format!("the database has lost {}", lost.join(", "))
        });
        self.coverage.lost_sagas += lost.len() as u64;
    }
}
