//! `/api/inventory`: shows and changes the stock of products, and shows its ledger.
//!
//! Lists continue behind `after`; the api, which is the only client, makes signed cursors of it.

mod changes;

use std::{sync::Arc, time::Duration};

use amends_http::{
    accept,
    query::{self, Parameter},
};
use amends_pool::Pool;
use axum::{
    Json, Router,
    extract::{OriginalUri, Path, Request, State},
    http::Uri,
    middleware::{Next, from_fn, from_fn_with_state},
    response::Response,
    routing::{get, post, put},
};
use serde::Serialize;
use sqlx::FromRow;
use tokio::{sync::Semaphore, time::timeout};
use utoipa::ToSchema;

use crate::{
    by_hand::{self, ON_HAND_MOST},
    cache::StockCache,
    movements::{self, Movement},
    problem::Problem,
};

pub use changes::{AddRequest, SUBJECT, StockRequest};

const PAGE_USUAL: i64 = 100;
const PAGE_LARGEST: i64 = 1_000;
/// Number of products that a page reads at most when it looks for those with little stock.
const BELOW_SCAN: i64 = 1_000;
const AFTER: &str = "after";
const LIMIT: &str = "limit";
const BELOW: &str = "below";

/// How long a request waits for its turn.
const TURN_PATIENCE: Duration = Duration::from_secs(2);

/// What the routes share.
#[derive(Debug, Clone)]
struct Shared {
    pool: Pool,
    cache: StockCache,
}

/// Returns the inventory's HTTP routes. They serve `at_once` requests at a time, each with one of the pool's
/// connections; what they change is forgotten by the cache of their readers. The caller applies the rules of every HTTP edge ([`amends_http::guarded`]).
pub fn router(pool: impl Into<Pool>, at_once: u32, cache: StockCache) -> Router {
    let turns = Arc::new(Semaphore::new(at_once as usize));
    Router::new()
        .route("/api/inventory/{productId}", get(one))
        .route("/api/inventory/{productId}/stock", put(changes::set_stock))
        .route("/api/inventory", post(changes::add))
        .route_layer(from_fn(query::none))
        .route("/api/inventory", get(list))
        .route("/api/inventory/{productId}/movements", get(movements))
        .route_layer(from_fn(accept::json))
        .route_layer(from_fn_with_state(turns, in_turn))
        .with_state(Shared { pool: pool.into(), cache })
}

/// Serves a request once it has its turn. Without this it would wait for a connection, and the answer would blame the
/// database.
async fn in_turn(
    State(turns): State<Arc<Semaphore>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    match timeout(TURN_PATIENCE, turns.acquire()).await {
        Ok(Ok(_turn)) => Ok(next.run(request).await),
        _ => Err(Problem::Busy),
    }
}

/// A product's stock as shown to clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, ToSchema)]
#[schema(as = Stock)]
#[serde(rename_all = "camelCase")]
pub struct Product {
    product_id: String,
    /// Pieces in the warehouse.
    on_hand: i64,
    /// Pieces of these that are reserved for orders.
    reserved: i64,
    /// Pieces that can still be ordered.
    available: i64,
}

#[derive(Debug, Serialize)]
struct Page<T> {
    items: Vec<T>,
    next: Option<String>,
}

/// What a list's request asks for.
struct Asked {
    after: Option<String>,
    limit: i64,
    /// Only products of which fewer are available.
    below: Option<i64>,
}

impl Asked {
    fn read(uri: &Uri, known: &[Parameter]) -> Result<Self, Problem> {
        let mut asked = Self { after: None, limit: PAGE_USUAL, below: None };
        for (name, value) in query::read(uri, known)? {
            match (name, value.parse()) {
                (AFTER, _) => asked.after = Some(value),
                (LIMIT, Ok(stated)) if (1..=PAGE_LARGEST).contains(&stated) => asked.limit = stated,
                (BELOW, Ok(stated)) if (1..=ON_HAND_MOST).contains(&stated) => asked.below = Some(stated),
                (BELOW, _) => return Err(Problem::parameter(BELOW, &format!("must be 1-{ON_HAND_MOST}"))),
                _ => return Err(Problem::parameter(LIMIT, "must be 1-1000")),
            }
        }
        Ok(asked)
    }
}

