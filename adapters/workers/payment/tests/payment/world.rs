//! A database, a topic, and workers on both.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use amends_payment::{MIGRATOR, Payments, SandboxGateway, settings};
use amends_protocol::{Command, Kind, Reply, add_exposure};
use amends_testkit::TestDatabase;
use amends_worker::{External, PgRows, Settings, Timer};
use serde_json::json;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::transport::{Consumer, SOON, Topics, execute};

pub struct World {
    pub database: TestDatabase,
    /// Connections with the service's role.
    pub pool: PgPool,
    pub topics: Topics,
    /// The pauses that the gateways have requested so far.
    pub waited: Waited,
    stop: CancellationToken,
    _stops: DropGuard,
}

/// A worker as these tests run it: its gateway waits by a timer of the test.
pub type Worker = External<PgRows, Payments<SandboxGateway<Waited>>, Consumer, Topics>;

/// A timer that records the requested pauses. It waits only while it is stopped.
#[derive(Clone, Default)]
pub struct Waited {
    pub pauses: Arc<Mutex<Vec<Duration>>>,
    pub stands_still: bool,
    pub goes_on: Arc<Notify>,
}

impl Waited {
    /// Creates a stopped timer.
    pub fn stopped() -> Self {
        Self { stands_still: true, ..Self::default() }
    }

    /// Waits until a call waits for the timer.
    pub async fn is_waited_for(&self) {
        let waits = async || (!self.pauses.lock().unwrap().is_empty()).then_some(());
        amends_testkit::eventually("a call that takes its time", SOON, waits).await;
    }
}

impl Timer for Waited {
    async fn sleep(&self, pause: Duration) {
        self.pauses.lock().unwrap().push(pause);
        if self.stands_still {
            self.goes_on.notified().await;
        }
    }
}

/// Calls may stay unanswered for a fifth of a second, and all other pauses are short.
pub fn short() -> Settings {
    Settings {
        patience: Duration::from_millis(20),
        call_timeout: Duration::from_millis(200),
        lease: Duration::from_millis(600),
        recovery_interval: Duration::from_millis(20),
        grace: Duration::from_millis(100),
        ..settings()
    }
}

impl World {
    /// Creates a world without a worker.
    pub async fn quiet() -> Self {
        let database = amends_testkit::database(&MIGRATOR, "payment").await;
        let url = database.role_url("amends_payment");
        let pool = PgPoolOptions::new().max_connections(6).connect(&url).await.unwrap();
        let stop = CancellationToken::new();
        let (topics, waited) = (Topics::default(), Waited::default());
        Self { database, pool, topics, waited, _stops: stop.clone().drop_guard(), stop }
    }

    /// Creates a world with one worker.
    pub async fn new() -> Self {
        let world = Self::quiet().await;
        world.start(world.worker(short()));
        world
    }

    /// Creates an instance of the worker, not yet started.
    pub fn worker(&self, settings: Settings) -> Worker {
        self.worker_of(self.waited.clone(), settings)
    }

    pub fn worker_of(&self, timer: Waited, settings: Settings) -> Worker {
        let payments = Payments::new(SandboxGateway::with_timer(self.pool.clone(), timer));
        let (source, sink) = (self.topics.source(), self.topics.clone());
        External::new(PgRows::new(self.pool.clone()), payments, source, sink, settings)
    }

    /// Runs a worker until the end of the test, or until it is aborted.
    pub fn start(&self, worker: Worker) -> tokio::task::JoinHandle<()> {
        tokio::spawn(worker.run(self.stop.clone()))
    }

    pub async fn settled(&self, command: &Command) -> Reply {
        self.topics.settled(command).await
    }

    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.database.pool).await.unwrap()
    }

    /// Returns how often the key of this charge was captured, and how often refunded.
    pub async fn effects(&self, charge: &Command) -> (i64, i64) {
        sqlx::query_as(
            "SELECT (SELECT count(*) FROM gateway_charges WHERE key = $1 AND declined IS NULL),
                    (SELECT count(*) FROM gateway_refunds WHERE charge_key = $1)",
        )
        .bind(charge.command_id)
        .fetch_one(&self.database.pool)
        .await
        .unwrap()
    }

    /// Returns the amount that the gateway has captured and not refunded.
    pub async fn captured(&self) -> i64 {
        self.count(
            "SELECT (SELECT COALESCE(sum(amount), 0) FROM gateway_charges WHERE declined IS NULL)::int8
                  - (SELECT COALESCE(sum(amount), 0) FROM gateway_refunds)::int8",
        )
        .await
    }

    /// Returns the amount held according to the worker's rows.
    pub async fn recorded(&self) -> i64 {
        self.count(
            "SELECT COALESCE(sum((e->>'amount')::int8), 0)::int8
             FROM commands, json_array_elements(reply::json->'exposure') AS e WHERE status = 'succeeded'",
        )
        .await
    }

    /// Returns the amount held according to the replies, each command counted once.
    pub fn told(&self) -> i64 {
        let mut replies = self.topics.replies();
        replies.retain(|r| matches!(r.kind, Kind::Execute | Kind::Compensate) && !r.exposure.is_empty());
        replies.sort_by_key(|r| r.command_id);
        replies.dedup_by_key(|r| r.command_id);
        let mut held = Vec::new();
        replies.iter().for_each(|r| add_exposure(&mut held, &r.exposure));
        held.iter().map(|e| e.amount).sum()
    }
}

/// Creates a payment of 25.00 EUR by this method.
pub fn pay(method: &str) -> Command {
    execute("pay", json!({ "amount": 2500, "currency": "EUR", "method": method }))
}

/// Returns the change of what is held according to a reply.
pub fn deltas(reply: &Reply) -> Vec<(&str, &str, i64)> {
    reply.exposure.iter().map(|e| (e.kind.as_str(), e.unit.as_str(), e.amount)).collect()
}
