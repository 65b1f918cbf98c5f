//! `/api/inventory`: shows and sets the stock of products.

use std::{sync::Arc, time::Duration};

use amends_http::{
    accept, body,
    query::{self, Parameter},
};
use amends_pool::Pool;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{OriginalUri, Path, Request, State},
    http::HeaderMap,
    middleware::{Next, from_fn, from_fn_with_state},
    response::Response,
    routing::{get, put},
};
use garde::Validate;
use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    problem::Problem,
    stock::{Move, append},
};

const ON_HAND_MOST: i64 = 1_000_000_000_000;
const PAGE_USUAL: i64 = 100;
const PAGE_LARGEST: i64 = 1_000;
const PARAMETERS: [Parameter; 2] = [Parameter::Once("after"), Parameter::Once("limit")];

/// How long a request waits for its turn.
const TURN_PATIENCE: Duration = Duration::from_secs(2);

/// Returns the inventory's HTTP routes. They serve `at_once` requests at a time, each with one of the pool's
/// connections. The caller applies the rules of every HTTP edge ([`amends_http::guarded`]).
pub fn router(pool: impl Into<Pool>, at_once: u32) -> Router {
    let turns = Arc::new(Semaphore::new(at_once as usize));
    Router::new()
        .route("/api/inventory/{productId}", get(one))
        .route("/api/inventory/{productId}/stock", put(set_stock))
        .route_layer(from_fn(query::none))
        .route("/api/inventory", get(list))
        .route_layer(from_fn(accept::json))
        .route_layer(from_fn_with_state(turns, in_turn))
        .with_state(pool.into())
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

/// A product as shown to clients.
#[derive(Debug, Serialize, FromRow)]
#[serde(rename_all = "camelCase")]
struct Product {
    product_id: String,
    on_hand: i64,
    reserved: i64,
    available: i64,
}

#[derive(Debug, Serialize)]
struct Page {
    items: Vec<Product>,
    next: Option<String>,
}

/// `{"onHand": 100}` and nothing else.
#[derive(Debug, Serialize, Deserialize, Validate)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewStock {
    #[garde(range(min = 0, max = ON_HAND_MOST))]
    on_hand: i64,
}

async fn list(State(pool): State<Pool>, OriginalUri(uri): OriginalUri) -> Result<Json<Page>, Problem> {
    let (mut after, mut limit) = (String::new(), PAGE_USUAL);
    for (name, value) in query::read(&uri, &PARAMETERS)? {
        match (name, value.parse()) {
            ("after", _) => after = product_id(value, "after")?,
            (_, Ok(stated)) if (1..=PAGE_LARGEST).contains(&stated) => limit = stated,
            _ => return Err(Problem::parameter("limit", "must be 1-1000")),
        }
    }
    let items: Vec<Product> = sqlx::query_as(
        "SELECT product_id, on_hand, reserved, on_hand - reserved AS available FROM stock
         WHERE product_id > $1 ORDER BY product_id LIMIT $2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(&pool)
    .await?;
    let is_full = i64::try_from(items.len()) == Ok(limit);
    let next = items.last().filter(|_| is_full).map(|p| p.product_id.clone());
    Ok(Json(Page { items, next }))
}

async fn one(State(pool): State<Pool>, Path(id): Path<String>) -> Result<Json<Product>, Problem> {
    let id = product_id(id, "productId")?;
    let product = sqlx::query_as(
        "SELECT product_id, on_hand, reserved, on_hand - reserved AS available FROM stock WHERE product_id = $1",
    )
    .bind(id)
    .fetch_optional(&pool)
    .await?;
    product.map(Json).ok_or(Problem::UnknownProduct)
}

/// Sets the quantity on hand. The difference is an adjustment in the ledger; a new product begins with one.
async fn set_stock(
    State(pool): State<Pool>,
    Path(id): Path<String>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Json<Product>, Problem> {
    let id = product_id(id, "productId")?;
    let NewStock { on_hand } = body::read(&headers, &bytes)?;
    let mut tx = pool.begin().await?;
    sqlx::query("INSERT INTO stock (product_id, on_hand) VALUES ($1, 0) ON CONFLICT DO NOTHING")
        .bind(&id)
        .execute(&mut *tx)
        .await?;
    let (before, reserved): (i64, i64) =
        sqlx::query_as("SELECT on_hand, reserved FROM stock WHERE product_id = $1 FOR UPDATE")
            .bind(&id)
            .fetch_one(&mut *tx)
            .await?;
    if on_hand < reserved {
        return Err(Problem::BelowReserved { reserved });
    }
    let difference = on_hand - before;
    if difference != 0 {
        sqlx::query("UPDATE stock SET on_hand = $2, adjusted = adjusted + $3 WHERE product_id = $1")
            .bind(&id)
            .bind(on_hand)
            .bind(difference)
            .execute(&mut *tx)
            .await?;
        let adjusted =
            Move { product_id: id.clone(), kind: "adjusted", quantity: difference, command_id: None };
        append(&mut tx, &[adjusted]).await?;
    }
    tx.commit().await?;
    Ok(Json(Product { product_id: id, on_hand, reserved, available: on_hand - reserved }))
}

fn product_id(id: String, parameter: &'static str) -> Result<String, Problem> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=64).contains(&id.len()) && id.chars().all(allowed) {
        return Ok(id);
    }
    Err(Problem::parameter(parameter, "1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'"))
}
