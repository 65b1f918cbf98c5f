//! What the api's handlers share.

use std::sync::Arc;

use amends_orders::OrderStore;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::{
    engine::PgEngine,
    lists::Lists,
    orders::{door::Door, view::Audience},
};

/// What the api's handlers share.
pub struct Api {
    /// Decides what comes through the door, by the same rules as everywhere.
    pub engine: Arc<PgEngine>,
    /// Where orders are.
    pub orders: OrderStore,
    /// Where operators' lists are read.
    pub lists: Lists,
    /// Where new orders are handed in.
    pub door: Door,
    /// Where the inventory worker listens.
    pub inventory_url: String,
    /// For forwarding to it.
    pub http: reqwest::Client,
    /// What was counted.
    pub metrics: PrometheusHandle,
}

/// Who asks. There are no tokens yet: everybody is this storefront, which may state `customerId` and
/// `unitPrice`, and this operator.
pub const SUBJECT: &str = "dev-storefront";

/// What is shown to whoever asks.
pub const AUDIENCE: Audience = Audience::Operator;
