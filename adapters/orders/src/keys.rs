//! Table `idempotency_keys`: which order a key stands for.

use std::collections::HashMap;

use amends_pool::Pool;
use amends_postgres::{Error, columns::each, error};
use sqlx::{FromRow, Postgres, postgres::PgArguments, query::Query};
use uuid::Uuid;

use crate::order::{NewOrder, OrderRow, order_columns};

/// What a key stands for.
#[derive(Debug, FromRow)]
pub(crate) struct Stored {
    asked_by: Uuid,
    pub(crate) fingerprint: Vec<u8>,
    #[sqlx(flatten)]
    pub(crate) order: OrderRow,
}

/// The first order with each key, sorted by it.
pub(crate) fn first_of_each(orders: &[NewOrder]) -> Vec<&NewOrder> {
    fn key(order: &NewOrder) -> Option<(&str, &str)> {
        order.idempotency.as_ref().map(|(key, _)| (order.subject.as_str(), key.as_str()))
    }
    let mut keyed: Vec<&NewOrder> = orders.iter().filter(|order| order.idempotency.is_some()).collect();
    keyed.sort_by_key(|order| key(order));
    keyed.dedup_by_key(|order| key(order));
    keyed
}

/// How long a key is kept, and in which partitions: a line of `idempotency_key_classes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyClass {
    /// Keys of placed orders, kept for a day.
    Placement = 0,
}

/// Part of a statement that takes the keys that are free or expired, in the order given (sorted, so that two doors
/// cannot deadlock), and returns for which orders.
macro_rules! take {
    () => {
        "taken AS MATERIALIZED (
            SELECT order_id FROM take_keys($30, $18::text[], $19::text[], $20::uuid[], $21::bytea[]) AS t (order_id)
        )"
    };
}
pub(crate) use take;

/// Empties the partition of the keys that have expired longest, if its turn has come, and takes keys in it from then
/// on; returns whether it did.
///
/// # Errors
/// The database's: that others use the keys all the time is one. It is done later.
pub async fn turn(pool: &Pool, class: KeyClass) -> Result<bool, Error> {
    sqlx::query_scalar("SELECT turn_keys($1)").bind(class as i16).fetch_one(pool).await.map_err(error::of)
}

/// Binds its parameters.
pub(crate) fn bind<'q>(
    query: Query<'q, Postgres, PgArguments>,
    orders: &[&'q NewOrder],
) -> Query<'q, Postgres, PgArguments> {
    query
        .bind(each(orders, |order| order.subject.as_str()))
        .bind(each(orders, |order| order.idempotency.as_ref().map(|(key, _)| key.as_str())))
        .bind(each(orders, |order| order.id))
        .bind(each(orders, |order| order.idempotency.as_ref().map(|(_, fingerprint)| fingerprint.as_slice())))
}

/// What these orders' keys stand for, by the order that asks.
pub(crate) async fn read(pool: &Pool, orders: &[&NewOrder]) -> Result<HashMap<Uuid, Stored>, sqlx::Error> {
    let rows: Vec<Stored> = sqlx::query_as(concat!(
        "SELECT w.id AS asked_by, k.fingerprint, ",
        order_columns!(),
        " FROM UNNEST($1::uuid[], $2::text[], $3::text[]) AS w (id, subject, key)
             JOIN idempotency_keys AS k ON k.subject = w.subject AND k.key = w.key
             JOIN orders AS o ON o.id = k.order_id
         WHERE k.generation BETWEEN 3 * $4 AND 3 * $4 + 2 ORDER BY k.expires_at"
    ))
    .bind(each(orders, |order| order.id))
    .bind(each(orders, |order| order.subject.as_str()))
    .bind(each(orders, |order| order.idempotency.as_ref().map(|(key, _)| key.as_str())))
    .bind(KeyClass::Placement as i16)
    .fetch_all(pool)
    .await?;
    // Of a key that was taken again once it had expired, the younger row is the one that counts.
    Ok(rows.into_iter().map(|row| (row.asked_by, row)).collect())
}
