//! The numbers of an order's domain events: from 1, without gaps, over all of its sagas.
//!
//! An order's sagas share a slot, and a slot's entries are read in the order of their commits. So the number of an event
//! is how many its order had before, in each publisher and however often it is published. What was counted is remembered; the count
//! of an order that is not is made from its timelines.

use std::collections::{BTreeMap, HashMap};

use amends_engine::port::Error;
use amends_orders::OrderStore;
use amends_postgres::events::Unpublished;
use amends_workflows::{Workflows, order_fulfilment};
use uuid::Uuid;

/// Number of orders remembered.
const ORDERS_REMEMBERED: usize = 50_000;

/// The numbers of orders' domain events.
pub struct Numbers {
    orders: OrderStore,
    counted: HashMap<Uuid, Counted>,
}

/// How far an order's events are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counted {
    /// The position of the last entry that is counted.
    position: i64,
    /// Number of events up to there.
    events: u64,
}

impl Numbers {
    /// Creates it over these orders.
    pub fn new(orders: OrderStore) -> Self {
        Self { orders, counted: HashMap::new() }
    }

    /// Forgets what was counted: another process may have published meanwhile, or entries are read again.
    pub fn forget(&mut self) {
        self.counted.clear();
    }

    /// Returns for each entry how many events its order had before. The entries are in the order of their positions, and
    /// none of their orders' entries is left out in between.
    ///
    /// # Errors
    /// The database's.
    pub async fn before(
        &mut self,
        workflows: &Workflows,
        entries: &[Unpublished],
    ) -> Result<Vec<u64>, Error> {
        if self.counted.len() > ORDERS_REMEMBERED {
            self.forget();
        }
        self.count(workflows, entries).await?;
        let mut numbers = Vec::with_capacity(entries.len());
        for read in entries {
            let events = workflows.event_count(&read.workflow, read.workflow_version, &read.entry);
            let order = order_of(read);
            let counted = self.counted.entry(order).or_insert(Counted { position: 0, events: 0 });
            numbers.push(counted.events);
            *counted = Counted { position: read.position, events: counted.events + events };
        }
        // Few orders have more after that; those are counted again.
        for read in entries.iter().filter(|read| read.entry.did.ended.is_some()) {
            self.counted.remove(&order_of(read));
        }
        Ok(numbers)
    }

    /// Counts the events before the first of these entries of each order that is not remembered.
    async fn count(&mut self, workflows: &Workflows, entries: &[Unpublished]) -> Result<(), Error> {
        let mut first: BTreeMap<Uuid, &Unpublished> = BTreeMap::new();
        for read in entries {
            first.entry(order_of(read)).or_insert(read);
        }
        let mut missing = Vec::new();
        for (order, read) in first {
            let before = Counted { position: read.position - 1, events: 0 };
            if read.entry.revision == 1 && read.workflow == order_fulfilment::NAME {
                self.counted.insert(order, before);
            } else if self.counted.get(&order).is_none_or(|counted| counted.position >= read.position) {
                self.counted.insert(order, before);
                missing.push((order, read.position));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let earlier = self.orders.entries_before(&missing).await?;
        for (order, entries) in earlier {
            let counts =
                entries.iter().map(|of| workflows.event_count(&of.workflow, of.workflow_version, &of.entry));
            let events = counts.sum();
            self.counted.entry(order).and_modify(|counted| counted.events = events);
        }
        Ok(())
    }
}

/// The order of an entry: its saga's business key.
fn order_of(read: &Unpublished) -> Uuid {
    read.business_key.parse().unwrap_or(read.saga_id)
}
