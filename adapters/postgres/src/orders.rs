//! Orders: placed many at once, in one transaction with their sagas.

use std::collections::{HashMap, HashSet};

use amends_engine::core::{Change, Entry, NewSaga};
use amends_protocol::{Json, Reason};
use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    Birth, Error, births,
    commit::ask_again,
    error, keys,
    sagas::{each, small},
    timeline,
};

/// An order as it came through the door.
#[derive(Debug, Clone)]
pub struct NewOrder {
    /// UUIDv7.
    pub id: Uuid,
    /// Its saga's id, home and business key (the order's id).
    pub saga: NewSaga,
    /// Whose request it is. Idempotency keys are theirs.
    pub subject: String,
    /// The key that the request came with, and what its body comes to.
    pub idempotency: Option<(String, [u8; 32])>,
    /// Whose order it is.
    pub customer_id: String,
    /// ISO 4217.
    pub currency: String,
    /// In minor units.
    pub total: i64,
    /// As they are shown.
    pub lines: Json,
    /// The saga's input: everything but personal fields.
    pub data: Json,
    /// The saga's personal fields.
    pub personal: Json,
}

/// An order's immutable input, and its newest saga.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct OrderRow {
    /// UUIDv7.
    pub id: Uuid,
    /// Its newest saga.
    pub saga_id: Uuid,
    /// Who placed it.
    pub subject: String,
    /// Whose it is.
    pub customer_id: String,
    /// ISO 4217.
    pub currency: String,
    /// In minor units.
    pub total: i64,
    /// As they are shown.
    #[sqlx(json)]
    pub lines: Json,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When it is cancelled by itself, unless its first step has succeeded by then.
    pub cancels_at: Option<DateTime<Utc>>,
}

/// An order, with what its newest saga says.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct OrderView {
    /// The order.
    #[sqlx(flatten)]
    pub order: OrderRow,
    /// Its status: the label of its newest saga.
    pub label: String,
    /// While being undone: the label it will have.
    pub heading_for: Option<String>,
    /// Why it failed or is failing.
    #[sqlx(json(nullable))]
    pub reason: Option<Reason>,
    /// When its saga last changed.
    pub updated_at: DateTime<Utc>,
    /// The personal fields of its saga, where (still) there.
    #[sqlx(json(nullable))]
    pub personal: Option<Json>,
}

/// The columns of [`OrderRow`], of a table called `o`. By name, so that a new one does not break who runs already.
macro_rules! order_columns {
    () => {
        "o.id, o.saga_id, o.subject, o.customer_id, o.currency, o.total, o.lines, o.created_at, o.cancels_at"
    };
}
pub(crate) use order_columns;

/// What became of a placed order.
#[derive(Debug, Clone, PartialEq)]
pub enum Placed {
    /// It is accepted; the commands of its birth are to be sent.
    New {
        /// The order.
        order: Box<OrderRow>,
        /// The birth of its saga.
        change: Box<Change>,
    },
    /// The key came before, with the same body: this is the order that was placed then.
    Replayed(Box<OrderRow>),
    /// The key came before, with another body.
    KeyReused,
    /// The database cannot store it, and why; the others of its batch are placed.
    Unstorable(String),
}

/// Orders in the engine's database.
#[derive(Debug, Clone)]
pub struct OrderStore {
    pool: PgPool,
}

impl OrderStore {
    /// Over these connections.
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Places orders in one transaction, and answers for each in turn. `birth` gets the database's time. Orders
    /// whose idempotency key is known, in the database or earlier in this batch, are not placed again; one that
    /// is just being placed by somebody else is waited for. What cannot be stored is found by halving, so that it
    /// does not stop the rest.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: nothing is half-made, but whether an order exists must be asked for.
    pub async fn place(
        &self,
        orders: &[NewOrder],
        birth: impl Fn(&NewOrder, DateTime<Utc>) -> Change,
    ) -> Result<Vec<Placed>, Error> {
        let mut placed = Vec::with_capacity(orders.len());
        let mut parts = vec![orders];
        while let Some(part) = parts.pop() {
            match self.place_together(part, &birth).await {
                Ok(answers) => placed.extend(answers),
                Err(Error::Data(why)) if part.len() == 1 => placed.push(Placed::Unstorable(why)),
                Err(Error::Data(_)) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
                Err(other) => return Err(other),
            }
        }
        Ok(placed)
    }

    async fn place_together(
        &self,
        orders: &[NewOrder],
        birth: &impl Fn(&NewOrder, DateTime<Utc>) -> Change,
    ) -> Result<Vec<Placed>, Error> {
        if orders.is_empty() {
            return Ok(Vec::new());
        }
        // The first of the batch with a key asks for it; the others see what becomes of that.
        let asking = keys::first_of_each(orders);
        let mut tx = self.pool.begin().await.map_err(error::of)?;
        let (taken, now) = keys::take(&mut tx, &asking).await.map_err(error::of)?;
        let taken: HashSet<Uuid> = taken.into_iter().collect();
        let (new, losers): (Vec<&NewOrder>, Vec<&NewOrder>) =
            orders.iter().partition(|order| order.idempotency.is_none() || taken.contains(&order.id));
        let rows: Vec<(OrderRow, Change)> = new
            .iter()
            .map(|order| {
                let change = birth(order, now);
                (order.row(&change), change)
            })
            .collect();
        if !new.is_empty() {
            insert(&mut tx, &new, &rows).await.map_err(error::of)?;
        }
        let stored = if losers.is_empty() {
            HashMap::new()
        } else {
            keys::read(&mut tx, &losers).await.map_err(error::of)?
        };
        match tx.commit().await {
            Err(error) if error::leaves_open(&error) && !new.is_empty() => {
                self.read_back(&rows, &error).await?
            }
            committed => committed.map_err(error::of)?,
        }

        let mut rows: HashMap<Uuid, (OrderRow, Change)> =
            rows.into_iter().map(|row| (row.0.id, row)).collect();
        let placed = orders.iter().map(|order| {
            if let Some((row, change)) = rows.remove(&order.id) {
                return Ok(Placed::New { order: Box::new(row), change: Box::new(change) });
            }
            let stored = stored.get(&order.id).ok_or_else(|| unexplained(order))?;
            let same = order.idempotency.as_ref().is_some_and(|(_, own)| stored.fingerprint == own);
            Ok(if same { Placed::Replayed(Box::new(stored.order.clone())) } else { Placed::KeyReused })
        });
        placed.collect()
    }

