//! Table `orders`: many orders are placed in one transaction with their sagas.

use std::{collections::HashSet, sync::Arc};

use amends_engine::core::Change;
use amends_pool::{Connection, DatabaseClock, Pool, sqlstate};
use amends_postgres::{
    Birth, Database, Error, Homes, births,
    columns::{each, int, small},
    error,
    homes::each_home,
    lost_commit,
    timeline::{self, SagaEntry},
};
use amends_protocol::halving::Parts;
use chrono::{DateTime, Utc};
use sqlx::Row as _;
use uuid::Uuid;

use crate::{
    claims,
    keys::{self, KeyedOrder},
    order::{NewOrder, OrderRow, OrderView, Placed, view_columns, view_tables},
};

/// The largest number of sagas that [`OrderStore::sagas_of_customers`] returns of a home.
pub const SAGAS_OF_CUSTOMERS: i64 = 10_000;

/// The orders in the engine's database.
#[derive(Debug, Clone)]
pub struct OrderStore {
    database: Database,
    clock: Arc<DatabaseClock>,
}

impl OrderStore {
    /// Creates a store over this database.
    pub fn new(database: impl Into<Database>) -> Self {
        Self { database: database.into(), clock: Arc::default() }
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.database.pool
    }

    /// Returns the database's time, at which orders are born.
    ///
    /// # Errors
    /// The database's.
    pub async fn now(&self) -> Result<DateTime<Utc>, Error> {
        self.clock.now(self.pool()).await.map_err(error::of)
    }

    /// Places orders, those of a home in one transaction, and returns a result for each, in order. `now` is what
    /// [`OrderStore::now`] has just returned; `birth` is called with it. Orders whose idempotency key is known, in the
    /// database or earlier in this batch, are not placed again. If another transaction is just placing an order with the
    /// same key, the statement waits for it. An order that cannot be stored is found by halving its home's part, so that
    /// it does not stop the rest; if a half fails after another was placed, its orders are [`Placed::Failed`]. In a
    /// database with several homes, keys are taken before (`claims`).
    ///
    /// # Errors
    /// [`Error::Locked`]: nothing was placed, and the batch may be placed again with other ids.
    /// [`Error::Unavailable`]: no order is half-made, but the caller must look up whether an order exists.
    pub async fn place(
        &self,
        now: DateTime<Utc>,
        orders: &[NewOrder],
        birth: impl Fn(&NewOrder, DateTime<Utc>) -> Change,
    ) -> Result<Vec<Placed>, Error> {
        if self.database.homes != Homes::ONE {
            return self.place_in_homes(now, orders, &birth).await;
        }
        self.place_in_home(0, now, orders.iter().collect(), &birth).await
    }

    /// Places orders of one home; returns a result for each, in order.
    ///
    /// # Errors
    /// Those of [`Self::place`]; no order is known to be placed.
    pub(crate) async fn place_in_home(
        &self,
        home: i16,
        now: DateTime<Utc>,
        orders: Vec<&NewOrder>,
        birth: &impl Fn(&NewOrder, DateTime<Utc>) -> Change,
    ) -> Result<Vec<Placed>, Error> {
        let mut placed = Vec::with_capacity(orders.len());
        let mut parts = Parts::of(&orders);
        while let Some(part) = parts.next() {
            let born = part.iter().map(|order| Born::new(order, birth(order, now))).collect();
            match self.place_together(home, born).await {
                Ok(answers) => placed.extend(answers),
                Err(Error::Data(why)) => {
                    placed.extend(parts.halve(part).map(|_| Placed::Unstorable(why)));
                }
                // What is committed stays: a batch that is refused whole is placed again, with other ids.
                Err(other) if placed.iter().any(Placed::is_new) => {
                    placed.resize(orders.len(), Placed::Failed(other));
                    break;
                }
                Err(other) => return Err(other),
            }
        }
        Ok(placed)
    }

