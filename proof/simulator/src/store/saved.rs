//! What the engine's database was at a moment, and its return to that.

use super::*;

/// The content of the store at a moment.
#[derive(Clone)]
pub struct Saved {
    /// When it was saved.
    pub at: Micros,
    /// The epoch of that moment.
    pub epoch: u32,
    /// When a saga was changed last.
    pub changed_at: Micros,
    /// The sagas.
    pub sagas: BTreeMap<Uuid, Stored>,
    orders: BTreeMap<Uuid, Uuid>,
    added: BTreeMap<Uuid, Vec<AddedSaga>>,
    /// The idempotency keys.
    pub keys: BTreeMap<String, (Uuid, u64)>,
    strays: BTreeMap<(Uuid, Uuid), Json>,
    odd: BTreeMap<(Uuid, OddReason), OddNote>,
    deferred: BTreeMap<DeferredId, (DateTime<Utc>, DeferredReply)>,
    batches: BTreeMap<u64, Committed>,
}

impl Store {
    /// Returns what it contains now.
    pub fn saved(&self, now: Micros) -> Saved {
        Saved {
            at: now,
            epoch: self.epoch,
            changed_at: self.changed_at,
            sagas: self.sagas.clone(),
            orders: self.orders.clone(),
            added: self.added.clone(),
            keys: self.keys.clone(),
            strays: self.strays.clone(),
            odd: self.odd.clone(),
            deferred: self.deferred.clone(),
            batches: self.batches.clone(),
        }
    }

    /// Contains again what it did at that moment, and nothing else. Its clock goes on.
    pub fn bring_back(&mut self, saved: Saved) {
        let Saved { epoch, changed_at, sagas, orders, added, keys, strays, odd, deferred, batches, .. } =
            saved;
        (self.epoch, self.changed_at, self.sagas, self.orders) = (epoch, changed_at, sagas, orders);
        (self.added, self.keys, self.strays, self.odd) = (added, keys, strays, odd);
        (self.deferred, self.batches) = (deferred, batches);
        self.watchers.wake();
    }
}
