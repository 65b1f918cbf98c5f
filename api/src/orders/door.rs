//! Group commit: orders that arrive while a commit is in progress are committed together in the next.

use std::{
    num::NonZeroU32,
    ops::{Range, RangeInclusive},
    sync::Arc,
    time::Duration,
};

use amends_batch::{BirthSlots, Gather};
use amends_engine::{
    core::{CommandToSend, NewSaga, Saga, start_by},
    port::{self, Inputs},
};
use amends_orders::{NewOrder, OrderStore, Placed};
use amends_protocol::trace;
use amends_workflows::order_fulfilment;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::Clock};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::request;
use crate::{engine::PgEngine, failpoints::reached};

/// Maximum number of orders in a transaction.
const DOOR_BATCH: usize = 500;
/// Batch sizes after which the door waits for more orders. The wait is short, because customers wait too.
const DOOR_FEW: Range<usize> = 4..16;
const DOOR_LINGER: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_millis(5);
/// The longest transaction: a call without an answer has ended by then, and is read back.
const ANSWER_LONGEST: Duration = Duration::from_secs(25);
/// Maximum number of orders that wait to be committed; further orders are refused.
const ORDERS_WAITING_MOST: usize = 8192;
/// Maximum size, in bytes, of the orders that wait to be committed: 2 KiB each if the queue is full. An order may have
/// 64 KiB.
const WAITING_BYTES: usize = 16 << 20;
/// Maximum size, in bytes, of committed orders whose commands wait here for the broker. Further commands are left to
/// the engine, which sends them when they are due.
const UNSENT_BYTES: usize = 16 << 20;
/// Memory of an order beside its texts: ids, the channel of its answer, its place in the queue.
const ORDER_OVERHEAD: usize = 512;

/// A waiting order, and the channel of its answer.
struct Waiting {
    order: NewOrder,
    answer: oneshot::Sender<Result<Placed, Error>>,
    /// Its share of the waiting orders' memory.
    room: OwnedSemaphorePermit,
}

/// Why an order was not accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// More orders arrive than are admitted; contains the time until there is room again.
    #[error("more orders come than are admitted")]
    TooMany(Duration),
    /// More orders are waiting than can be committed in time.
    #[error("too many orders are waiting")]
    Full,
    /// The store failed; after `Unavailable` the order may or may not exist.
    #[error(transparent)]
    Store(#[from] port::Error),
    /// The process is stopping.
    #[error("this process is stopping")]
    Closed,
}

/// The entry for new orders.
#[derive(Debug)]
pub struct Door {
    waiting: mpsc::Sender<Waiting>,
    /// Free bytes.
    room: Arc<Semaphore>,
    /// Uses the generic cell rate algorithm (ITU-T I.371), with a burst of one second's worth.
    admission: Option<DefaultDirectRateLimiter>,
}

/// Commits the orders that wait at a door, many at once.
pub struct GroupCommit {
    waiting: mpsc::Receiver<Waiting>,
    slots: BirthSlots,
    /// Free bytes for committed orders whose commands are not sent.
    unsent: Arc<Semaphore>,
}

/// What is needed to place orders.
pub struct Placing {
    /// Sends the first commands.
    pub engine: Arc<PgEngine>,
    /// Stores the orders.
    pub orders: OrderStore,
}

/// Creates a door that admits `admission` orders per second (0: no limit), and the loop that commits its orders.
pub fn door(admission: u32) -> (Door, GroupCommit) {
    let (sender, waiting) = mpsc::channel(ORDERS_WAITING_MOST);
    let admission = NonZeroU32::new(admission).map(|rate| RateLimiter::direct(Quota::per_second(rate)));
    let room = Arc::new(Semaphore::new(WAITING_BYTES));
    let unsent = Arc::new(Semaphore::new(UNSENT_BYTES));
    (Door { waiting: sender, room, admission }, GroupCommit { waiting, slots: BirthSlots::default(), unsent })
}

