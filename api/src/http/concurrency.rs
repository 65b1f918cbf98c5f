//! A limit of requests that are carried out at once. A request counts once it has arrived as a whole, so slow clients take
//! no place of others; a stream counts until it begins.

use std::sync::Arc;

use amends_http::{ProblemDetails, problem_types};
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::sync::Semaphore;

/// How long a caller is asked to wait.
const BUSY_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

/// The places of requests that are carried out.
#[derive(Debug, Clone)]
pub struct Concurrency(Arc<Semaphore>);

impl Concurrency {
    /// Creates so many places; `None` if it is 0.
    pub fn new(places: u32) -> Option<Self> {
        (places > 0).then(|| Self(Arc::new(Semaphore::new(places as usize))))
    }
}

/// The layer. Health and metrics are always answered.
pub async fn limit(State(Concurrency(places)): State<Concurrency>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if !path.starts_with("/api") && !path.starts_with("/admin") {
        return next.run(request).await;
    }
    let Ok(_place) = places.try_acquire() else {
        metrics::counter!("amends_api_limited_total", "by" => "concurrency").increment(1);
        let detail = "Too many requests are carried out at once. Nothing was changed. Try again later.";
        return ProblemDetails::new(problem_types::BUSY, detail).retry_after(BUSY_WAIT).into_response();
    };
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, middleware::from_fn_with_state, routing::get};
    use futures::{FutureExt, pin_mut};
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn one_request_more_than_there_are_places_is_refused_until_one_has_ended() {
        let (places, slow) = (Concurrency::new(1).unwrap(), Arc::new(Semaphore::new(0)));
        let waits = {
            let slow = Arc::clone(&slow);
            move || async move { drop(slow.acquire().await) }
        };
        let routes = Router::new().route("/api/slow", get(waits)).route("/health/live", get(|| async {}));
        let app = routes.layer(from_fn_with_state(places, limit));
        let ask = |path: &str| {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            let answer = app.clone().oneshot(request);
            async { answer.await.unwrap() }
        };
        let first = ask("/api/slow");
        pin_mut!(first);
        assert!(first.as_mut().now_or_never().is_none());
        let second = ask("/api/slow").await;
        assert_eq!(second.status(), 503);
        assert!(second.headers().contains_key("retry-after"));
        assert_eq!(ask("/health/live").await.status(), 200);
        slow.add_permits(9);
        assert_eq!(first.await.status(), 200);
        assert_eq!(ask("/api/slow").await.status(), 200);
    }

    #[test]
    fn without_the_setting_there_is_no_limit() {
        assert!(Concurrency::new(0).is_none());
    }
}
