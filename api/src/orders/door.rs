//! Group commit at the door: orders that arrive while a commit is under way go together in the next.

use std::{
    num::NonZeroU32,
    ops::{Range, RangeInclusive},
    sync::Arc,
    time::Duration,
};

use amends_batch::{BirthSlots, Gather};
use amends_engine::{
    core::{Definition, NewSaga, start},
    port::{self, Inputs},
};
use amends_orders::{NewOrder, OrderStore, Placed};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::Clock};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::request;
use crate::{engine::PgEngine, failpoints::reached};

/// Most orders of a transaction.
const BATCH: usize = 500;
/// The wait after a batch of a few: customers wait with it.
const FEW: Range<usize> = 4..16;
const LINGER: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_millis(5);
/// No transaction takes longer.
const LONGEST: Duration = Duration::from_secs(10);
/// Orders that may wait; one more is sent away.
const WAITING: usize = 8192;

/// An order at the door, and where its answer goes.
struct Waiting {
    order: NewOrder,
    answer: oneshot::Sender<Result<Placed, Error>>,
}

/// Why an order was not taken in.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// More come than are admitted; so long it takes until there is room again.
    #[error("more orders come than are admitted")]
    TooMany(Duration),
    /// More are waiting than can be served in time.
    #[error("too many orders are waiting")]
    Full,
    /// The store's word; after `Unavailable` the order exists or does not.
    #[error(transparent)]
    Store(#[from] port::Error),
    /// The process is stopping.
    #[error("this process is stopping")]
    Closed,
}

/// Where orders are handed in.
#[derive(Debug)]
pub struct Door {
    waiting: mpsc::Sender<Waiting>,
    /// By the generic cell rate algorithm (ITU-T I.371), with a burst of a second's worth.
    admission: Option<DefaultDirectRateLimiter>,
}

/// Commits the orders that wait at a door, many at once.
pub struct GroupCommit {
    waiting: mpsc::Receiver<Waiting>,
    slots: BirthSlots,
}

/// What orders are placed with.
pub struct Placing {
    /// Sends the first commands.
    pub engine: Arc<PgEngine>,
    /// Where orders are stored.
    pub orders: OrderStore,
    /// The workflow of new orders.
    pub fulfilment: Definition,
}

/// A door that admits so many orders a second (0: all), and what commits the orders that wait there.
pub fn door(admission: u32) -> (Door, GroupCommit) {
    let (sender, waiting) = mpsc::channel(WAITING);
    let admission = NonZeroU32::new(admission).map(|rate| RateLimiter::direct(Quota::per_second(rate)));
    (Door { waiting: sender, admission }, GroupCommit { waiting, slots: BirthSlots::default() })
}

impl Door {
    /// Hands an order in; answers once it is committed (or refused).
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
            saga: NewSaga { id: Uuid::now_v7(), slot: 0, business_key: id.to_string() },
            subject: subject.to_owned(),
            idempotency: idempotency.map(|key| (key, request.fingerprint())),
            customer_id: request.customer_id.clone(),
            currency: request.currency.clone(),
            total: request.total(),
            lines: request.lines_json(),
            data: request.input(),
            personal: request.personal(),
        };
        let (answer, answered) = oneshot::channel();
        self.waiting.try_send(Waiting { order, answer }).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => Error::Full,
            mpsc::error::TrySendError::Closed(_) => Error::Closed,
        })?;
        answered.await.map_err(|_| Error::Closed)?
    }
}

impl GroupCommit {
    /// Places orders until told to stop, and then those that are already waiting.
    pub async fn run(mut self, placing: Placing, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut gather = Gather::new(FEW, LINGER);
        loop {
            if let Some(wait) = gather.wait() {
                tokio::time::sleep(wait).await;
            }
            let taken = tokio::select! {
                taken = self.waiting.recv_many(&mut batch, BATCH) => taken,
                () = stop.cancelled() => {
                    self.waiting.close();
                    self.waiting.recv_many(&mut batch, BATCH).await
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

    /// One transaction for all of them; then their first commands are sent.
    async fn place(&mut self, placing: &Placing, mut batch: Vec<Waiting>) {
        // All that are born together have one home, so that their messages stay together.
        let slot = self.slots.choose();
        for waiting in &mut batch {
            waiting.order.saga.slot = slot;
        }
        let (orders, answers): (Vec<_>, Vec<_>) = batch.into_iter().map(|w| (w.order, w.answer)).unzip();
        let birth = |order: &NewOrder, now| start(&placing.fulfilment, order.saga.clone(), &order.data, now);
        let late = |_| Err(port::Error::Unavailable(format!("no answer within {}s", LONGEST.as_secs())));
        // Dropped like a crash: what was committed all the same is found by its key, and driven on by its rows.
        reached("orders", "place.before");
        let placed = timeout(LONGEST, placing.orders.place(&orders, birth)).await.unwrap_or_else(late);
        reached("orders", "place.after");
        let placed = match placed {
            Ok(placed) => placed,
            Err(error) => {
                for answer in answers {
                    let _ = answer.send(Err(error.clone().into()));
                }
                return;
            }
        };
        let mut births = Vec::new();
        for ((order, placed), answer) in orders.into_iter().zip(placed).zip(answers) {
            if let Placed::New { change, .. } = &placed {
                let inputs =
                    Inputs { saga_id: order.saga.id, data: order.data, personal: Some(order.personal) };
                births.push((change.saga.clone(), change.sends.clone(), inputs));
            }
            // A client that went away finds its order by its key.
            let _ = answer.send(Ok(placed));
        }
        let engine = Arc::clone(&placing.engine);
        tokio::spawn(async move {
            if let Err(error) = engine.send(births).await {
                tracing::warn!(%error, "committed, not sent: it will be sent when it is due");
            }
        });
    }
}
