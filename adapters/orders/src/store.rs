//! Table `orders`: many orders are placed in one transaction with their sagas.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use amends_engine::core::{Change, Entry};
use amends_pool::{Connection, DatabaseClock, Pool, sqlstate};
use amends_postgres::{
    Birth, Error, births,
    columns::{each, small},
    error, lost_commit, timeline,
};
use amends_protocol::halving::Parts;
use chrono::{DateTime, Utc};
use sqlx::Row as _;
use uuid::Uuid;

use crate::{
    keys,
    order::{NewOrder, OrderRow, OrderView, Placed, order_columns},
};

/// The orders in the engine's database.
#[derive(Debug, Clone)]
pub struct OrderStore {
    pool: Pool,
    clock: Arc<DatabaseClock>,
}

impl OrderStore {
    /// Creates a store over this pool.
    pub fn new(pool: impl Into<Pool>) -> Self {
        Self { pool: pool.into(), clock: Arc::default() }
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Returns the database's time, at which orders are born.
    ///
    /// # Errors
    /// The database's.
    pub async fn now(&self) -> Result<DateTime<Utc>, Error> {
        self.clock.now(&self.pool).await.map_err(error::of)
    }

    /// Places orders in one transaction, and returns a result for each, in order. `now` is what [`OrderStore::now`] has
    /// just returned; `birth` is called with it. Orders whose idempotency key is known, in the database or earlier in this batch, are not placed again. If
    /// another transaction is just placing an order with the same key, the statement waits for it. An order that cannot
    /// be stored is found by halving, so that it does not stop the rest.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: no order is half-made, but the caller must look up whether an order exists.
    pub async fn place(
        &self,
        now: DateTime<Utc>,
        orders: &[NewOrder],
        birth: impl Fn(&NewOrder, DateTime<Utc>) -> Change,
    ) -> Result<Vec<Placed>, Error> {
        let mut placed = Vec::with_capacity(orders.len());
        let mut parts = Parts::of(orders);
        while let Some(part) = parts.next() {
            match self.place_together(now, part, &birth).await {
                Ok(answers) => placed.extend(answers),
                Err(Error::Data(why)) => {
                    placed.extend(parts.halve(part).map(|_| Placed::Unstorable(why)));
                }
                Err(other) => return Err(other),
            }
        }
        Ok(placed)
    }

    async fn place_together(
        &self,
        now: DateTime<Utc>,
        orders: &[NewOrder],
        birth: &impl Fn(&NewOrder, DateTime<Utc>) -> Change,
    ) -> Result<Vec<Placed>, Error> {
        let rows: Vec<(OrderRow, Change)> = orders
            .iter()
            .map(|order| {
                let change = birth(order, now);
                (order.row(&change), change)
            })
            .collect();
        let mut connection = self.pool.acquire().await.map_err(error::of)?;
        let placed = match insert(&mut connection, orders, &rows).await {
            Ok(placed) => {
                // The connection is released before another is acquired.
                drop(connection);
                placed
            }
            Err(lost) if sqlstate::leaves_open(&lost) => {
                connection.distrust();
                drop(connection);
                self.read_back(&rows, &lost).await?
            }
            Err(error) => return Err(error::of(error)),
        };
        let losers: Vec<&NewOrder> = orders.iter().filter(|order| !placed.contains(&order.id)).collect();
        let stored = match losers.is_empty() {
            true => HashMap::new(),
            false => keys::read(&self.pool, &losers).await.map_err(error::of)?,
        };
        let answers = orders.iter().zip(rows).map(|(order, (row, change))| {
            if placed.contains(&order.id) {
                return Ok(Placed::New { order: Box::new(row), change: Box::new(change) });
            }
            let stored = stored.get(&order.id).ok_or_else(|| unexplained(order))?;
            let same = order.idempotency.as_ref().is_some_and(|(_, own)| stored.fingerprint == own);
            Ok(if same { Placed::Replayed(Box::new(stored.order.clone())) } else { Placed::KeyReused })
        });
        answers.collect()
    }

    /// Reads back which orders were placed after the answer to the commit was lost. Taking the slots' locks waits for a
    /// backend that may still be committing.
    async fn read_back(
        &self,
        rows: &[(OrderRow, Change)],
        lost: &sqlx::Error,
    ) -> Result<HashSet<Uuid>, Error> {
        metrics::counter!("amends_postgres_commits_read_back_total").increment(1);
        tracing::warn!(%lost, "the answer to a commit was lost; reading the result back");
        let mut slots = each(rows, |(_, change)| small(change.saga.slot));
        slots.sort_unstable();
        slots.dedup();
        let ids = each(rows, |(row, _)| row.id);
        let (slots, ids) = (&slots, &ids);
        let ask = || async move {
            let mut tx = self.pool.begin().await?;
            lost_commit::wait_for_slots(&mut tx, slots).await?;
            let there: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM orders WHERE id = ANY($1)")
                .bind(ids)
                .fetch_all(&mut *tx)
                .await?;
            tx.rollback().await?;
            Ok(HashSet::from_iter(there))
        };
        let there: HashSet<Uuid> =
            lost_commit::ask_again(|| async { ask().await.map_err(error::of) }).await?;
        // None was found, but each had a key that may belong to another order: it is only certain that nothing was
        // placed.
        match there.is_empty() {
            true => Err(Error::Unavailable(format!("nothing was placed: {lost}"))),
            false => Ok(there),
        }
    }

    /// Reads an order as it is now.
    ///
    /// # Errors
    /// The database's.
    pub async fn get(&self, order_id: Uuid) -> Result<Option<OrderView>, Error> {
        sqlx::query_as(
            concat!(
                "SELECT ",
                order_columns!(),
                ", s.label, s.heading_for, s.reason::json AS reason, s.updated_at, p.data::json AS personal
                 FROM orders AS o JOIN sagas AS s ON s.id = o.saga_id LEFT JOIN personal AS p ON p.saga_id = s.id
                 WHERE o.id = $1"
            ),
        )
        .bind(order_id)
        .fetch_optional(&self.pool)
        .await
        .map_err(error::of)
    }

    /// Reads the id of an order's newest saga.
    ///
    /// # Errors
    /// The database's.
    pub async fn saga_of(&self, order_id: Uuid) -> Result<Option<Uuid>, Error> {
        sqlx::query_scalar("SELECT saga_id FROM orders WHERE id = $1")
            .bind(order_id)
            .fetch_optional(&self.pool)
            .await
            .map_err(error::of)
    }

    /// Reads the timeline of an order's newest saga, from its birth on; `None` if there is no such order.
    ///
    /// # Errors
    /// The database's, or an entry of a newer program.
    pub async fn timeline(&self, order_id: Uuid) -> Result<Option<Vec<Entry>>, Error> {
        match self.saga_of(order_id).await? {
            Some(saga_id) => Ok(Some(timeline::of(&self.pool, saga_id).await?)),
            None => Ok(None),
        }
    }
}

/// Keys, orders and the births of their sagas (function `place_orders`): one statement, one transaction, one round
/// trip. The last sixteen parameters are those of [`births::bind`].
const PLACE: &str = "SELECT place_orders($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, \
     $20, $21, $22, $23, $24, $25, $26, $27, $28, $29)";

async fn insert(
    connection: &mut Connection,
    orders: &[NewOrder],
    rows: &[(OrderRow, Change)],
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let births: Vec<Birth<'_>> = orders
        .iter()
        .zip(rows)
        .map(|(order, (_, change))| Birth { change, personal: Some(&order.personal) })
        .collect();
    // The first order of the batch with a key takes it; the others get that order's result.
    let asking = keys::first_of_each(orders);
    let query = keys::bind(sqlx::query(PLACE), &asking)
        .bind(each(orders, |order| order.id))
        .bind(each(orders, |order| order.idempotency.is_some()))
        .bind(each(rows, |(row, _)| row.cancels_at))
        .bind(each(orders, |order| order.total))
        .bind(each(orders, |order| order.subject.as_str()))
        .bind(each(orders, |order| order.customer_id.as_str()))
        .bind(each(orders, |order| order.currency.as_str()))
        .bind(each(orders, |order| order.lines.get()));
    let placed = births::bind(query, &births, timeline::new_batch()).fetch_all(connection).await?;
    placed.iter().map(|row| row.try_get(0)).collect()
}

/// The error for a key that was neither taken for this order nor found.
fn unexplained(order: &NewOrder) -> Error {
    Error::Unavailable(format!("order {} was neither placed nor found", order.id))
}
