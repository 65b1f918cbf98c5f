//! A database, a topic, and workers on both.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use amends_http::{Rules, guarded};
use amends_inventory::{MIGRATOR, cache::StockCache, router, settings, worker};
use amends_protocol::{Command, Exposure, Kind, Reply, add_exposure};
use amends_testkit::TestDatabase;
use amends_worker::Settings;
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode, request},
};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;

use crate::transport::{Topics, execute};

pub struct World {
    pub database: TestDatabase,
    /// Connections with the service's role.
    pub pool: PgPool,
    pub topics: Topics,
    stop: CancellationToken,
    _stops: DropGuard,
}

impl World {
    /// Creates a world without a worker.
    pub async fn quiet() -> Self {
        let database = amends_testkit::database(&MIGRATOR, "inventory").await;
        let url = database.role_url("amends_inventory");
        let pool = amends_pool::connect(&url, 4, "test").unwrap().unbounded().clone();
        let stop = CancellationToken::new();
        Self { database, pool, topics: Topics::default(), _stops: stop.clone().drop_guard(), stop }
    }

    /// Creates a world with one worker.
    pub async fn new() -> Self {
        let world = Self::quiet().await;
        world.start(500);
        world
    }

    /// Starts an instance of the worker. Returns the count of commands that it has received.
    pub fn start(&self, batch_max: usize) -> Arc<AtomicUsize> {
        let source = self.topics.source();
        let received = source.received();
        let settings = Settings { batch_max, patience: Duration::from_millis(20), ..settings() };
        let worker = worker(self.pool.clone(), source, self.topics.clone(), settings);
        tokio::spawn(worker.run(self.stop.clone()));
        received
    }

    pub async fn ask(&self, command: &Command) -> Reply {
        self.topics.ask(command).await
    }

    /// Sets the stock of a product, as an operator does.
    pub async fn put(&self, product: &str, on_hand: i64) {
        let path = format!("/api/inventory/{product}/stock");
        let (status, _, body) = self.http("PUT", &path, json!({ "onHand": on_hand }).to_string()).await;
        assert_eq!(status, StatusCode::OK, "{body}");
    }

    /// Sends a request; returns status, content type and body.
    pub async fn http(&self, method: &str, path: &str, body: impl Into<Body>) -> (StatusCode, String, Value) {
        let request = request(method, path).header("content-type", "application/json");
        let response = self.app().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
        let status = response.status();
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, content_type, serde_json::from_slice(&bytes).unwrap())
    }

    /// Returns the routes, with the rules of every HTTP edge.
    pub fn app(&self) -> Router {
        guarded(router(self.pool.clone(), 2, StockCache::Off), Rules::default())
    }

    /// Returns the quantities on hand, reserved and shipped.
    pub async fn stock(&self, product: &str) -> (i64, i64, i64) {
        sqlx::query_as("SELECT on_hand, reserved, shipped FROM stock WHERE product_id = $1")
            .bind(product)
            .fetch_one(&self.database.pool)
            .await
            .unwrap()
    }

    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.database.pool).await.unwrap()
    }

    /// Asserts invariants 1 and 6 from the books alone: no row contradicts them.
    pub async fn assert_books_balance(&self) {
        let wrong: Vec<String> = sqlx::query_scalar(BOOKS).fetch_all(&self.database.pool).await.unwrap();
        assert_eq!(wrong, Vec::<String>::new());
    }
}

/// Creates a request to this worker.
pub fn request(method: &str, path: &str) -> request::Builder {
    Request::builder().method(method).uri(path).header("host", "inventory")
}

/// Finds what is wrong with the books.
const BOOKS: &str = "
    WITH ledger AS (
        SELECT product_id,
               COALESCE(sum(quantity) FILTER (WHERE kind = 'adjusted'), 0) AS adjusted,
               COALESCE(sum(quantity) FILTER (WHERE kind = 'reserved'), 0) AS reserved,
               COALESCE(sum(quantity) FILTER (WHERE kind = 'released'), 0) AS released,
               COALESCE(sum(quantity) FILTER (WHERE kind = 'taken'), 0) AS taken,
               COALESCE(sum(quantity) FILTER (WHERE kind = 'returned'), 0) AS returned
        FROM moves GROUP BY product_id),
    held AS (SELECT product_id, sum(quantity) AS held FROM reservations WHERE status = 'held' GROUP BY product_id)
    SELECT 'stock and ledger differ: ' || product_id FROM stock LEFT JOIN ledger l USING (product_id)
    WHERE on_hand + shipped <> COALESCE(l.adjusted, 0) OR shipped <> COALESCE(l.taken - l.returned, 0)
       OR stock.reserved <> COALESCE(l.reserved - l.released - l.taken, 0)
    UNION ALL
    SELECT 'negative: ' || product_id FROM stock WHERE on_hand < 0 OR reserved < 0 OR on_hand < reserved
    UNION ALL
    SELECT 'stock and reservations differ: ' || product_id FROM stock LEFT JOIN held USING (product_id)
    WHERE stock.reserved <> COALESCE(held, 0)
    UNION ALL
    SELECT 'moved twice by one command: ' || product_id FROM moves
    WHERE command_id IS NOT NULL GROUP BY product_id, command_id HAVING count(*) > 1";

/// Creates the reserve of these lines.
pub fn reserve(lines: &[(&str, i64)]) -> Command {
    let lines: Vec<Value> = lines.iter().map(|(p, n)| json!({ "productId": p, "quantity": n })).collect();
    execute("reserve", json!({ "lines": lines }))
}

/// Creates the take of a reservation.
pub fn take(reserve: &Command) -> Command {
    let saga_id = reserve.saga_id;
    let command_id = amends_protocol::id::execute(saga_id, "take", 0, 1);
    Command { saga_id, command_id, ..execute("take", json!({ "reservation": reserve.command_id })) }
}

/// Returns the change of what is held according to a reply: product and quantity.
pub fn deltas(reply: &Reply) -> Vec<(&str, i64)> {
    assert!(reply.exposure.iter().all(|e| e.kind == "stock_reserved"), "{:?}", reply.exposure);
    reply.exposure.iter().map(|e| (e.unit.as_str(), e.amount)).collect()
}

/// Returns what is held according to all replies, each command counted once.
pub fn held(replies: &[Reply]) -> Vec<Exposure> {
    // A probe repeats what is recorded for another command.
    let own = replies.iter().filter(|r| matches!(r.kind, Kind::Execute | Kind::Compensate));
    let by_command: BTreeMap<_, _> =
        own.filter(|r| !r.exposure.is_empty()).map(|r| (r.command_id, r)).collect();
    let mut sum = Vec::new();
    by_command.values().for_each(|reply| add_exposure(&mut sum, &reply.exposure));
    sum.sort_by(|a, b| a.unit.cmp(&b.unit));
    sum
}
