//! The HTTP routes: one file per resource. A route is added by a call of [`Routes::on`] in its file, with its right and
//! its description ([`crate::http::openapi`] shows how); the file's `routes()` is merged below. The tests that are made
//! from the OpenAPI document fail until the route has its line in `api/tests/processes/callers.rs`.

pub mod admin;
mod breakers;
mod docs;
mod failures;
pub mod health;
mod internal;
mod inventory;
mod key_set;
mod notifications;
mod old_addresses;
mod order_events;
mod order_list;
mod order_read;
mod order_refunds;
mod order_returns;
mod orders;
mod overviews;
mod personal_data;
mod problems;
mod products;
mod webhook_deliveries;
mod webhooks;

use std::sync::{Arc, LazyLock};

use amends_http::{accept, query};
use axum::{
    Router,
    http::{Extensions, HeaderMap, StatusCode, Version, header},
    middleware::{from_fn, from_fn_with_state},
};
use metrics_exporter_prometheus::PrometheusBuilder;
use tower::ServiceBuilder;
use tower_http::compression::{CompressionLayer, DefaultPredicate, Predicate};
use utoipa::openapi::OpenApi;

use crate::{
    auth::{
        access::{Route, Routes},
        bearer,
    },
    gateway::ServiceToken,
    http::{
        concurrency::{self, Concurrency},
        idempotency, latency, openapi,
        rate_limit::{self, LimitedBy, RateLimit},
        traces,
    },
    process::Process,
    state::Api,
};

pub use internal::paths as internal_paths;
pub use order_events::STREAMS_MOST;
pub use order_read::WAITING_MOST;
pub use webhooks::SHOW_SECRETS;

/// Returns the api's routes. The rules of every HTTP edge are applied where they are served.
///
/// `services` is the token of the services that the api serves on paths of their own; `None`: it serves none.
pub fn router(api: Arc<Api>, limits: Limits, services: Option<ServiceToken>) -> Router {
    let observed = health::routes(health::Ready::api(Arc::clone(&api)), api.metrics.clone());
    let authenticate = from_fn_with_state(Arc::clone(&api.auth), bearer::authenticate);
    let once = from_fn_with_state(Arc::clone(&api), idempotency::answer_once);
    let routes = resources().each(|routes| routes.route_layer(once)).merge(open()).merge(observed);
    let Limits { by_subject, by_address, concurrency, is_compressed } = limits;
    let limits = ServiceBuilder::new()
        .option_layer(concurrency.map(|limit| from_fn_with_state(limit, concurrency::limit)))
        .option_layer(by_address.map(|limit| from_fn_with_state(limit, rate_limit::limit)))
        .layer(authenticate)
        .option_layer(by_subject.map(|limit| from_fn_with_state(limit, rate_limit::limit)));
    // Each layer is outside of those before it: a caller without a token does not learn which paths exist, and an address
    // is limited before its tokens are looked at.
    let mut routes = routes.checked().with_state(Arc::clone(&api)).layer(limits);
    if is_compressed {
        routes = routes.layer(CompressionLayer::new().compress_when(DefaultPredicate::new().and(has_no_tag)));
    }
    routes =
        routes.layer(ServiceBuilder::new().layer(from_fn(latency::measured)).layer(from_fn(traces::traced)));
    if let Some(token) = services {
        // Not among the api's own routes: their callers have no tokens, the limits are not theirs, and they are in no
        // document. A router keeps the fallback of the one that is merged into it, and that of the api's routes asks for
        // a token.
        routes = internal::router(api, token).merge(routes);
    }
    routes
}

/// A strong tag is of the bytes that are sent, so an answer with a tag is sent as it is.
fn has_no_tag(_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions) -> bool {
    !headers.contains_key(header::ETAG)
}

/// The limits that are set.
#[derive(Debug, Default)]
pub struct Limits {
    /// Of each subject.
    pub by_subject: Option<RateLimit>,
    /// Of each address.
    pub by_address: Option<RateLimit>,
    /// Of all requests together.
    pub concurrency: Option<Concurrency>,
    /// Whether answers are compressed.
    pub is_compressed: bool,
}

impl Limits {
    /// Reads them from a process' settings.
    pub fn of(process: &Process) -> Self {
        let settings = &process.settings;
        let rate =
            |by, a_minute| RateLimit::new(by, a_minute, process.redis.clone(), settings.forwarding_proxies);
        Self {
            by_subject: rate(LimitedBy::Subject, settings.rate_limit_subject),
            by_address: rate(LimitedBy::Address, settings.rate_limit_address),
            concurrency: Concurrency::new(settings.concurrent_requests),
            is_compressed: settings.compression,
        }
    }
}

fn resources() -> Routes<Arc<Api>> {
    let resources = Routes::default()
        .merge(orders::routes())
        .merge(order_list::routes())
        .merge(order_read::routes())
        .merge(order_returns::routes())
        .merge(order_refunds::routes())
        .merge(products::routes())
        .merge(inventory::routes())
        .merge(webhooks::routes())
        .merge(webhook_deliveries::routes())
        .merge(notifications::routes())
        .merge(personal_data::routes())
        .merge(admin::routes())
        .merge(failures::routes())
        .merge(overviews::routes())
        .merge(breakers::routes());
    resources.each(|routes| routes.route_layer(from_fn(accept::json))).merge(order_events::routes())
}

/// Returns the routes that need no token, without those of every role.
fn open() -> Routes<Arc<Api>> {
    let open = Routes::default()
        .merge(key_set::routes())
        .merge(problems::routes())
        .merge(docs::routes())
        .merge(old_addresses::routes());
    open.each(|routes| routes.route_layer(from_fn(query::none)))
}

/// Returns the list of the api's routes, with who may call each and its description.
pub fn listed() -> Vec<Route> {
    // Nothing is asked of these: only the list is read.
    let ready = health::Ready::asking(async || Vec::new());
    let observed = health::routes(ready, Some(PrometheusBuilder::new().build_recorder().handle()));
    resources().merge(open()).merge(observed).listed().to_vec()
}

/// The OpenAPI document of the api.
pub static DOCUMENT: LazyLock<OpenApi> = LazyLock::new(|| openapi::document(&listed()));
