//! Applies to every route: checks the caller, reads the body within limits, and adds problem details to the framework's
//! own answers.

use std::{any::Any, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{Next, from_fn, from_fn_with_state, map_response},
    response::{IntoResponse, Response},
};
use bytes::BytesMut;
use futures::StreamExt;
use tower::ServiceBuilder;
use tower_http::{catch_panic::CatchPanicLayer, timeout::TimeoutLayer};

use crate::{Fault, ProblemDetails, Rules, body::MAX_BYTES, origin, request_id};

/// The longest duration of a request.
pub const REQUEST_LONGEST: Duration = Duration::from_secs(30);
/// How long a body may take to arrive.
const BODY_LONGEST: Duration = Duration::from_secs(10);
/// Number of bytes read of a body that is too long before the connection is given up.
const BODY_DROPPED: usize = 16 << 20;

/// Which pages may load an answer without asking (Fetch, 3.7).
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Applies the rules to routes.
pub fn guarded(routes: Router, rules: Rules) -> Router {
    let panicked = CatchPanicLayer::custom(|panic: Box<dyn Any + Send + 'static>| {
        let what =
            panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
        tracing::error!(panic = what.unwrap_or("?"), "a handler panicked");
        ProblemDetails::internal().into_response()
    });
    // One layer for the router: each layer clones all that is inside it for each request, and a router's are boxes.
    let rules = ServiceBuilder::new()
        .layer(from_fn(request_id::identified))
        .layer(map_response(kept_private))
        .layer(panicked)
        .layer(map_response(as_problem))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, REQUEST_LONGEST))
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(Arc::new(rules), admit))
        .layer(map_response(as_problem));
    routes.layer(rules)
}

/// A browser must not guess another media type than the stated one, and must not load an answer into a page of another
/// origin. No cache keeps an answer whose route does not say so.
async fn kept_private<B>(mut response: Response<B>) -> Response<B> {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Reads the body before any answer, even a refusal: a client that is answered while it still sends may see a broken
/// connection instead of the answer.
async fn admit(State(rules): State<Arc<Rules>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let body = match tokio::time::timeout(BODY_LONGEST, whole(body)).await {
        Ok(Ok(body)) => body,
        Ok(Err(problem)) => return problem.into_response(),
        Err(_) => return ProblemDetails::too_slow().into_response(),
    };
    let origin = match rules.check(&parts) {
        Ok(origin) => origin,
        Err(problem) => return problem.into_response(),
    };
    if origin::has_dot_segments(&parts.uri) {
        return ProblemDetails::no_such_path().into_response();
    }
    if let Some(origin) = &origin
        && let Some(response) = origin::preflight(&parts.method, &parts.headers, origin)
    {
        return response;
    }
    let mut response = next.run(Request::from_parts(parts, body)).await;
    if let Some(origin) = origin {
        origin::allow(&mut response, &origin);
    }
    response
}

/// Reads a body. If it is too long, the rest is read and dropped, up to a limit.
async fn whole(body: Body) -> Result<Body, ProblemDetails> {
    let (mut kept, mut length) = (BytesMut::new(), 0);
    let mut stream = body.into_data_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| ProblemDetails::unreadable("The body ended early."))?;
        length += chunk.len();
        if length <= MAX_BYTES {
            kept.extend_from_slice(&chunk);
        } else if length > BODY_DROPPED {
            break;
        }
    }
    if length > MAX_BYTES { Err(ProblemDetails::too_large()) } else { Ok(Body::from(kept.freeze())) }
}

async fn as_problem(response: Response) -> Response {
    let headers = response.headers();
    if headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind != "text/plain; charset=utf-8") {
        return response;
    }
    match response.status() {
        StatusCode::SERVICE_UNAVAILABLE => ProblemDetails::unavailable(
            "There was no answer in time. Sending the same request with the same key again is safe.",
        )
        .into_response(),
        StatusCode::NOT_FOUND => ProblemDetails::no_such_path().into_response(),
        StatusCode::METHOD_NOT_ALLOWED => {
            let allow = headers.get(header::ALLOW).cloned();
            let mut problem = ProblemDetails::method_not_allowed().into_response();
            if let Some(allow) = allow {
                problem.headers_mut().insert(header::ALLOW, allow);
            }
            problem
        }
        StatusCode::PAYLOAD_TOO_LARGE => ProblemDetails::too_large().into_response(),
        // This program reads bodies and queries itself; what the framework refuses is the path.
        StatusCode::BAD_REQUEST => {
            let fault = Fault::parameter("path", "it cannot be read as UTF-8");
            ProblemDetails::invalid(vec![fault]).into_response()
        }
        _ => response,
    }
}
