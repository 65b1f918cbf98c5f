//! Adds a return or a refund to an order: a saga of its own, under the lock of the order's row.

use std::{collections::BTreeSet, time::Duration};

use amends_engine::core::Change;
use amends_pool::{Connection, sqlstate};
use amends_postgres::{Birth, Error, births, columns::int, error, lost_commit, timeline};
use amends_protocol::Json;
use amends_workflows::order_ledger::Pieces;
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::{OrderSaga, OrderStore, OrderView, answers::Digest, store};

/// A saga to add to an order.
#[derive(Debug, Clone)]
pub struct NewOrderSaga {
    /// Its birth. It has the order's slot.
    pub change: Change,
    /// Whether its label is the order's status.
    pub carries_status: bool,
    /// What is paid back, in minor units.
    pub amount: i64,
    /// The pieces that come back, or are paid for.
    pub lines: Json,
    /// Why, in the caller's words.
    pub reason: String,
}

/// A request with an idempotency key. The saga that it has added knows it, and so it adds nothing when it is sent again,
/// also where the answer that was kept is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedRequest {
    /// Digest of subject, method, path and key.
    pub request: Digest,
    /// Digest of its body.
    pub fingerprint: Digest,
    /// How long its key is kept.
    pub lifetime: Duration,
    /// What it asks for.
    pub asked: Asked,
}

/// What a request asks for, as far as it says. A saga without a fingerprint, because an older program has added it or
/// because the reason of it was erased, is compared with this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// What is to be paid back, in minor units.
    pub amount: Option<i64>,
    /// The pieces that come back, or are paid for.
    pub pieces: Option<Vec<Pieces>>,
    /// Why.
    pub reason: String,
}

/// The result of adding a saga to an order.
#[derive(Debug, Clone)]
pub enum Added<E> {
    /// It is added: the birth of the saga.
    Done(Box<Change>),
    /// The same request has added one before.
    Known,
    /// Another request with the same key has added one before.
    KeyReused,
    /// It was refused, and nothing has changed.
    Refused(E),
    /// There is no such order, or the saga that fulfilled it is past its retention.
    NoOrder,
}

impl KeyedRequest {
    /// Returns the saga that a request with this key has added while the key was kept.
    fn find<'a>(&self, order: &'a OrderView, now: DateTime<Utc>) -> Option<&'a OrderSaga> {
        let digest = hex(&self.request);
        let since = now - TimeDelta::from_std(self.lifetime).unwrap_or_default();
        let is_it = |saga: &&OrderSaga| saga.request.as_ref() == Some(&digest) && saga.created_at > since;
        order.sagas.iter().flatten().find(is_it)
    }

    /// Returns whether this request, and not another with its key, has added the saga.
    fn has_added(&self, saga: &OrderSaga) -> bool {
        match &saga.fingerprint {
            Some(fingerprint) => *fingerprint == hex(&self.fingerprint),
            None => self.asked.is_for(saga),
        }
    }
}

impl Asked {
    fn is_for(&self, saga: &OrderSaga) -> bool {
        let of_saga = saga.lines.iter().map(|back| (back.line_id.as_str(), back.quantity));
        let are_its = |pieces: &Vec<Pieces>| {
            let asked = pieces.iter().map(|of| (of.line_id.as_str(), of.quantity));
            asked.collect::<BTreeSet<_>>() == of_saga.collect::<BTreeSet<_>>()
        };
        self.amount.is_none_or(|amount| amount == saga.amount)
            && self.pieces.as_ref().is_none_or(are_its)
            // An erasure takes the reason.
            && (saga.reason.is_empty() || saga.reason == self.reason)
    }
}

impl OrderStore {
    /// Adds a saga to an order. `plan` sees the order as it is while its row is locked, and the database's time: what it
    /// decides holds until the commit. A `request` that is sent again adds nothing.
    ///
    /// # Errors
    /// The database's: it is unknown whether the saga was added. [`Error::Locked`]: it was not.
    pub async fn add_saga<E>(
        &self,
        order_id: Uuid,
        request: Option<&KeyedRequest>,
        plan: impl FnOnce(&OrderView, DateTime<Utc>) -> Result<NewOrderSaga, E>,
    ) -> Result<Added<E>, Error> {
        let home = self.database().homes.of(order_id);
        let mut tx = self.pool().begin().await.map_err(error::of)?;
        let new = match planned(&mut tx, home, order_id, request, plan).await {
            Ok(Ok(new)) => new,
            // A dropped transaction would end a little later, and with it its lock.
            Ok(Err(nothing)) => {
                let _ = tx.rollback().await;
                return Ok(nothing);
            }
            Err(failed) => {
                let _ = tx.rollback().await;
                return Err(error::of(failed));
            }
        };
        insert(&mut tx, home, self.database().epoch, order_id, &new, request).await.map_err(error::of)?;
        let saga_id = new.change.saga.id;
        match tx.commit().await {
            Ok(()) => {}
            Err(lost) if sqlstate::leaves_open(&lost) => {
                if !self.is_there(home, order_id, saga_id, &lost).await? {
                    return Err(Error::Unavailable(format!("nothing was added: {lost}")));
                }
            }
            Err(refused) => return Err(error::of(refused)),
        }
        self.database().sentinel.acknowledged_births([&new.change.saga].into_iter());
        Ok(Added::Done(Box::new(new.change)))
    }