    /// The answer to the commit was lost: did it happen? The slots' locks wait for the backend that may still be
    /// at it.
    async fn read_back(&self, rows: &[(OrderRow, Change)], lost: &sqlx::Error) -> Result<(), Error> {
        metrics::counter!("amends_postgres_commits_read_back_total").increment(1);
        tracing::warn!(%lost, "the answer to a commit was lost; reading it back");
        let mut slots = each(rows, |(_, change)| i32::from(small(change.saga.slot)));
        slots.sort_unstable();
        slots.dedup();
        let ids = each(rows, |(row, _)| row.id);
        let (slots, ids) = (&slots, &ids);
        let ask = || async move {
            let mut tx = self.pool.begin().await?;
            sqlx::query("SET LOCAL lock_timeout = '2s'").execute(&mut *tx).await?;
            sqlx::query("SELECT pg_advisory_xact_lock($1, slot) FROM UNNEST($2::int4[]) AS s (slot)")
                .bind(timeline::LOCK)
                .bind(slots)
                .execute(&mut *tx)
                .await?;
            let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM orders WHERE id = ANY($1))")
                .bind(ids)
                .fetch_one(&mut *tx)
                .await?;
            tx.rollback().await?;
            Ok(there)
        };
        match ask_again(|| async { ask().await.map_err(error::of) }).await? {
            true => Ok(()),
            false => Err(Error::Unavailable(format!("nothing was placed: {lost}"))),
        }
    }

    /// An order as it is now.
    ///
    /// # Errors
    /// The database's.
    pub async fn get(&self, order_id: Uuid) -> Result<Option<OrderView>, Error> {
        sqlx::query_as(
            concat!(
                "SELECT ",
                order_columns!(),
                ", s.label, s.heading_for, s.reason, s.updated_at, p.data AS personal
                 FROM orders AS o JOIN sagas AS s ON s.id = o.saga_id LEFT JOIN personal AS p ON p.saga_id = s.id
                 WHERE o.id = $1"
            ),
        )
        .bind(order_id)
        .fetch_optional(&self.pool)
        .await
        .map_err(error::of)
    }

    /// An order's newest saga.
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

    /// What happened to an order's newest saga, from its birth on; `None` if there is no such order.
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

impl NewOrder {
    /// Its row, once its saga is born.
    fn row(&self, change: &Change) -> OrderRow {
        OrderRow {
            id: self.id,
            saga_id: change.saga.id,
            subject: self.subject.clone(),
            customer_id: self.customer_id.clone(),
            currency: self.currency.clone(),
            total: self.total,
            lines: self.lines.clone(),
            created_at: change.saga.born_at,
            cancels_at: change.saga.state.timeout_at,
        }
    }
}

/// Orders and the births of their sagas.
async fn insert(
    connection: &mut PgConnection,
    orders: &[&NewOrder],
    rows: &[(OrderRow, Change)],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO orders (id, saga_id, created_at, cancels_at, total, subject, customer_id, currency, lines)
         SELECT w.id, w.saga_id, w.created_at, w.cancels_at, w.total, w.subject, w.customer_id, w.currency, w.lines::json
         FROM UNNEST($1::uuid[], $2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::int8[], $6::text[], $7::text[],
                     $8::text[], $9::text[])
              AS w (id, saga_id, created_at, cancels_at, total, subject, customer_id, currency, lines)",
    )
    .bind(each(rows, |(row, _)| row.id))
    .bind(each(rows, |(row, _)| row.saga_id))
    .bind(each(rows, |(row, _)| row.created_at))
    .bind(each(rows, |(row, _)| row.cancels_at))
    .bind(each(rows, |(row, _)| row.total))
    .bind(each(rows, |(row, _)| row.subject.as_str()))
    .bind(each(rows, |(row, _)| row.customer_id.as_str()))
    .bind(each(rows, |(row, _)| row.currency.as_str()))
    .bind(each(rows, |(row, _)| row.lines.get()))
    .execute(&mut *connection)
    .await?;
    let births: Vec<Birth<'_>> = orders
        .iter()
        .zip(rows)
        .map(|(order, (_, change))| Birth { change, data: &order.data, personal: Some(&order.personal) })
        .collect();
    // Last, for it locks slots until the commit.
    births::insert(connection, &births, timeline::new_batch()).await
}

/// A key that is neither ours nor anybody's.
fn unexplained(order: &NewOrder) -> Error {
    Error::Unavailable(format!("order {} was neither placed nor found", order.id))
}
