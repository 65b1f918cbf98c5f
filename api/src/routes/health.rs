//! `/health/live`, `/health/ready`, `/metrics`: in every role.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use amends_pool::{Pool, Unwritable, WriteCheck};
use axum::{
    Json, Router,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;

use crate::state::Api;

/// The name of a needed service, and its state: `up`, or why not.
type Check = (&'static str, Result<(), Unwritable>);
/// Time and result of the last check of a database.
type LastCheck = (Instant, Result<(), Unwritable>);
type Checking = Pin<Box<dyn Future<Output = Vec<Check>> + Send>>;

/// Checks whether what a role needs is available.
#[derive(Clone)]
pub struct Ready(Arc<dyn Fn() -> Checking + Send + Sync>);

/// How long the result for a database is cached, so that readiness probes cost little.
const WRITE_CHECK_KEPT: Duration = Duration::from_millis(250);

impl Ready {
    /// Creates it from any check.
    pub fn asking<F>(ask: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Vec<Check>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(ask())))
    }

    /// The api needs its database. (Without the broker it still accepts orders.)
    pub fn api(api: Arc<Api>) -> Self {
        Self::database(api.engine.store.pool())
    }

    /// A role that needs a writable database.
    pub fn database(pool: &Pool) -> Self {
        let check = WriteCheck::of(pool);
        let last: Arc<Mutex<Option<LastCheck>>> = Arc::default();
        Self::asking(move || {
            let (check, last) = (check.clone(), Arc::clone(&last));
            async move {
                let kept = *last.lock().unwrap_or_else(PoisonError::into_inner);
                let writable = match kept {
                    Some((at, writable)) if at.elapsed() < WRITE_CHECK_KEPT => writable,
                    _ => {
                        let writable = check.run().await;
                        *last.lock().unwrap_or_else(PoisonError::into_inner) =
                            Some((Instant::now(), writable));
                        writable
                    }
                };
                vec![("database", writable)]
            }
        })
    }

    /// Both must be available.
    pub fn and(self, other: Self) -> Self {
        Self::asking(move || {
            let (a, b) = ((self.0)(), (other.0)());
            async move {
                let (mut a, b) = (a.await, b.await);
                a.extend(b);
                a
            }
        })
    }
}

/// Whether the process lives.
pub const LIVE: &str = "/health/live";
/// Whether what it needs is available.
pub const READY: &str = "/health/ready";
/// The paths. They need no token.
pub const PATHS: [&str; 3] = [LIVE, READY, "/metrics"];

/// Returns the routes.
pub fn router<S: Clone + Send + Sync + 'static>(ready: Ready, metrics: PrometheusHandle) -> Router<S> {
    let [live, readiness, measured] = PATHS;
    Router::new()
        .route(live, get(async || Json(json!({ "status": "live" }))))
        .route(readiness, get(async move || report((ready.0)().await)))
        .route(
            measured,
            get(async move || {
                let kind = (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
                ([kind], metrics.render())
            }),
        )
}

fn report(checks: Vec<Check>) -> impl IntoResponse {
    let ready = checks.iter().all(|(_, check)| check.is_ok());
    let word = |check: Result<(), Unwritable>| check.map_or_else(|why| why.to_string(), |()| "up".to_owned());
    let checks: serde_json::Map<_, _> =
        checks.into_iter().map(|(what, check)| (what.to_owned(), json!(word(check)))).collect();
    let (status, word) =
        if ready { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") };
    (status, Json(json!({ "status": word, "checks": checks })))
}
