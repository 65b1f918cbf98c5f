//! A database, a topic, and a worker on both.

use std::time::Duration;

use amends_protocol::{Command, Reply};
use amends_shipment::{MIGRATOR, settings, worker};
use amends_testkit::TestDatabase;
use amends_worker::Settings;
use serde_json::json;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::transport::{Topics, execute};

pub struct World {
    pub database: TestDatabase,
    pub topics: Topics,
    pub pool: PgPool,
    stop: CancellationToken,
    _stops: DropGuard,
}

impl World {
    /// Creates a world with one worker, whose calls may stay unanswered for a fifth of a second.
    pub async fn new() -> Self {
        let database = amends_testkit::database(&MIGRATOR, "shipment").await;
        let url = database.role_url("amends_shipment");
        let pool = PgPoolOptions::new().max_connections(6).connect(&url).await.unwrap();
        let stop = CancellationToken::new();
        let topics = Topics::default();
        let world = Self { database, topics, pool, _stops: stop.clone().drop_guard(), stop };
        world.start();
        world
    }

    /// Starts an instance of the worker.
    pub fn start(&self) {
        let settings = Settings {
            patience: Duration::from_millis(20),
            call_timeout: Duration::from_millis(200),
            recovery_interval: Duration::from_millis(20),
            grace: Duration::from_millis(100),
            ..settings()
        };
        let worker = worker(self.pool.clone(), self.topics.source(), self.topics.clone(), settings);
        tokio::spawn(worker.run(self.stop.clone()));
    }

    pub async fn settled(&self, command: &Command) -> Reply {
        self.topics.settled(command).await
    }

    /// Returns how often a label was bought under this key, and how often it was cancelled.
    pub async fn effects(&self, ship: &Command) -> (i64, i64) {
        sqlx::query_as(
            "SELECT (SELECT count(*) FROM carrier_bookings WHERE key = $1 AND tracking_number IS NOT NULL),
                    (SELECT count(*) FROM carrier_cancellations WHERE booking_key = $1)",
        )
        .bind(ship.command_id)
        .fetch_one(&self.database.pool)
        .await
        .unwrap()
    }

    pub async fn run(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.database.pool).await.unwrap();
    }

    /// Returns the whole content of the database, as text.
    pub async fn everything(&self) -> String {
        sqlx::query_scalar(
            "SELECT concat((SELECT json_agg(c) FROM commands c), (SELECT json_agg(b) FROM carrier_bookings b),
                           (SELECT json_agg(x) FROM carrier_cancellations x))",
        )
        .fetch_one(&self.database.pool)
        .await
        .unwrap()
    }
}

/// Parts of the address, which must not appear anywhere.
pub const PERSONAL: [&str; 4] = ["Nomen Nescio", "Longstreet 99", "Vindobona", "A-98765"];

/// Creates a shipment to this country.
pub fn ship(country: &str) -> Command {
    let [name, line1, city, postal_code] = PERSONAL;
    let address =
        json!({ "name": name, "line1": line1, "city": city, "postalCode": postal_code, "country": country });
    let lines = json!([{ "productId": "mug-blue", "quantity": 2 }]);
    execute("ship", json!({ "shippingAddress": address, "lines": lines }))
}

/// Returns the change of what is held according to a reply.
pub fn deltas(reply: &Reply) -> Vec<(&str, i64)> {
    reply.exposure.iter().map(|e| (e.kind.as_str(), e.amount)).collect()
}
