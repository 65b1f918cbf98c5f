//! The HTTP routes: one file per resource.

pub mod admin;
pub mod health;
mod inventory;
mod orders;

use std::sync::Arc;

use amends_http::accept;
use axum::{Router, middleware::from_fn};

use crate::state::Api;

/// Returns the api's routes. The rules of every HTTP edge are applied where they are served.
pub fn router(api: Arc<Api>) -> Router {
    let observed = health::router(health::Ready::api(Arc::clone(&api)), api.metrics.clone());
    let routes = Router::new().merge(orders::router()).merge(inventory::router()).merge(admin::router());
    routes.route_layer(from_fn(accept::json)).with_state(api).merge(observed)
}
