//! The books of workers and of the world outside, once people have set right what the engine's database has lost: they
//! give back each effect that strays list, and restore each that was undone. From then on the books must be those of a
//! world in which nothing was lost.

use std::collections::{BTreeMap, BTreeSet};

use amends_engine::core::{Catalog, Status};
use amends_inventory::stock::{self, Reserved, Restock};
use amends_protocol::{Kind, Outcome, Reply, id, wire};
use amends_worker::row::{self, CommandRow};
use uuid::Uuid;

use crate::{
    bus::REPLIES,
    faults::Fault,
    gateway::{Booked, Charged, refund_by_hand},
    losses::LostCommand,
    store::{Stored, short},
    world::WorldState,
};

/// The books.
pub struct Books {
    /// Charges by key.
    pub charges: BTreeMap<Uuid, Charged>,
    /// Bookings by key.
    pub bookings: BTreeMap<Uuid, Booked>,
    /// Reservations by command.
    pub reservations: BTreeMap<Uuid, BTreeMap<String, Reserved>>,
    /// Restocks.
    pub restocks: Vec<Restock>,
    /// The workers' rows.
    pub rows: BTreeMap<Uuid, CommandRow>,
    /// Effects and undos that had to be listed, and are not.
    pub unlisted: Vec<String>,
}

/// Keys of commands whose execute, or whose compensation, has succeeded.
#[derive(Default)]
struct Successes {
    done: BTreeSet<Uuid>,
    undone: BTreeSet<Uuid>,
}

impl Successes {
    fn of(replies: impl Iterator<Item = Reply>) -> Self {
        let mut all = Self::default();
        for reply in replies.filter(|reply| reply.outcome == Outcome::Succeeded) {
            let of_kind = if reply.kind == Kind::Compensate { &mut all.undone } else { &mut all.done };
            of_kind.insert(reply.row_key());
        }
        all
    }
}

impl Books {
    /// Returns the books of a quiet world.
    pub fn of(state: &WorldState, catalog: &Catalog) -> Self {
        let rows = state.databases.iter().flat_map(|db| db.rows.values());
        let mut books = Self {
            charges: state.outside.charges.clone(),
            bookings: state.outside.bookings.clone(),
            reservations: state.databases[0].reservations.clone(),
            restocks: state.databases[0].restocks.clone(),
            rows: rows.map(|row| (row.key, row.clone())).collect(),
            unlisted: Vec::new(),
        };
        if state.losses.any() {
            books.set_right(state, catalog);
        }
        books
    }

    fn set_right(&mut self, state: &WorldState, catalog: &Catalog) {
        let strays = state.store.strays.values().filter_map(|reply| reply.read().ok());
        let deferred =
            state.store.deferred.values().filter(|(_, reply)| state.store.waits_for_its_end(reply));
        let deferred = deferred.filter_map(|(_, reply)| wire::reply(&reply.message.bytes).ok());
        let listed = Successes::of(strays.chain(deferred));
        let replies = state.bus.records().filter(|(topic, .., read)| *topic == REPLIES && *read);
        let told = Successes::of(replies.filter_map(|(.., record, _)| wire::reply(&record.bytes).ok()));
        let (mut ordered, mut believed) = (BTreeSet::new(), Vec::new());
        for stored in state.store.sagas.values() {
            let saga = &stored.saga;
            let Some(definition) = catalog.get(&saga.workflow, saga.workflow_version) else { continue };
            for command in &saga.state.commands {
                let key = command.id(saga.id, definition);
                ordered.insert(key);
                if command.status == Status::Succeeded && command.undo.is_none() {
                    believed.push((saga.id, key));
                }
            }
        }
        for (key, lost) in state.losses.commands.iter().filter(|(key, _)| !ordered.contains(*key)) {
            let must = state.must_be_listed(lost.loss, &told.done, key, &self.rows, row::Status::Succeeded);
            if self.holds(*key, lost) && !listed.done.contains(key) && must {
                self.unlisted.push(format!(
                    "{}: {} {key} is done, and no stray",
                    short(lost.saga),
                    lost.step
                ));
            }
            self.give_back(*key, lost);
        }
        believed.retain(|(_, key)| self.is_undone(*key));
        for (saga, key) in believed {
            let loss = state.losses.entries.iter().rev().find(|lost| lost.saga == saga).map(|lost| lost.loss);
            // Nothing of it was lost: nothing is set right.
            let Some(loss) = loss else { continue };
            let must = state.must_be_listed(loss, &told.undone, &key, &self.rows, row::Status::Undone);
            if !listed.undone.contains(&key) && must && !self.is_undone_by_hand(key) {
                self.unlisted.push(format!("{}: {key} is undone, and its undo no stray", short(saga)));
            }
            self.redo(key);
        }
        self.give_back_by_hand(state, catalog);
    }

