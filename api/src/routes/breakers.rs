//! `/admin/circuit-breakers`: the services behind the api, and whether they are asked. Breakers belong to this process:
//! each of several apis has its own.

use std::sync::Arc;

use amends_http::{body, query};
use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode},
    middleware::from_fn,
    response::{IntoResponse, Response},
};
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::{
    auth::{
        Caller, Right,
        access::{Access, Routes},
    },
    gateway::breaker::{Breaker, BreakerState, Mode, Snapshot},
    http::openapi::{Answer, Operation, schema::Text},
    orders::request::text,
    problem::Problem,
    state::Api,
};

pub fn routes() -> Routes<Arc<Api>> {
    Routes::default()
        .on(
            Method::GET,
            "/admin/circuit-breakers",
            Access::Needs(Right::ReadSagas),
            list,
            Operation::new(
                "listCircuitBreakers",
                "List the services behind the api, and whether they are asked",
            )
            .answer(Answer::json::<BreakerList>(StatusCode::OK, "The breakers of this process.")),
        )
        .on(
            Method::PUT,
            "/admin/circuit-breakers/{name}",
            Access::Needs(Right::HoldBreakers),
            hold,
            Operation::new(
                "holdCircuitBreaker",
                "Cut a service off, ask it in any case, or leave that to its answers",
            )
            .body::<HoldRequest>(json!({ "mode": "automatic", "reason": "the network is repaired" }))
            .answer(Answer::json::<BreakerView>(StatusCode::OK, "The breaker as it is now.")),
        )
        .each(|routes| routes.route_layer(from_fn(query::none)))
}

/// A breaker as shown to clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = CircuitBreaker)]
#[serde(rename_all = "camelCase")]
pub struct BreakerView {
    /// The service.
    name: &'static str,
    state: BreakerState,
    mode: Mode,
    /// Number of calls that are remembered, and how many of them failed.
    calls: u32,
    failed: u32,
    /// Seconds until the service is asked again, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    retry_after_seconds: Option<u64>,
}

/// The breakers of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = CircuitBreakerList)]
struct BreakerList {
    items: Vec<BreakerView>,
}

impl BreakerView {
    fn of(breaker: &Breaker) -> Self {
        let Snapshot { mode, state, calls, failed, wait } = breaker.snapshot();
        let retry_after_seconds =
            wait.map(|wait| wait.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX));
        Self { name: breaker.name(), state, mode, calls, failed, retry_after_seconds }
    }
}

/// `PUT /admin/circuit-breakers/{name}`, as it is sent.
#[derive(Debug, Clone, Serialize, Deserialize, Validate, ToSchema)]
#[schema(description = "Who decides whether a service is asked.")]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HoldRequest {
    /// `open`, `closed`, or `automatic` again.
    #[garde(skip)]
    mode: Mode,
    /// Why, for the log.
    #[garde(custom(text))]
    #[schema(value_type = Text)]
    reason: String,
}

async fn list(State(api): State<Arc<Api>>) -> Response {
    let items: Vec<BreakerView> =
        api.upstreams().into_iter().map(|upstream| BreakerView::of(upstream.breaker())).collect();
    Json(BreakerList { items }).into_response()
}

async fn hold(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Json<BreakerView>, Problem> {
    let HoldRequest { mode, reason } = body::read(&headers, &body)?;
    let upstreams = api.upstreams();
    let found = upstreams.into_iter().find(|upstream| upstream.breaker().name() == name);
    let breaker =
        found.ok_or_else(|| Problem::NotFound("There is no such circuit breaker.".to_owned()))?.breaker();
    tracing::warn!(
        service = breaker.name(),
        ?mode,
        by = caller.subject(),
        reason,
        "a circuit breaker is set by hand"
    );
    breaker.hold(mode);
    Ok(Json(BreakerView::of(breaker)))
}
