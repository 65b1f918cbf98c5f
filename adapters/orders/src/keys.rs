//! Table `idempotency_keys`: the order that belongs to each key.

use std::collections::HashMap;

use amends_pool::Pool;
use amends_postgres::{Error, columns::each, error};
use sqlx::{FromRow, Postgres, postgres::PgArguments, query::Query};
use uuid::Uuid;

use crate::order::{NewOrder, OrderRow, order_columns};

/// The order that belongs to a key.
#[derive(Debug, FromRow)]
pub(crate) struct Stored {
    asked_by: Uuid,
    pub(crate) fingerprint: Vec<u8>,
    #[sqlx(flatten)]
    pub(crate) order: OrderRow,
}

/// An order, and the request that placed it with a key.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct KeyedOrder {
    /// The digest of the request's body.
    pub fingerprint: Vec<u8>,
    /// The order.
    #[sqlx(flatten)]
    pub order: OrderRow,
}

/// Returns the first order for each key, sorted by key.
pub(crate) fn first_of_each<'a>(orders: &[&'a NewOrder]) -> Vec<&'a NewOrder> {
    fn key(order: &NewOrder) -> Option<(&str, &str)> {
        order.idempotency.as_ref().map(|(key, _)| (order.subject.as_str(), key.as_str()))
    }
    let mut keyed: Vec<&NewOrder> =
        orders.iter().copied().filter(|order| order.idempotency.is_some()).collect();
    keyed.sort_by_key(|order| key(order));
    keyed.dedup_by_key(|order| key(order));
    keyed
}

/// How long keys are kept, and in which partitions: a row of `idempotency_key_classes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyClass {
    /// Keys of placed orders, kept for one day.
    Placement = 0,
}

/// Empties the partition of the oldest expired keys when its turn has come, and directs new keys to it; returns whether
/// it did.
///
/// # Errors
/// The database's, for example if the keys are in use all the time. It is done later.
pub async fn turn(pool: &Pool, class: KeyClass) -> Result<bool, Error> {
    sqlx::query_scalar("SELECT turn_keys($1)").bind(class as i16).fetch_one(pool).await.map_err(error::of)
}

/// Binds the next five parameters: those of the functions `take_keys` and `claim_keys`.
pub(crate) fn bind<'q>(
    query: Query<'q, Postgres, PgArguments>,
    orders: &[&'q NewOrder],
) -> Query<'q, Postgres, PgArguments> {
    query
        .bind(KeyClass::Placement as i16)
        .bind(each(orders, |order| order.subject.as_str()))
        .bind(each(orders, |order| order.idempotency.as_ref().map(|(key, _)| key.as_str())))
        .bind(each(orders, |order| order.id))
        .bind(each(orders, |order| order.idempotency.as_ref().map(|(_, fingerprint)| fingerprint.as_slice())))
}

/// Reads the orders that belong to these orders' keys, by the id of the order that asks.
pub(crate) async fn read(
    pool: &Pool,
    home: i16,
    orders: &[&NewOrder],
) -> Result<HashMap<Uuid, Stored>, sqlx::Error> {
    if orders.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<Stored> = sqlx::query_as(concat!(
        "SELECT w.id AS asked_by, k.fingerprint, ",
        order_columns!(),
        " FROM UNNEST($2::uuid[], $3::text[], $4::text[]) AS w (id, subject, key)
             JOIN idempotency_keys AS k ON ($1::int2 IS NULL OR k.home = $1) AND k.subject = w.subject AND k.key = w.key
             JOIN orders AS o ON ($1::int2 IS NULL OR o.home = $1) AND o.id = k.order_id
         WHERE k.generation BETWEEN 3 * $5 AND 3 * $5 + 2 ORDER BY k.expires_at"
    ))
    .bind(home)
    .bind(each(orders, |order| order.id))
    .bind(each(orders, |order| order.subject.as_str()))
    .bind(each(orders, |order| order.idempotency.as_ref().map(|(key, _)| key.as_str())))
    .bind(KeyClass::Placement as i16)
    .fetch_all(pool)
    .await?;
    // If a key was taken again after it had expired, the younger row counts.
    Ok(rows.into_iter().map(|row| (row.asked_by, row)).collect())
}

/// Reads the order that a subject placed with this key, and the fingerprint of its request, in a database with one home.
pub(crate) async fn placed_with(
    pool: &Pool,
    subject: &str,
    key: &str,
) -> Result<Option<KeyedOrder>, sqlx::Error> {
    sqlx::query_as(concat!(
        "SELECT k.fingerprint, ",
        order_columns!(),
        " FROM idempotency_keys AS k JOIN orders AS o ON o.home = k.home AND o.id = k.order_id
         WHERE k.subject = $1 AND k.key = $2 AND k.generation BETWEEN 3 * $3 AND 3 * $3 + 2
           AND k.expires_at > clock_timestamp()
         ORDER BY k.expires_at DESC LIMIT 1"
    ))
    .bind(subject)
    .bind(key)
    .bind(KeyClass::Placement as i16)
    .fetch_optional(pool)
    .await
}
