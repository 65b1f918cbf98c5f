//! HTTP, a file a resource.

pub mod admin;
pub mod health;
mod inventory;
mod orders;

use std::sync::Arc;

use amends_http::accept;
use axum::{Router, middleware::from_fn};

use crate::state::Api;

/// The api's routes. The rules of every HTTP edge stand in front of them where they are served.
pub fn router(api: Arc<Api>) -> Router {
    let observed = health::router(health::Ready::api(Arc::clone(&api)), api.metrics.clone());
    let routes = Router::new().merge(orders::router()).merge(inventory::router()).merge(admin::router());
    routes.route_layer(from_fn(accept::json)).with_state(api).merge(observed)
}