    /// Reads back whether a saga was added after the answer to the commit was lost. The order's lock waits for a backend
    /// that may still be committing.
    async fn is_there(
        &self,
        home: i16,
        order_id: Uuid,
        saga_id: Uuid,
        lost: &sqlx::Error,
    ) -> Result<bool, Error> {
        metrics::counter!("amends_postgres_commits_read_back_total").increment(1);
        tracing::warn!(%lost, "the answer to a commit was lost; reading the result back");
        let ask = || async move {
            let mut tx = self.pool().begin().await?;
            sqlx::query("SET LOCAL lock_timeout = '2s'").execute(&mut *tx).await?;
            lock(&mut tx, home, order_id).await?;
            let there: Option<Uuid> = sqlx::query_scalar(
                "SELECT saga_id FROM order_sagas
                 WHERE ($1::int2 IS NULL OR home = $1) AND order_id = $2 AND saga_id = $3",
            )
            .bind(home)
            .bind(order_id)
            .bind(saga_id)
            .fetch_optional(&mut *tx)
            .await?;
            tx.rollback().await?;
            Ok(there.is_some())
        };
        lost_commit::ask_again(|| async { ask().await.map_err(error::of) }).await
    }
}

/// Locks the order and plans what to add to it; `Err` if nothing is added.
async fn planned<E>(
    connection: &mut Connection,
    home: i16,
    order_id: Uuid,
    request: Option<&KeyedRequest>,
    plan: impl FnOnce(&OrderView, DateTime<Utc>) -> Result<NewOrderSaga, E>,
) -> Result<Result<NewOrderSaga, Added<E>>, sqlx::Error> {
    if !lock(connection, home, order_id).await? {
        return Ok(Err(Added::NoOrder));
    }
    // A statement of its own: it sees what the previous holder of the lock has committed.
    let Some((order, now)) = read(connection, home, order_id).await? else {
        return Ok(Err(Added::NoOrder));
    };
    if let Some((request, saga)) = request.and_then(|request| Some((request, request.find(&order, now)?))) {
        return Ok(Err(if request.has_added(saga) { Added::Known } else { Added::KeyReused }));
    }
    // Without its history the next event of the order would get a number that an earlier one has.
    if order.is_past_its_retention() {
        return Ok(Err(Added::NoOrder));
    }
    Ok(plan(&order, now).map_err(Added::Refused))
}

/// Locks an order's row; returns whether there is one.
async fn lock(connection: &mut Connection, home: i16, order_id: Uuid) -> Result<bool, sqlx::Error> {
    let locked =
        sqlx::query("SELECT FROM orders WHERE ($1::int2 IS NULL OR home = $1) AND id = $2 FOR UPDATE")
            .bind(home)
            .bind(order_id)
            .fetch_optional(connection)
            .await?;
    Ok(locked.is_some())
}

/// Reads an order, and then the database's time: no entry of the order is from later than that.
async fn read(
    connection: &mut Connection,
    home: i16,
    order_id: Uuid,
) -> Result<Option<(OrderView, DateTime<Utc>)>, sqlx::Error> {
    let Some(order) = store::read(connection, home, order_id).await? else { return Ok(None) };
    let now = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(connection).await?;
    Ok(Some((order, now)))
}

/// Inserts the saga and its row in the ledger. The order's first saga joins the ledger with the second.
async fn insert(
    connection: &mut Connection,
    home: i16,
    epoch: u32,
    order_id: Uuid,
    new: &NewOrderSaga,
    request: Option<&KeyedRequest>,
) -> Result<(), sqlx::Error> {
    let saga = &new.change.saga;
    sqlx::query(
        "INSERT INTO order_sagas (home, order_id, saga_id, created_at, amount, workflow, lines, reason, request, fingerprint)
         SELECT $1, o.id, o.saga_id, o.created_at, 0, s.workflow, '[]', '', NULL, NULL
         FROM orders AS o JOIN sagas AS s ON ($1::int2 IS NULL OR s.home = $1) AND s.id = o.saga_id
         WHERE ($1::int2 IS NULL OR o.home = $1) AND o.id = $2
           AND NOT EXISTS (SELECT FROM order_sagas AS x
                           WHERE ($1::int2 IS NULL OR x.home = $1) AND x.order_id = $2)
         UNION ALL SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10",
    )
    .bind(home)
    .bind(order_id)
    .bind(saga.id)
    .bind(saga.born_at)
    .bind(new.amount)
    .bind(saga.workflow.as_str())
    .bind(new.lines.get())
    .bind(new.reason.as_str())
    .bind(request.map(|request| &request.request[..]))
    .bind(request.map(|request| &request.fingerprint[..]))
    .execute(&mut *connection)
    .await?;
    if new.carries_status {
        sqlx::query("UPDATE orders SET saga_id = $3 WHERE ($1::int2 IS NULL OR home = $1) AND id = $2")
            .bind(home)
            .bind(order_id)
            .bind(saga.id)
            .execute(&mut *connection)
            .await?;
    }
    let birth = [Birth { change: &new.change, personal: None }];
    let query = sqlx::query(births::INSERT).bind(home).bind(int(epoch));
    births::bind(query, &birth, epoch, timeline::new_batch()).execute(connection).await?;
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