async fn list(
    State(Shared { pool, .. }): State<Shared>,
    OriginalUri(uri): OriginalUri,
) -> Result<Json<Page<Product>>, Problem> {
    let known = [Parameter::Once(AFTER), Parameter::Once(LIMIT), Parameter::Once(BELOW)];
    let Asked { after, limit, below } = Asked::read(&uri, &known)?;
    let after = after.map(|after| product_id(after, AFTER)).transpose()?.unwrap_or_default();
    let scan = if below.is_some() { BELOW_SCAN } else { limit };
    let mut seen: Vec<Product> = sqlx::query_as(
        "SELECT product_id, on_hand, reserved, on_hand - reserved AS available FROM stock
         WHERE product_id > $1 ORDER BY product_id LIMIT $2",
    )
    .bind(after)
    // One row more than is looked at is read: it shows whether there are more.
    .bind(scan + 1)
    .fetch_all(&pool)
    .await?;
    let is_end = seen.len() <= count(scan);
    seen.truncate(count(scan));
    Ok(Json(page(seen, is_end, below, limit)))
}

/// Returns the page of the products that were read: those that are wanted, as many as fit, and where the next begins.
fn page(seen: Vec<Product>, is_end: bool, below: Option<i64>, limit: i64) -> Page<Product> {
    let scanned = seen.last().map(|product| product.product_id.clone());
    let is_wanted = |product: &Product| below.is_none_or(|below| product.available < below);
    let mut items: Vec<Product> = seen.into_iter().filter(is_wanted).collect();
    let is_full = items.len() > count(limit);
    items.truncate(count(limit));
    let next = match (is_full, is_end) {
        (true, _) => items.last().map(|product| product.product_id.clone()),
        (false, true) => None,
        (false, false) => scanned,
    };
    Page { items, next }
}

fn count(limit: i64) -> usize {
    usize::try_from(limit).unwrap_or_default()
}

async fn one(
    State(Shared { pool, .. }): State<Shared>,
    Path(id): Path<String>,
) -> Result<Json<Product>, Problem> {
    let id = product_id(id, "productId")?;
    let product = sqlx::query_as(
        "SELECT product_id, on_hand, reserved, on_hand - reserved AS available FROM stock WHERE product_id = $1",
    )
    .bind(id)
    .fetch_optional(&pool)
    .await?;
    product.map(Json).ok_or(Problem::UnknownProduct)
}

async fn movements(
    State(Shared { pool, .. }): State<Shared>,
    Path(id): Path<String>,
    OriginalUri(uri): OriginalUri,
) -> Result<Json<Page<Movement>>, Problem> {
    let id = product_id(id, "productId")?;
    let Asked { after, limit, .. } = Asked::read(&uri, &[Parameter::Once(AFTER), Parameter::Once(LIMIT)])?;
    let before = match after.as_deref().map(str::parse) {
        None => i64::MAX,
        Some(Ok(number)) => number,
        Some(Err(_)) => return Err(Problem::parameter(AFTER, "must be the id of a movement")),
    };
    let mut items = movements::list(&pool, &id, before, limit + 1).await?;
    if items.is_empty() && !by_hand::is_known(&pool, &id).await? {
        return Err(Problem::UnknownProduct);
    }
    let is_last = items.len() <= count(limit);
    items.truncate(count(limit));
    let next = items.last().filter(|_| !is_last).map(|movement| movement.id.to_string());
    Ok(Json(Page { items, next }))
}

fn is_product_id(id: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=64).contains(&id.len()) && id.chars().all(allowed)
}

const PRODUCT_ID: &str = "1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'";

fn product_id(id: String, parameter: &'static str) -> Result<String, Problem> {
    if is_product_id(&id) { Ok(id) } else { Err(Problem::parameter(parameter, PRODUCT_ID)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Products `a`, `b`, … of which these are available.
    fn seen(available: &[i64]) -> Vec<Product> {
        let product = |(id, &available): (char, &i64)| Product {
            product_id: id.to_string(),
            on_hand: available,
            reserved: 0,
            available,
        };
        ('a'..).zip(available).map(product).collect()
    }

    #[test]
    fn a_page_of_what_is_low_continues_behind_what_was_read_though_it_shows_little() {
        let cut = |available: &[i64], is_end, limit| {
            let Page { items, next } = page(seen(available), is_end, Some(10), limit);
            (items.into_iter().map(|product| product.product_id).collect::<String>(), next)
        };
        assert_eq!(cut(&[20, 30], false, 5), (String::new(), Some("b".into())));
        assert_eq!(cut(&[9, 30, 0], false, 5), ("ac".into(), Some("c".into())));
        assert_eq!(cut(&[9, 30, 0, 1], false, 2), ("ac".into(), Some("c".into())));
        assert_eq!(cut(&[9, 30, 0], true, 2), ("ac".into(), None));
        assert_eq!(cut(&[], true, 2), (String::new(), None));
    }
}