impl Door {
    /// Hands in an order; completes once it is committed or refused.
    pub async fn place(
        &self,
        subject: &str,
        idempotency: Option<String>,
        request: &request::NewOrder,
    ) -> Result<Placed, Error> {
        if let Some(admission) = &self.admission
            && let Err(not_until) = admission.check()
        {
            return Err(Error::TooMany(not_until.wait_time_from(admission.clock().now())));
        }
        let id = Uuid::now_v7();
        let order = NewOrder {
            id,
            saga: NewSaga { id: Uuid::now_v7(), business_key: id.to_string(), trace: trace::current() },
            subject: subject.to_owned(),
            idempotency: idempotency.map(|key| (key, request.fingerprint)),
            customer_id: request.customer_id.clone(),
            currency: request.currency.clone(),
            total: request.total(),
            lines: request.lines_json(),
            data: request.input(),
            personal: request.personal(),
        };
        let room = Arc::clone(&self.room).try_acquire_many_owned(size(&order)).map_err(|_| Error::Full)?;
        let (answer, answered) = oneshot::channel();
        self.waiting.try_send(Waiting { order, answer, room }).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => Error::Full,
            mpsc::error::TrySendError::Closed(_) => Error::Closed,
        })?;
        answered.await.map_err(|_| Error::Closed)?
    }
}

impl GroupCommit {
    /// Places orders until stopped, and then those that are already waiting.
    pub async fn run(mut self, placing: Placing, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(DOOR_BATCH);
        let mut gather = Gather::new(DOOR_FEW, DOOR_LINGER);
        loop {
            if let Some(wait) = gather.wait() {
                tokio::time::sleep(wait).await;
            }
            let taken = tokio::select! {
                taken = self.waiting.recv_many(&mut batch, DOOR_BATCH) => taken,
                () = stop.cancelled() => {
                    self.waiting.close();
                    self.waiting.recv_many(&mut batch, DOOR_BATCH).await
                }
            };
            if taken == 0 {
                return;
            }
            metrics::histogram!("amends_api_batch_size").record(taken as f64);
            gather.begins(taken);
            self.place(&placing, std::mem::take(&mut batch)).await;
        }
    }

    /// Places a batch in one transaction, then sends the first commands.
    async fn place(&mut self, placing: &Placing, batch: Vec<Waiting>) {
        // The permits are released once the commands are sent, or left to the engine.
        let (mut orders, mut answers, mut rooms) = (Vec::new(), Vec::new(), Vec::new());
        for Waiting { order, answer, room } in batch {
            orders.push(order);
            answers.push(answer);
            rooms.push(room);
        }
        let placed = match self.commit(placing, &mut orders).await {
            // Another transaction probably holds this slot; the next try uses another slot.
            Err(port::Error::Locked(_)) => self.commit(placing, &mut orders).await,
            placed => placed,
        };
        let placed = match placed {
            Ok(placed) => placed,
            Err(error) => {
                for answer in answers {
                    let _ = answer.send(Err(error.clone().into()));
                }
                return;
            }
        };
        let (mut births, mut bytes) = (Vec::new(), 0);
        for ((order, placed), answer) in orders.into_iter().zip(placed).zip(answers) {
            if let Placed::New { change, .. } = &placed {
                bytes += size(&order);
                let inputs =
                    Inputs { saga_id: order.saga.id, data: order.data, personal: Some(order.personal) };
                births.push((change.saga.clone(), change.sends.clone(), inputs));
            }
            // A client that went away finds its order by its key.
            let _ = answer.send(Ok(placed));
        }
        drop(rooms);
        self.send(placing, births, bytes);
    }

    /// Sends first commands while the next batch commits, unless too many already wait for the broker.
    fn send(&self, placing: &Placing, births: Vec<Birth>, bytes: u32) {
        let Ok(room) = Arc::clone(&self.unsent).try_acquire_many_owned(bytes) else {
            metrics::counter!("amends_api_left_to_the_engine_total").increment(births.len() as u64);
            return tracing::debug!(
                births = births.len(),
                "commands are committed, but too many wait for the broker; they are sent when due"
            );
        };
        let engine = Arc::clone(&placing.engine);
        tokio::spawn(async move {
            if let Err(error) = engine.send(births).await {
                tracing::warn!(%error, "commands are committed but could not be sent; they are sent when due");
            }
            drop(room);
        });
    }
}

