//! HTTP, a file a resource.

pub mod admin;
pub mod health;
mod inventory;
mod orders;

use std::{any::Any, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::StatusCode,
    middleware::map_response,
    response::{IntoResponse, Response},
};
use tower_http::{catch_panic::CatchPanicLayer, limit::RequestBodyLimitLayer, timeout::TimeoutLayer};

use crate::{body::MAX_BYTES, problem::Problem, state::Api};

/// No request takes longer.
const LONGEST: Duration = Duration::from_secs(30);

/// The api's routes.
pub fn router(api: Arc<Api>) -> Router {
    let observed = health::router(health::Ready::api(Arc::clone(&api)), api.metrics.clone());
    let routes = Router::new().merge(orders::router()).merge(inventory::router()).merge(admin::router());
    guarded(routes.with_state(api).merge(observed))
}

/// Limits, and problem details for whatever axum answers by itself.
pub fn guarded(routes: Router) -> Router {
    routes
        .fallback(async || Problem::NotFound("There is nothing at this path.".to_owned()))
        .layer(map_response(as_problem))
        .layer(DefaultBodyLimit::max(MAX_BYTES))
        .layer(RequestBodyLimitLayer::new(MAX_BYTES))
        .layer(map_response(as_problem))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, LONGEST))
        .layer(CatchPanicLayer::custom(|panic: Box<dyn Any + Send + 'static>| {
            let what =
                panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
            tracing::error!(panic = what.unwrap_or("?"), "a handler panicked");
            Problem::Internal.into_response()
        }))
}

async fn as_problem(response: Response) -> Response {
    let headers = response.headers();
    if headers.get("content-type").is_some_and(|t| t != "text/plain; charset=utf-8") {
        return response;
    }
    match response.status() {
        StatusCode::METHOD_NOT_ALLOWED => {
            let allow = headers.get("allow").cloned();
            let mut problem = Problem::MethodNotAllowed.into_response();
            if let Some(allow) = allow {
                problem.headers_mut().insert("allow", allow);
            }
            problem
        }
        StatusCode::PAYLOAD_TOO_LARGE => Problem::TooLarge.into_response(),
        StatusCode::BAD_REQUEST => {
            Problem::Unreadable("The request cannot be read.".to_owned()).into_response()
        }
        _ => response,
    }
}
