//! `/api/notifications`: shows what was recorded and how it was sent. The api is the only client: it knows whose orders are
//! whose, and makes signed cursors of `after`.

use std::{sync::Arc, time::Duration};

use amends_http::{
    Fault, ProblemDetails, accept, body, problem_types,
    query::{self, Parameter},
};
use amends_pool::Pool;
use axum::{
    Json, Router,
    extract::{OriginalUri, Path, Request, State},
    http::Uri,
    middleware::{Next, from_fn, from_fn_with_state},
    response::Response,
    routing::get,
};
use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, time::timeout};
use uuid::Uuid;

use crate::{
    list::{Filter, Notification, STATUSES},
    store::NotificationStore,
};

const ORDER: &str = "orderId";
const STATUS: &str = "status";
const AFTER: &str = "after";
const LIMIT: &str = "limit";
const PARAMETERS: [Parameter; 4] =
    [Parameter::Any(ORDER), Parameter::Any(STATUS), Parameter::Once(AFTER), Parameter::Once(LIMIT)];
const PAGE_USUAL: i64 = 50;
const PAGE_LARGEST: i64 = 200;
/// The largest number of orders that a request may name.
const ORDERS_MOST: usize = 200;
/// How long a request waits for its turn.
const TURN_PATIENCE: Duration = Duration::from_secs(2);

/// A page, as the worker answers it.
#[derive(Debug, Serialize, Deserialize)]
pub struct NotificationPage {
    /// The notifications. There may be fewer than `limit`, even none, while `next` is set.
    pub items: Vec<Notification>,
    /// `after` of the next page: the order and the id of a notification.
    pub next: Option<String>,
}

/// Returns the worker's HTTP routes. They serve `at_once` requests at a time, each with one of the pool's connections. The
/// caller applies the rules of every HTTP edge ([`amends_http::guarded`]).
pub fn router(pool: impl Into<Pool>, at_once: u32) -> Router {
    let turns = Arc::new(Semaphore::new(at_once as usize));
    Router::new()
        .route("/api/notifications/{id}", get(one))
        .route_layer(from_fn(query::none))
        .route("/api/notifications", get(list))
        .route_layer(from_fn(accept::json))
        .route_layer(from_fn_with_state(turns, in_turn))
        .with_state(NotificationStore::new(pool))
}

/// Serves a request once it has its turn. Without this it would wait for a connection, and the answer would blame the
/// database.
async fn in_turn(
    State(turns): State<Arc<Semaphore>>,
    request: Request,
    next: Next,
) -> Result<Response, ProblemDetails> {
    match timeout(TURN_PATIENCE, turns.acquire()).await {
        Ok(Ok(_turn)) => Ok(next.run(request).await),
        _ => {
            let detail = "Too many requests about notifications are served at once. Try again later.";
            Err(ProblemDetails::new(problem_types::BUSY, detail).retry_after(Duration::from_secs(1)))
        }
    }
}

async fn one(
    State(store): State<NotificationStore>,
    Path(id): Path<String>,
) -> Result<Json<Notification>, ProblemDetails> {
    let id = body::id("id", &id)?;
    let found = store.read(id).await.map_err(unavailable)?;
    found.map(Json).ok_or_else(|| ProblemDetails::not_found("There is no such notification."))
}

async fn list(
    State(store): State<NotificationStore>,
    OriginalUri(uri): OriginalUri,
) -> Result<Json<NotificationPage>, ProblemDetails> {
    let page = store.list(&filter(&uri)?).await.map_err(unavailable)?;
    let next = page.next.map(|(order, id)| format!("{order}.{id}"));
    Ok(Json(NotificationPage { items: page.items, next }))
}

fn unavailable(error: sqlx::Error) -> ProblemDetails {
    tracing::warn!(%error, "a request failed");
    ProblemDetails::unavailable("The notifications' database is unavailable.")
}

fn filter(uri: &Uri) -> Result<Filter, ProblemDetails> {
    let mut filter = Filter { limit: PAGE_USUAL, ..Filter::default() };
    let mut faults = Vec::new();
    for (name, value) in query::read(uri, &PARAMETERS)? {
        let why = match name {
            ORDER => match value.parse() {
                Ok(order) if filter.orders.as_ref().is_none_or(|known| known.len() < ORDERS_MOST) => {
                    filter.orders.get_or_insert_default().push(order);
                    continue;
                }
                _ => "must be the id of an order, 200 at most".to_owned(),
            },
            STATUS if STATUSES.contains(&value.as_str()) => {
                filter.statuses.push(value);
                continue;
            }
            STATUS => format!("must be one of {}", STATUSES.join(", ")),
            AFTER => match place(&value) {
                Some(after) => {
                    filter.after = Some(after);
                    continue;
                }
                None => "must be the `next` of a page".to_owned(),
            },
            _ => match value.parse() {
                Ok(limit) if (1..=PAGE_LARGEST).contains(&limit) => {
                    filter.limit = limit;
                    continue;
                }
                _ => format!("must be 1-{PAGE_LARGEST}"),
            },
        };
        faults.push(Fault::parameter(name, why));
    }
    if faults.is_empty() { Ok(filter) } else { Err(ProblemDetails::invalid(faults)) }
}

fn place(text: &str) -> Option<(Uuid, Uuid)> {
    let (order, id) = text.split_once('.')?;
    Some((order.parse().ok()?, id.parse().ok()?))
}
