//! Idempotency keys in a database with several homes.
//!
//! A key's home follows from its hash, and its order has another. So the key is taken first, by a row that names the
//! order's id, and the order is placed afterwards. A process that dies between the two leaves a key whose order does not
//! exist. Who meets such a key waits for the order, as for a transaction that is just placing it. Once the order can no
//! longer be placed, because its statement would come too late ([`CLAIM_SETTLES`]), the key is given to the order that
//! asks. Of several that ask, one gets it: the row is changed only while it names the order that was not placed.

use std::{collections::HashMap, time::Duration};

use amends_pool::Pool;
use amends_postgres::{
    Database, Error, Homes,
    columns::{each, small},
    error,
    homes::{Answers, answers_of_homes},
    lost_commit,
};
use amends_protocol::id;
use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use crate::{
    keys::{self, KeyClass, KeyedOrder},
    order::{NewOrder, OrderRow, order_columns},
};

/// After this time from its birth an order that does not exist never will: a statement that arrives 12 s after the birth
/// is refused (`arrives_in_time`), and one that runs ends within 10 s. The rest is for the clocks of the nodes.
pub const CLAIM_SETTLES: Duration = Duration::from_secs(30);

/// The order that has a key, and the digest of its request's body.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    pub named: Uuid,
    pub fingerprint: Vec<u8>,
}

#[derive(FromRow)]
struct ClaimRow {
    asked_by: Uuid,
    named: Uuid,
    known: Vec<u8>,
}

/// The home of an order's key.
fn home(homes: Homes, order: &NewOrder) -> i16 {
    home_of(homes, &order.subject, order.idempotency.as_ref().map_or("", |(key, _)| key.as_str()))
}

fn home_of(homes: Homes, subject: &str, key: &str) -> i16 {
    let name = format!("{subject}\0{key}");
    let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).into_bytes();
    homes.of_slot(u16::from_be_bytes([hash[0], hash[1]]))
}

/// Takes the keys of these orders, sorted by key, if they are free; returns for each order who has its key now, or why
/// that is not known.
///
/// # Errors
/// The error of a database with one home.
pub(crate) async fn claim(
    Database { pool, homes, .. }: &Database,
    orders: &[&NewOrder],
) -> Result<HashMap<Uuid, Result<Claim, Error>>, Error> {
    let parts = homes.divide(orders.iter().copied(), |order| home(*homes, order));
    let claim = |home, orders| claim_home(pool, home, orders);
    let Answers { answers, failed } = answers_of_homes(*homes, parts, claim).await?;
    let claimed = answers
        .into_iter()
        .flatten()
        .map(|row: ClaimRow| (row.asked_by, Ok(Claim { named: row.named, fingerprint: row.known })));
    let failed = failed
        .into_iter()
        .flat_map(|(orders, error)| orders.into_iter().map(move |order| (order.id, Err(error.clone()))));
    Ok(claimed.chain(failed).collect())
}

async fn claim_home(pool: &Pool, home: i16, orders: Vec<&NewOrder>) -> Result<Vec<ClaimRow>, Error> {
    let query =
        sqlx::query("SELECT asked_by, named, known FROM claim_keys($1, $2, $3, $4, $5, $6)").bind(home);
    let rows = keys::bind(query, &orders).fetch_all(pool).await.map_err(error::of)?;
    rows.iter().map(ClaimRow::from_row).collect::<Result<_, _>>().map_err(error::of)
}

/// Gives back the keys of orders that were certainly not placed.
pub(crate) async fn release(Database { pool, homes, .. }: &Database, orders: &[&NewOrder]) {
    let keyed = orders.iter().copied().filter(|order| order.idempotency.is_some());
    let parts = homes.divide(keyed, |order| home(*homes, order));
    let release = |home, orders: Vec<&NewOrder>| {
        let query = sqlx::query(
            "UPDATE idempotency_keys AS k SET expires_at = now()
             FROM UNNEST($2::text[], $3::text[], $4::uuid[]) AS w (subject, key, order_id)
             WHERE ($1::int2 IS NULL OR k.home = $1) AND k.subject = w.subject AND k.key = w.key
               AND k.order_id = w.order_id",
        );
        let query = query
            .bind(home)
            .bind(each(&orders, |order| order.subject.clone()))
            .bind(each(&orders, |order| order.idempotency.as_ref().map(|(key, _)| key.clone())))
            .bind(each(&orders, |order| order.id));
        async move { query.execute(pool).await.map_err(error::of) }
    };
    // What cannot be given back is replaced later.
    if let Err(error) = answers_of_homes(*homes, parts, release).await {
        tracing::warn!(%error, "keys of orders that were not placed could not be given back");
    }
}

