//! HTTP, a file a resource.

pub mod admin;
pub mod health;
mod inventory;
mod orders;

use std::{any::Any, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, Request},
    http::StatusCode,
    middleware::{Next, from_fn, map_response},
    response::{IntoResponse, Response},
};
use bytes::BytesMut;
use futures::StreamExt;
use tower_http::{catch_panic::CatchPanicLayer, timeout::TimeoutLayer};

use crate::{
    body::MAX_BYTES,
    problem::{Fault, Problem},
    state::Api,
};

/// No request takes longer.
const LONGEST: Duration = Duration::from_secs(30);
/// Of a body that is too long so much is read, in bytes, before the connection is given up.
const DROPPED: usize = 16 << 20;

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
        .layer(from_fn(whole_body))
        .layer(DefaultBodyLimit::disable())
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, LONGEST))
        .layer(map_response(as_problem))
        .layer(CatchPanicLayer::custom(|panic: Box<dyn Any + Send + 'static>| {
            let what =
                panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
            tracing::error!(panic = what.unwrap_or("?"), "a handler panicked");
            Problem::Internal.into_response()
        }))
}

/// Reads the body before anything is answered: a client that is answered while it still sends may see a broken
/// connection instead of the answer. What is too long is read and dropped, within reason.
async fn whole_body(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let (mut kept, mut length) = (BytesMut::new(), 0);
    let mut stream = body.into_data_stream();
    while let Some(chunk) = stream.next().await {
        let Ok(chunk) = chunk else {
            return Problem::Unreadable("The body ended before its time.".to_owned()).into_response();
        };
        length += chunk.len();
        if length <= MAX_BYTES {
            kept.extend_from_slice(&chunk);
        } else if length > DROPPED {
            break;
        }
    }
    if length > MAX_BYTES {
        return Problem::TooLarge.into_response();
    }
    next.run(Request::from_parts(parts, Body::from(kept.freeze()))).await
}

async fn as_problem(response: Response) -> Response {
    let headers = response.headers();
    if headers.get("content-type").is_some_and(|t| t != "text/plain; charset=utf-8") {
        return response;
    }
    match response.status() {
        StatusCode::SERVICE_UNAVAILABLE => Problem::Unavailable(
            "There was no answer in time; the same request with the same key is safe.".to_owned(),
        )
        .into_response(),
        StatusCode::METHOD_NOT_ALLOWED => {
            let allow = headers.get("allow").cloned();
            let mut problem = Problem::MethodNotAllowed.into_response();
            if let Some(allow) = allow {
                problem.headers_mut().insert("allow", allow);
            }
            problem
        }
        StatusCode::PAYLOAD_TOO_LARGE => Problem::TooLarge.into_response(),
        // Bodies are read by us: what the framework refuses is the path or the query.
        StatusCode::BAD_REQUEST => {
            Problem::Invalid(vec![Fault::parameter("path", "it cannot be read as UTF-8")]).into_response()
        }
        _ => response,
    }
}
