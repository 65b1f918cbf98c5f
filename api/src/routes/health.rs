//! `/health/live`, `/health/ready`, `/metrics`: in every role.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use sqlx::PgPool;

use crate::state::Api;

type Answer = Pin<Box<dyn Future<Output = Vec<(&'static str, bool)>> + Send>>;

/// Asks whether what a role needs is there.
#[derive(Clone)]
pub struct Ready(Arc<dyn Fn() -> Answer + Send + Sync>);

/// A readiness probe's answer is kept so long, so that probing costs nothing.
const KEPT: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(1);

impl Ready {
    /// From any question.
    pub fn asking<F>(ask: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Vec<(&'static str, bool)>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(ask())))
    }

    /// The api needs its database. (Without the broker it takes orders all the same.)
    pub fn api(api: Arc<Api>) -> Self {
        Self::database(api.engine.store.pool().clone())
    }

    /// A role that needs a database.
    pub fn database(pool: PgPool) -> Self {
        let last: Arc<Mutex<Option<(Instant, bool)>>> = Arc::default();
        Self::asking(move || {
            let (pool, last) = (pool.clone(), Arc::clone(&last));
            async move {
                let kept = *last.lock().unwrap_or_else(PoisonError::into_inner);
                let answers = match kept {
                    Some((at, answers)) if at.elapsed() < KEPT => answers,
                    _ => {
                        let asked =
                            tokio::time::timeout(PATIENCE, sqlx::query("SELECT").execute(&pool)).await;
                        let answers = matches!(asked, Ok(Ok(_)));
                        *last.lock().unwrap_or_else(PoisonError::into_inner) =
                            Some((Instant::now(), answers));
                        answers
                    }
                };
                vec![("database", answers)]
            }
        })
    }

    /// Both must be there.
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

/// The routes.
pub fn router<S: Clone + Send + Sync + 'static>(ready: Ready, metrics: PrometheusHandle) -> Router<S> {
    Router::new()
        .route("/health/live", get(async || Json(json!({ "status": "live" }))))
        .route("/health/ready", get(async move || report((ready.0)().await)))
        .route(
            "/metrics",
            get(async move || {
                let kind = (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
                ([kind], metrics.render())
            }),
        )
}

fn report(checks: Vec<(&'static str, bool)>) -> impl IntoResponse {
    let ready = checks.iter().all(|(_, there)| *there);
    let checks: serde_json::Map<_, _> = checks
        .into_iter()
        .map(|(what, there)| (what.to_owned(), json!(if there { "up" } else { "down" })))
        .collect();
    let (status, word) =
        if ready { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") };
    (status, Json(json!({ "status": word, "checks": checks })))
}
