//! `/api/inventory`: what there is of each product, and putting stock in.

use amends_protocol::wire;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, Path, Query, State,
        rejection::{BytesRejection, PathRejection, QueryRejection},
    },
    routing::{get, put},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::{FromRow, PgPool};

use crate::{
    problem::Problem,
    stock::{Move, append},
};

const LONGEST_BODY: usize = 64 << 10;
const MOST_ON_HAND: i64 = 1_000_000_000_000;
const LONGEST_PAGE: i64 = 1_000;

/// The inventory's HTTP routes.
pub fn router(pool: PgPool) -> Router {
    Router::new()
        .route("/api/inventory", get(list))
        .route("/api/inventory/{productId}", get(one))
        .route("/api/inventory/{productId}/stock", put(set_stock))
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .fallback(async || Problem::NotFound)
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .with_state(pool)
}

/// A product as it is shown.
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    after: Option<String>,
    limit: Option<i64>,
}

async fn list(
    State(pool): State<PgPool>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<Page>, Problem> {
    let Query(PageQuery { after, limit }) =
        query.map_err(|_| Problem::parameter("after, limit", "a product id, and a number; nothing else"))?;
    let limit = limit.unwrap_or(100);
    if !(1..=LONGEST_PAGE).contains(&limit) {
        return Err(Problem::parameter("limit", "1 to 1000"));
    }
    let after = after.map_or(Ok(String::new()), |after| product_id(after, "after"))?;
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

async fn one(
    State(pool): State<PgPool>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Product>, Problem> {
    let id = id.map_err(|_| Problem::NotFound)?.0;
    let id = product_id(id, "productId")?;
    let product = sqlx::query_as(
        "SELECT product_id, on_hand, reserved, on_hand - reserved AS available FROM stock WHERE product_id = $1",
    )
    .bind(id)
    .fetch_optional(&pool)
    .await?;
    product.map(Json).ok_or(Problem::UnknownProduct)
}

/// Says how much is on hand. The difference is an adjustment in the ledger; a new product begins with it.
async fn set_stock(
    State(pool): State<PgPool>,
    id: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Product>, Problem> {
    let id = id.map_err(|_| Problem::NotFound)?.0;
    let id = product_id(id, "productId")?;
    let on_hand = read_on_hand(&body.map_err(|e| {
        if e.status().as_u16() == 413 { Problem::TooLarge } else { Problem::Unreadable(e.body_text()) }
    })?)?;
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

fn product_id(id: String, parameter: &str) -> Result<String, Problem> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=64).contains(&id.len()) && id.chars().all(allowed) {
        return Ok(id);
    }
    Err(Problem::parameter(parameter, "1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'"))
}

/// `{"onHand": 100}` and nothing else.
fn read_on_hand(body: &[u8]) -> Result<i64, Problem> {
    wire::check(body).map_err(|e| Problem::Unreadable(e.to_string()))?;
    let value: Value = serde_json::from_slice(body)
        .map_err(|e| Problem::Unreadable(format!("not JSON at line {}, column {}", e.line(), e.column())))?;
    let fields: Map<String, Value> = match value {
        Value::Object(fields) => fields,
        _ => return Err(Problem::at("", "an object")),
    };
    if let Some(unknown) = fields.keys().find(|name| *name != "onHand") {
        let escaped = unknown.replace('~', "~0").replace('/', "~1");
        return Err(Problem::at(format!("/{escaped}"), "unknown field"));
    }
    fields
        .get("onHand")
        .and_then(Value::as_i64)
        .filter(|n| (0..=MOST_ON_HAND).contains(n))
        .ok_or_else(|| Problem::at("/onHand", "a whole number from 0 to 1000000000000"))
}
