//! The record that all parts of a campaign write.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::books::{Action, Ledger, Poison};

/// Shared by clients, operators and the nemesis.
#[derive(Debug, Clone, Default)]
pub struct Record(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    ledger: Ledger,
    odd: Vec<String>,
}

impl Record {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that an order was acknowledged to a client.
    pub fn told(&self, key: &str, order: Uuid) {
        self.inner().ledger.told.push((Some(key.to_owned()), order));
    }

    /// Records that a client was promised the cancellation of its order.
    pub fn promised(&self, order: Uuid) {
        self.inner().ledger.promised.push(order);
    }

    /// Records that a client saw an order's status.
    pub fn seen(&self, order: Uuid, status: &str) {
        self.inner().ledger.seen.push((order, status.to_owned()));
    }

    /// Records that an operator did something, or tried to.
    pub fn acted(&self, action: Action) {
        self.inner().ledger.actions.push(action);
    }

    /// Records that an unreadable message was produced.
    pub fn poisoned(&self, poison: Poison) {
        self.inner().ledger.poison.push(poison);
    }

    /// Records that a topic is about to be deleted: its poison may be lost.
    pub fn deletes(&self, topic: &str) {
        let mut inner = self.inner();
        inner.ledger.poison.iter_mut().filter(|p| p.topic == topic).for_each(|p| p.sure = false);
    }

    /// Records an answer that should not occur: a violation.
    pub fn odd(&self, what: String) {
        self.inner().odd.push(what);
    }

    /// Returns the number of orders acknowledged so far.
    pub fn orders(&self) -> usize {
        self.inner().ledger.told.len()
    }

    /// Returns everything recorded so far.
    pub fn ledger(&self) -> Ledger {
        self.inner().ledger.clone()
    }

    /// Returns the answers that should not occur.
    pub fn oddities(&self) -> Vec<String> {
        self.inner().odd.clone()
    }
}
