//! State that the api's handlers share.

use std::sync::Arc;

use amends_inventory::cache::StockCache;
use amends_orders::{OrderStore, answers::AnswerStore, products::ProductStore};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    auth::Authenticator,
    engine::PgEngine,
    gateway::Upstream,
    lists::Lists,
    orders::{door::Door, watch::Watches},
    participants::Participants,
    webhooks::Webhooks,
};

/// State that the api's handlers share.
pub struct Api {
    /// Finds out who sent a request.
    pub auth: Arc<Authenticator>,
    /// Decides events from outside, by the same rules as everywhere.
    pub engine: Arc<PgEngine>,
    /// The store of orders.
    pub orders: OrderStore,
    /// Reads lists of orders, and orders that requests wait for, by connections of their own.
    pub order_lists: OrderStore,
    /// The products, read and written by connections of their own.
    pub products: ProductStore,
    /// The webhooks, read and written by connections of their own.
    pub webhooks: Webhooks,
    /// The answers to requests with an idempotency key.
    pub answers: AnswerStore,
    /// Reads lists for operators.
    pub lists: Lists,
    /// Looks at workers, for explanations.
    pub participants: Participants,
    /// The entry for new orders.
    pub door: Door,
    /// The inventory worker.
    pub inventory: Upstream,
    /// The notification worker.
    pub notification: Upstream,
    /// The stock that need not be read from it.
    pub stock_cache: StockCache,
    /// Places for requests that wait for an order's next status.
    pub waiting: Semaphore,
    /// Tells those requests when their order has changed.
    pub watches: Arc<Watches>,
    /// Places for streams of an order's events.
    pub streams: Arc<Semaphore>,
    /// Is cancelled when the process stops: what waits is answered then.
    pub stop: CancellationToken,
    /// The metrics, unless they have an address of their own.
    pub metrics: Option<PrometheusHandle>,
}

impl Api {
    /// Returns the services behind this api.
    pub fn upstreams(&self) -> [&Upstream; 2] {
        [&self.inventory, &self.notification]
    }
}
