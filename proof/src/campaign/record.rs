//! What everybody writes down while it happens.

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

    /// A client was told that its order exists.
    pub fn told(&self, key: &str, order: Uuid) {
        self.inner().ledger.told.push((Some(key.to_owned()), order));
    }

    /// A client was promised that its order ends cancelled.
    pub fn promised(&self, order: Uuid) {
        self.inner().ledger.promised.push(order);
    }

    /// A client saw an order's status.
    pub fn seen(&self, order: Uuid, status: &str) {
        self.inner().ledger.seen.push((order, status.to_owned()));
    }

    /// An operator did something, or tried to.
    pub fn acted(&self, action: Action) {
        self.inner().ledger.actions.push(action);
    }

    /// A message that nobody can read was produced.
    pub fn poisoned(&self, poison: Poison) {
        self.inner().ledger.poison.push(poison);
    }

    /// A topic is about to be deleted: the poison in it may go with it.
    pub fn deletes(&self, topic: &str) {
        let mut inner = self.inner();
        inner.ledger.poison.iter_mut().filter(|p| p.topic == topic).for_each(|p| p.sure = false);
    }

    /// An answer that should not be: a violation.
    pub fn odd(&self, what: String) {
        self.inner().odd.push(what);
    }

    /// How many orders clients were told of so far.
    pub fn orders(&self) -> usize {
        self.inner().ledger.told.len()
    }

    /// Everything so far.
    pub fn ledger(&self) -> Ledger {
        self.inner().ledger.clone()
    }

    /// The answers that should not be.
    pub fn oddities(&self) -> Vec<String> {
        self.inner().odd.clone()
    }
}
