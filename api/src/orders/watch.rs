//! Tells requests that wait when an order has changed. However many wait, the orders that they wait for are looked at
//! together, in one statement at a time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use amends_orders::{Newest, OrderStore};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The shortest pause between two looks.
const LOOKS_APART: Duration = Duration::from_millis(100);
/// A pause is at least this many times as long as the look before it, so that looking takes a tenth of the time.
const REST_PER_LOOK: u32 = 9;
/// The longest pause.
const LOOKS_APART_MOST: Duration = Duration::from_secs(5);

/// The orders for which requests wait.
#[derive(Debug, Default)]
pub struct Watches {
    orders: Mutex<HashMap<Uuid, Watched>>,
    first: Notify,
}

#[derive(Debug)]
struct Watched {
    watchers: usize,
    newest: watch::Sender<Option<Newest>>,
}

/// A request that waits for changes of an order.
#[derive(Debug)]
pub struct Watcher {
    watches: Arc<Watches>,
    order: Uuid,
    newest: watch::Receiver<Option<Newest>>,
}

impl Watches {
    /// Begins to wait for changes of an order. What the caller reads of the order from now on is compared with what is
    /// seen here.
    pub fn watch(self: &Arc<Self>, order: Uuid) -> Watcher {
        let mut orders = self.orders();
        let watched =
            orders.entry(order).or_insert_with(|| Watched { watchers: 0, newest: watch::Sender::new(None) });
        watched.watchers += 1;
        let newest = watched.newest.subscribe();
        drop(orders);
        self.first.notify_one();
        Watcher { watches: Arc::clone(self), order, newest }
    }

    /// Looks at the orders until stopped.
    pub async fn run(self: Arc<Self>, store: OrderStore, stop: CancellationToken) {
        let mut rest = LOOKS_APART;
        while !stop.is_cancelled() {
            let ids: Vec<Uuid> = self.orders().keys().copied().collect();
            if ids.is_empty() {
                tokio::select! {
                    () = self.first.notified() => {}
                    () = stop.cancelled() => {}
                }
                continue;
            }
            tokio::select! {
                () = sleep(rest) => {}
                () = stop.cancelled() => return,
            }
            let begun = Instant::now();
            match store.newest(&ids).await {
                Ok(found) => self.notify(&found),
                // Who waits is answered in the end, by a read of its own.
                Err(error) => tracing::debug!(%error, "orders that are waited for could not be looked at"),
            }
            rest = (begun.elapsed() * REST_PER_LOOK).clamp(LOOKS_APART, LOOKS_APART_MOST);
        }
    }

    fn notify(&self, found: &HashMap<Uuid, Newest>) {
        for (id, watched) in self.orders().iter() {
            if let Some(now) = found.get(id) {
                watched.newest.send_if_modified(|newest| newest.replace(*now) != Some(*now));
            }
        }
    }

    fn orders(&self) -> MutexGuard<'_, HashMap<Uuid, Watched>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher {
    /// Completes once the order's newest state is another than this one.
    pub async fn differs_from(&mut self, seen: Newest) {
        // The sender lives as long as the watcher.
        while self.newest.changed().await.is_ok() {
            let now = *self.newest.borrow_and_update();
            if now.is_some_and(|now| now != seen) {
                return;
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut orders = self.watches.orders();
        if let Some(watched) = orders.get_mut(&self.order) {
            watched.watchers -= 1;
            if watched.watchers == 0 {
                orders.remove(&self.order);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn newest(revision: i32) -> Newest {
        Newest { saga_id: Uuid::nil(), revision, others: 0 }
    }

    #[test]
    fn a_watcher_hears_of_each_state_that_it_has_not_seen_and_is_forgotten_once_it_is_gone() {
        let watches = Arc::new(Watches::default());
        let order = Uuid::from_u128(1);
        let notify = |revision| watches.notify(&HashMap::from([(order, newest(revision))]));
        let mut first = watches.watch(order);
        notify(1);
        assert_eq!(first.differs_from(newest(1)).now_or_never(), None, "it has seen that");
        notify(2);
        assert_eq!(first.differs_from(newest(1)).now_or_never(), Some(()));
        assert_eq!(first.differs_from(newest(1)).now_or_never(), None, "it was told, and reads again");
        let mut second = watches.watch(order);
        notify(3);
        assert_eq!(first.differs_from(newest(2)).now_or_never(), Some(()));
        assert_eq!(second.differs_from(newest(2)).now_or_never(), Some(()));
        drop(first);
        assert_eq!(watches.orders().len(), 1);
        drop(second);
        assert!(watches.orders().is_empty());
    }
}
