//! What the api's handlers share.

use amends_engine::{core::Definition, runtime::Engine};
use amends_kafka::KafkaSink;
use amends_orders::OrderStore;
use amends_postgres::PgSagaStore;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::{clock::TokioClock, failpoints::Point, orders::door::Door};

/// The engine over Postgres, Kafka and tokio.
pub type PgEngine = Engine<Point<PgSagaStore>, Point<KafkaSink>, TokioClock>;

/// What the api's handlers share.
pub struct Api {
    /// Decides what comes through the door, by the same rules as everywhere.
    pub engine: PgEngine,
    /// Where orders are.
    pub orders: OrderStore,
    /// Where new orders are handed in.
    pub door: Door,
    /// The workflow of new orders.
    pub fulfilment: Definition,
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
