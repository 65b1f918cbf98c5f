//! The HTTP routes: one file per resource.

pub mod admin;
pub mod health;
mod inventory;
mod key_set;
mod order_events;
mod order_list;
mod order_read;
mod orders;
mod personal_data;

use std::sync::Arc;

use amends_http::accept;
use axum::{
    Router,
    middleware::{from_fn, from_fn_with_state},
};

use crate::{
    auth::{
        access::{Route, Routes},
        bearer,
    },
    http::idempotency,
    state::Api,
};

pub use order_events::STREAMS_MOST;
pub use order_read::WAITING_MOST;

/// Returns the api's routes. The rules of every HTTP edge are applied where they are served.
pub fn router(api: Arc<Api>) -> Router {
    let observed = health::router(health::Ready::api(Arc::clone(&api)), api.metrics.clone());
    let authenticate = from_fn_with_state(Arc::clone(&api.auth), bearer::authenticate);
    let once = from_fn_with_state(Arc::clone(&api), idempotency::answer_once);
    let routes = resources().each(|routes| routes.route_layer(once)).open(observed, &health::PATHS);
    // The last layer is the outermost: a caller without a token does not learn which paths exist.
    routes.checked().with_state(api).layer(authenticate)
}

fn resources() -> Routes<Arc<Api>> {
    let resources = Routes::default()
        .merge(orders::routes())
        .merge(order_list::routes())
        .merge(order_read::routes())
        .merge(inventory::routes())
        .merge(personal_data::routes())
        .merge(admin::routes());
    resources
        .each(|routes| routes.route_layer(from_fn(accept::json)))
        .merge(order_events::routes())
        .merge(key_set::routes())
}

/// Returns the list of the api's routes, with who may call each.
pub fn listed() -> Vec<Route> {
    resources().open(Router::new(), &health::PATHS).listed().to_vec()
}