    /// Places orders of one home in one transaction; returns a result for each, in order.
    async fn place_together(&self, home: i16, born: Vec<Born<'_>>) -> Result<Vec<Placed>, Error> {
        let mut connection = self.pool().acquire().await.map_err(error::of)?;
        // Among several homes, the keys are taken before.
        let takes_keys = self.database.homes == Homes::ONE;
        let placed = match insert(&mut connection, home, self.database.epoch, &born, takes_keys).await {
            Ok(placed) => {
                // The connection is released before another is acquired.
                drop(connection);
                placed
            }
            Err(lost) if sqlstate::leaves_open(&lost) => {
                connection.distrust();
                drop(connection);
                self.read_back(home, &born, &lost).await?
            }
            Err(error) => return Err(error::of(error)),
        };
        let new = born.iter().filter(|born| placed.contains(&born.order.id));
        self.database.sentinel.acknowledged_births(new.map(|born| &born.change.saga));
        let losers: Vec<&NewOrder> =
            born.iter().map(|born| born.order).filter(|order| !placed.contains(&order.id)).collect();
        let stored = keys::read(self.pool(), home, &losers).await.map_err(error::of)?;
        let answers = born.into_iter().map(|Born { order, row, change }| {
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
        home: i16,
        born: &[Born<'_>],
        lost: &sqlx::Error,
    ) -> Result<HashSet<Uuid>, Error> {
        metrics::counter!("amends_postgres_commits_read_back_total").increment(1);
        tracing::warn!(%lost, "the answer to a commit was lost; reading the result back");
        let mut slots = each(born, |born| small(born.change.saga.slot));
        slots.sort_unstable();
        slots.dedup();
        let ids = each(born, |born| born.order.id);
        let (slots, ids) = (&slots, &ids);
        let ask = || async move {
            let mut tx = self.pool().begin().await?;
            lost_commit::wait_for_slots(&mut tx, home, slots).await?;
            let there: Vec<Uuid> = sqlx::query_scalar(
                "SELECT id FROM orders WHERE ($1::int2 IS NULL OR home = $1) AND id = ANY($2)",
            )
            .bind(home)
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

    /// Reads the order that a subject has placed with this key, if the key has not expired.
    ///
    /// # Errors
    /// The database's.
    pub async fn placed_with(&self, subject: &str, key: &str) -> Result<Option<KeyedOrder>, Error> {
        if self.database.homes != Homes::ONE {
            return claims::placed_with(&self.database, subject, key).await;
        }
        keys::placed_with(self.pool(), subject, key).await.map_err(error::of)
    }

    /// Reads an order as it is now.
    ///
    /// # Errors
    /// The database's.
    pub async fn get(&self, order_id: Uuid) -> Result<Option<OrderView>, Error> {
        let mut connection = self.pool().acquire().await.map_err(error::of)?;
        read(&mut connection, self.database.homes.of(order_id), order_id).await.map_err(error::of)
    }

    /// Reads the ids of an order's sagas, in the order of their births; none if there is no such order.
    ///
    /// # Errors
    /// The database's.
    pub async fn sagas_of(&self, order_id: Uuid) -> Result<Vec<Uuid>, Error> {
        sqlx::query_scalar(
            "SELECT saga_id FROM orders WHERE ($1::int2 IS NULL OR home = $1) AND id = $2
             UNION SELECT saga_id FROM order_sagas WHERE ($1::int2 IS NULL OR home = $1) AND order_id = $2
             ORDER BY saga_id",
        )
        .bind(self.database.homes.of(order_id))
        .bind(order_id)
        .fetch_all(self.pool())
        .await
        .map_err(error::of)
    }

    /// Reads the ids of the sagas of these customers' orders: of each home, the newest [`SAGAS_OF_CUSTOMERS`].
    ///
    /// # Errors
    /// The database's.
    pub async fn sagas_of_customers(&self, customers: &[String]) -> Result<Vec<Uuid>, Error> {
        let of_home = |home: i16, ()| async move {
            sqlx::query_scalar(
                "SELECT o.saga_id FROM orders AS o WHERE ($1::int2 IS NULL OR o.home = $1) AND o.customer_id = ANY ($2)
                 UNION
                 SELECT os.saga_id FROM orders AS o
                 JOIN order_sagas AS os ON ($1::int2 IS NULL OR os.home = $1) AND os.order_id = o.id
                 WHERE ($1::int2 IS NULL OR o.home = $1) AND o.customer_id = ANY ($2)
                 ORDER BY saga_id DESC LIMIT $3",
            )
            .bind(home)
            .bind(customers)
            .bind(SAGAS_OF_CUSTOMERS)
            .fetch_all(self.pool())
            .await
            .map_err(error::of)
        };
        let all = self.database.homes.all().map(|home| (home, ()));
        let sagas: Vec<Vec<Uuid>> = each_home(all, of_home).await?;
        Ok(sagas.into_iter().flatten().collect())
    }

    /// Reads the timelines of an order's sagas, in the order in which their entries were committed; `None` if there is
    /// no such order.
    ///
    /// # Errors
    /// The database's, or an entry of a newer program.
    pub async fn timeline(&self, order_id: Uuid) -> Result<Option<Vec<SagaEntry>>, Error> {
        let sagas = self.sagas_of(order_id).await?;
        match sagas.is_empty() {
            true => Ok(None),
            false => Ok(Some(timeline::of_several(&self.database, &sagas).await?)),
        }
    }

    /// The same of the sagas that this view of the order has: one read less.
    ///
    /// # Errors
    /// The database's, or an entry of a newer program.
    pub async fn timeline_of(&self, view: &OrderView) -> Result<Vec<SagaEntry>, Error> {
        let mut sagas: Vec<Uuid> = view.sagas.iter().flatten().map(|saga| saga.saga_id).collect();
        if !sagas.contains(&view.order.saga_id) {
            sagas.push(view.order.saga_id);
        }
        timeline::of_several(&self.database, &sagas).await
    }
}

/// Reads an order of this home as it is now.
pub(crate) async fn read(
    connection: &mut Connection,
    home: i16,
    order_id: Uuid,
) -> Result<Option<OrderView>, sqlx::Error> {
    sqlx::query_as(concat!(
        view_columns!(),
        " FROM orders AS o ",
        view_tables!(),
        " WHERE ($1::int2 IS NULL OR o.home = $1) AND o.id = $2"
    ))
    .bind(home)
    .bind(order_id)
    .fetch_optional(connection)
    .await
}

/// An order to place, and the birth of its saga.
struct Born<'a> {
    order: &'a NewOrder,
    row: OrderRow,
    change: Change,
}

impl<'a> Born<'a> {
    fn new(order: &'a NewOrder, change: Change) -> Self {
        Self { order, row: order.row(&change), change }
    }
}

/// Keys, orders and the births of their sagas (function `place_orders`): one statement, one transaction, one round
/// trip. The last sixteen parameters are those of [`births::bind`].
const PLACE: &str = "SELECT place_orders($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, \
     $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31)";

async fn insert(
    connection: &mut Connection,
    home: i16,
    epoch: u32,
    born: &[Born<'_>],
    takes_keys: bool,
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let orders = each(born, |born| born.order);
    let births = each(born, |born| Birth { change: &born.change, personal: Some(&born.order.personal) });
    // The first order of the batch with a key takes it; the others get that order's result.
    let asking = if takes_keys { keys::first_of_each(&orders) } else { Vec::new() };
    let query = keys::bind(sqlx::query(PLACE).bind(home).bind(int(epoch)), &asking)
        .bind(each(&orders, |order| order.id))
        .bind(each(&orders, |order| takes_keys && order.idempotency.is_some()))
        .bind(each(born, |born| born.row.cancels_at))
        .bind(each(&orders, |order| order.total))
        .bind(each(&orders, |order| order.subject.as_str()))
        .bind(each(&orders, |order| order.customer_id.as_str()))
        .bind(each(&orders, |order| order.currency.as_str()))
        .bind(each(&orders, |order| order.lines.get()));
    let placed = births::bind(query, &births, epoch, timeline::new_batch()).fetch_all(connection).await?;
    placed.iter().map(|row| row.try_get(0)).collect()
}

/// The error for a key that was neither taken for this order nor found.
fn unexplained(order: &NewOrder) -> Error {
    Error::Unavailable(format!("order {} was neither placed nor found", order.id))
}