impl GroupCommit {
    /// Places orders in one transaction. All sagas born together get slots of one partition, so that their messages
    /// stay together.
    async fn commit(
        &mut self,
        placing: &Placing,
        orders: &mut [NewOrder],
    ) -> Result<Vec<Placed>, port::Error> {
        let slot = self.slots.choose();
        let core_version = placing.engine.fleet.core_version();
        let fulfilment = placing.engine.born_in(order_fulfilment::NAME);
        let fulfilment =
            fulfilment.ok_or_else(|| port::Error::Unavailable("no workflow for orders".to_owned()))?;
        let birth =
            |order: &NewOrder, now| start_by(core_version, fulfilment, order.saga.clone(), &order.data, now);
        let late =
            |_| Err(port::Error::Unavailable(format!("no answer within {}s", ANSWER_LONGEST.as_secs())));
        // Dropping it is like a crash: orders that were committed all the same are found by their keys, and driven on
        // by their rows.
        reached("orders", "place.before");
        let place = async {
            let now = placing.orders.now().await?;
            for order in &mut *orders {
                order.born(slot, now);
            }
            placing.orders.place(now, orders, birth).await
        };
        let placed = timeout(ANSWER_LONGEST, place).await.unwrap_or_else(late);
        reached("orders", "place.after");
        placed
    }
}

/// A committed saga, its first commands, and their inputs.
type Birth = (Saga, Vec<CommandToSend>, Inputs);

/// Returns the approximate size of an order in memory, in bytes.
fn size(order: &NewOrder) -> u32 {
    let texts = [&order.lines, &order.data, &order.personal].map(|json| json.get().len());
    let bytes = ORDER_OVERHEAD + order.subject.len() + order.customer_id.len() + texts.iter().sum::<usize>();
    // A body has at most 64 KiB.
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use serde_json::json;

    use super::*;

    /// Creates an order with this number of lines.
    fn order(lines: usize) -> request::NewOrder {
        let line = json!({ "productId": "p".repeat(64), "quantity": 1, "unitPrice": 1 });
        let address = json!({ "name": "N", "line1": "L", "city": "C", "postalCode": "P", "country": "AT" });
        serde_json::from_value(json!({
            "customerId": "c", "currency": "EUR", "lines": vec![line; lines],
            "payment": { "method": "card_approved" }, "shippingAddress": address,
        }))
        .unwrap()
    }

    /// Returns how many of these orders wait, at a door that commits nothing.
    fn waiting(orders: usize, lines: usize) -> usize {
        let (door, _group_commit) = door(0);
        let order = order(lines);
        let placing = (0..orders).map(|_| door.place("s", None, &order).now_or_never());
        let answers: Vec<_> = placing.collect();
        // A dropped future leaves its order in the queue.
        answers.into_iter().filter(|answer| !matches!(answer, Some(Err(Error::Full)))).count()
    }

    #[test]
    fn what_waits_is_bounded_by_number_and_by_bytes() {
        assert_eq!(waiting(ORDERS_WAITING_MOST + 100, 1), ORDERS_WAITING_MOST);
        let big = waiting(ORDERS_WAITING_MOST, 100);
        // 100 lines take 10 KB in the input and as much again in the rendered lines.
        assert!((WAITING_BYTES / 40_000..WAITING_BYTES / 15_000).contains(&big), "{big}");
    }

    #[tokio::test]
    async fn an_order_that_was_answered_leaves_its_room_to_the_next() {
        let (door, mut group_commit) = door(0);
        let (order, free) = (order(100), door.room.available_permits());
        let answer = async {
            let waiting = group_commit.waiting.recv().await.unwrap();
            let _ = waiting.answer.send(Err(Error::Closed));
        };
        let placed = door.place("s", None, &order);
        let (placed, ()) = futures::join!(placed, answer);
        assert!(matches!(placed, Err(Error::Closed)));
        assert_eq!(door.room.available_permits(), free);
    }
}
