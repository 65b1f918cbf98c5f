//! `/health/live`, `/health/ready`, `/metrics`: in every role.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use amends_http::{accept, query};
use amends_pool::{Pool, Unwritable, WriteCheck};
use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::{
    auth::access::{Access, Routes},
    http::openapi::{Answer, Operation},
    state::Api,
};

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

/// Once the process is stopping, says that it is not ready, and asks clients to connect anew, elsewhere. What is
/// asked meanwhile is still answered.
pub async fn while_leaving(
    State(leaving): State<CancellationToken>,
    request: Request,
    next: Next,
) -> Response {
    if !leaving.is_cancelled() {
        return next.run(request).await;
    }
    let mut response = if request.uri().path() == READY {
        let checks = BTreeMap::from([("process", "stopping".to_owned())]);
        (StatusCode::SERVICE_UNAVAILABLE, Json(Readiness { status: "not ready", checks })).into_response()
    } else {
        next.run(request).await
    };
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Returns the routes of every role that serves them alone.
pub fn router(ready: Ready, metrics: Option<PrometheusHandle>) -> Router {
    routes(ready, metrics).unchecked()
}

/// Returns the routes; those of metrics are left out if the metrics have another address. They need no token.
pub fn routes<S: Clone + Send + Sync + 'static>(
    ready: Ready,
    metrics: Option<PrometheusHandle>,
) -> Routes<S> {
    let json = Routes::default()
        .on(
            Method::GET,
            LIVE,
            Access::Open,
            async || Json(Live { status: "live" }),
            Operation::new("isLive", "Ask whether the process runs")
                .answer(Answer::json::<Live>(StatusCode::OK, "It runs.")),
        )
        .on(
            Method::GET,
            READY,
            Access::Open,
            async move || report((ready.0)().await),
            Operation::new("isReady", "Ask whether the process can serve requests")
                .answer(Answer::json::<Readiness>(StatusCode::OK, "All that it needs is available."))
                .answer(Answer::json::<Readiness>(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "Something that it needs is unavailable; `checks` says what.",
                )),
        )
        .each(|routes| routes.route_layer(from_fn(accept::json)));
    let text = metrics.map(|metrics| {
        Routes::default()
            .on(
                Method::GET,
                "/metrics",
                Access::Open,
                async move || {
                    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render())
                },
                Operation::new("readMetrics", "Read the metrics, for Prometheus").answer(Answer::of(
                    &["text/plain"],
                    StatusCode::OK,
                    "Prometheus' text format.",
                )),
            )
            .each(|routes| routes.route_layer(from_fn(accept::plain_text)))
    });
    let all = match text {
        Some(text) => json.merge(text),
        None => json,
    };
    all.each(|routes| routes.route_layer(from_fn(query::none)))
}

/// The process runs.
#[derive(Serialize, ToSchema)]
struct Live {
    status: &'static str,
}

/// Whether the process can serve requests.
#[derive(Serialize, ToSchema)]
struct Readiness {
    /// `ready` or `not ready`.
    status: &'static str,
    /// What it needs: `up`, or why not.
    checks: BTreeMap<&'static str, String>,
}

fn report(checks: Vec<Check>) -> impl IntoResponse {
    let ready = checks.iter().all(|(_, check)| check.is_ok());
    let word = |check: Result<(), Unwritable>| check.map_or_else(|why| why.to_string(), |()| "up".to_owned());
    let (code, status) =
        if ready { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") };
    let checks = checks.into_iter().map(|(what, check)| (what, word(check))).collect();
    (code, Json(Readiness { status, checks }))
}