/// Gives an order the key of another that was not placed, and never will be. Returns whether it has the key.
///
/// # Errors
/// The database's.
pub(crate) async fn replace(
    database: &Database,
    order: &NewOrder,
    lost: Uuid,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    if now < id::born_at(lost) + CLAIM_SETTLES || exists(database, lost).await? {
        return Ok(false);
    }
    let Some((key, fingerprint)) = &order.idempotency else { return Ok(false) };
    let replaced = sqlx::query(
        "UPDATE idempotency_keys SET order_id = $4, fingerprint = $5
         WHERE ($1::int2 IS NULL OR home = $1) AND subject = $2 AND key = $3 AND order_id = $6",
    )
    .bind(home(database.homes, order))
    .bind(&order.subject)
    .bind(key)
    .bind(order.id)
    .bind(&fingerprint[..])
    .bind(lost)
    .execute(&database.pool)
    .await
    .map_err(error::of)?;
    if replaced.rows_affected() > 0 {
        metrics::counter!("amends_orders_claims_replaced_total").increment(1);
        tracing::warn!(order = %order.id, %lost, "a key was taken for an order that was never placed; it was replaced");
    }
    Ok(replaced.rows_affected() > 0)
}

/// Returns whether an order exists, once no transaction is writing in its slot.
async fn exists(Database { pool, homes, .. }: &Database, order_id: Uuid) -> Result<bool, Error> {
    let home = homes.of(order_id);
    let ask = async {
        let mut tx = pool.begin().await?;
        lost_commit::wait_for_slots(&mut tx, home, &[small(id::slot(order_id))]).await?;
        let found = sqlx::query("SELECT FROM orders WHERE ($1::int2 IS NULL OR home = $1) AND id = $2")
            .bind(home)
            .bind(order_id)
            .fetch_optional(&mut *tx)
            .await?;
        tx.rollback().await?;
        Ok(found.is_some())
    };
    ask.await.map_err(error::of)
}

/// Reads the order that a subject has placed with this key, if the key has not expired.
///
/// # Errors
/// The database's.
pub(crate) async fn placed_with(
    database: &Database,
    subject: &str,
    key: &str,
) -> Result<Option<KeyedOrder>, Error> {
    let row: Option<(Uuid, Vec<u8>)> = sqlx::query_as(
        "SELECT order_id, fingerprint FROM idempotency_keys
         WHERE ($1::int2 IS NULL OR home = $1) AND subject = $2 AND key = $3
           AND generation BETWEEN 3 * $4 AND 3 * $4 + 2 AND expires_at > clock_timestamp()
         ORDER BY expires_at DESC LIMIT 1",
    )
    .bind(home_of(database.homes, subject, key))
    .bind(subject)
    .bind(key)
    .bind(KeyClass::Placement as i16)
    .fetch_optional(&database.pool)
    .await
    .map_err(error::of)?;
    let Some((id, fingerprint)) = row else { return Ok(None) };
    let order = orders(database, &[id]).await?.remove(&id);
    Ok(order.map(|order| KeyedOrder { fingerprint, order }))
}

/// Reads these orders; those whose home fails, or that do not exist, are left out.
///
/// # Errors
/// The error of a database with one home.
pub(crate) async fn orders(
    Database { pool, homes, .. }: &Database,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, OrderRow>, Error> {
    let read = |home, ids: Vec<Uuid>| async move {
        sqlx::query_as(concat!(
            "SELECT ",
            order_columns!(),
            " FROM UNNEST($2::uuid[]) AS w (id) JOIN orders AS o ON ($1::int2 IS NULL OR o.home = $1) AND o.id = w.id"
        ))
        .bind(home)
        .bind(ids)
        .fetch_all(pool)
        .await
        .map_err(error::of)
    };
    let Answers { answers, .. } = answers_of_homes(*homes, homes.divide_ids(ids), read).await?;
    Ok(answers.into_iter().flatten().map(|order: OrderRow| (order.id, order)).collect())
}