    /// Gives back what was paid back by hand for a saga that is gone, or does not know of it, or whose refund was made since.
    fn give_back_by_hand(&mut self, state: &WorldState, catalog: &Catalog) {
        let mut resolved = BTreeSet::new();
        for Stored { saga, .. } in state.store.sagas.values() {
            let Some(definition) = catalog.get(&saga.workflow, saga.workflow_version) else { continue };
            let is_resolved = saga.state.commands.iter().any(|command| {
                let key = command.id(saga.id, definition);
                definition.steps[command.step].name == "refund"
                    && command.status == Status::Succeeded
                    && !self.charges.values().any(|charge| charge.back.contains_key(&key))
            });
            if is_resolved {
                resolved.insert(refund_by_hand(saga.id));
            }
        }
        for charge in self.charges.values_mut() {
            charge.back.retain(|key, (id, _)| key != id || resolved.contains(key));
        }
    }

    /// Returns whether a lost command has an effect.
    fn holds(&self, key: Uuid, lost: &LostCommand) -> bool {
        let charge = self.charges.get(&key).filter(|c| c.declined.is_none() && c.refund.is_none());
        let booking = self.bookings.get(&key).filter(|b| b.tracking.is_some() && b.cancelled.is_none());
        let lines = self.reservations.get(&key).into_iter().flat_map(BTreeMap::values);
        let is_done = self.rows.get(&key).is_some_and(|row| row.status == row::Status::Succeeded);
        charge.is_some()
            || booking.is_some()
            || lines.into_iter().any(|line| line.status != stock::Status::Released)
            || self.charges.values().any(|charge| charge.back.contains_key(&key))
            || self.restocks.iter().any(|restock| restock.command_id == key)
            || lost.step == "take" && is_done
    }

    /// Gives back whatever a lost command has done.
    fn give_back(&mut self, key: Uuid, lost: &LostCommand) {
        let was_done = self.rows.remove(&key).is_some_and(|row| row.status == row::Status::Succeeded);
        self.charges.remove(&key);
        self.bookings.remove(&key);
        self.reservations.remove(&key);
        self.charges.values_mut().for_each(|charge| _ = charge.back.remove(&key));
        self.restocks.retain(|restock| restock.command_id != key);
        if lost.step == "take" && was_done {
            let lines = self.reservations.values_mut().flat_map(BTreeMap::values_mut);
            for line in lines.filter(|line| line.saga_id == lost.saga) {
                line.status = stock::Status::Held;
            }
        }
    }

    fn is_undone(&self, key: Uuid) -> bool {
        self.rows.get(&key).is_some_and(|row| row.status == row::Status::Undone)
            || self.charges.get(&key).is_some_and(|charge| charge.refund.is_some())
            || self.bookings.get(&key).is_some_and(|booking| booking.cancelled.is_some())
    }

    /// Returns whether an operator has undone it elsewhere: no table shows it.
    fn is_undone_by_hand(&self, key: Uuid) -> bool {
        let by_hand = Uuid::new_v5(&id::undo(key), b"by hand");
        let refund = self.charges.get(&key).and_then(|charge| charge.refund);
        let cancelled = self.bookings.get(&key).and_then(|booking| booking.cancelled);
        refund.is_some_and(|(by, _)| by == by_hand) || cancelled == Some(by_hand)
    }

    /// Takes back a lost undo of what its saga has done, and believes to hold.
    fn redo(&mut self, key: Uuid) {
        if let Some(row) = self.rows.get_mut(&key) {
            row.status = row::Status::Succeeded;
        }
        if let Some(charge) = self.charges.get_mut(&key) {
            charge.refund = None;
        }
        if let Some(booking) = self.bookings.get_mut(&key) {
            booking.cancelled = None;
        }
        for line in self.reservations.get_mut(&key).into_iter().flat_map(BTreeMap::values_mut) {
            line.status = stock::Status::Held;
        }
    }
}

impl WorldState {
    /// Returns whether people must learn of a lost success: they know of the loss, and its worker has told it. A worker
    /// that does not know what became of its call, and that nobody asks any more, does not; and the broker may have lost
    /// the command or its answer.
    fn must_be_listed(
        &self,
        loss: usize,
        told: &BTreeSet<Uuid>,
        key: &Uuid,
        rows: &BTreeMap<Uuid, CommandRow>,
        settled: row::Status,
    ) -> bool {
        let is_settled = rows.get(key).is_some_and(|row| row.status == settled);
        let may_be_forgotten = self.plan.struck[Fault::Amnesia as usize] > 0;
        self.losses.known[loss] && (told.contains(key) || is_settled && !may_be_forgotten)
    }
}
