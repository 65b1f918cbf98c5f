//! State that the api's handlers share.

use std::sync::Arc;

use amends_orders::{OrderStore, answers::AnswerStore};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    auth::Authenticator,
    engine::PgEngine,
    lists::Lists,
    orders::{door::Door, watch::Watches},
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
    /// The answers to requests with an idempotency key.
    pub answers: AnswerStore,
    /// Reads lists for operators.
    pub lists: Lists,
    /// The entry for new orders.
    pub door: Door,
    /// The address of the inventory worker.
    pub inventory_url: String,
    /// The client that forwards requests to it.
    pub http: reqwest::Client,
    /// Places for requests that wait for an order's next status.
    pub waiting: Semaphore,
    /// Tells those requests when their order has changed.
    pub watches: Arc<Watches>,
    /// Places for streams of an order's events.
    pub streams: Arc<Semaphore>,
    /// Is cancelled when the process stops: what waits is answered then.
    pub stop: CancellationToken,
    /// The metrics.
    pub metrics: PrometheusHandle,
}
