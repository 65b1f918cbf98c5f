//! Table `idempotency_keys`: which order a key stands for.

use std::collections::HashMap;

use amends_pool::Pool;
use amends_postgres::columns::each;
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

/// Part of a statement that takes the keys that are free or expired, in the order given (sorted, so that two doors
/// cannot deadlock), and answers for which orders. Who else is just taking one is waited for.
macro_rules! take {
    () => {
        "taken AS (
            INSERT INTO idempotency_keys AS k (subject, key, order_id, fingerprint, expires_at)
            SELECT w.*, clock_timestamp() + interval '24 hours'
            FROM UNNEST($18::text[], $19::text[], $20::uuid[], $21::bytea[]) AS w
            ON CONFLICT (subject, key) DO UPDATE
            SET order_id = EXCLUDED.order_id, fingerprint = EXCLUDED.fingerprint, expires_at = EXCLUDED.expires_at
            WHERE k.expires_at <= clock_timestamp()
            RETURNING order_id
        )"
    };
}
pub(crate) use take;

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
             JOIN orders AS o ON o.id = k.order_id"
    ))
    .bind(each(orders, |order| order.id))
    .bind(each(orders, |order| order.subject.as_str()))
    .bind(each(orders, |order| order.idempotency.as_ref().map(|(key, _)| key.as_str())))
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.asked_by, row)).collect())
}
