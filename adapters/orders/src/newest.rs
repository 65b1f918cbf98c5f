//! The newest state of many orders at once, for those who wait for a change.

use std::collections::HashMap;

use amends_pool::Pool;
use amends_postgres::{Database, Error, error, homes::answering_homes};
use sqlx::FromRow;
use uuid::Uuid;

use crate::OrderStore;

/// The newest state of an order: it is another after each change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct Newest {
    /// The newest saga that carries the order's status.
    pub saga_id: Uuid,
    /// That saga's revision.
    pub revision: i32,
    /// The sum of the revisions of its other sagas.
    pub others: i64,
}

#[derive(FromRow)]
struct Found {
    id: Uuid,
    #[sqlx(flatten)]
    newest: Newest,
}

impl OrderStore {
    /// Reads the newest state of these orders, in one statement a home. Orders that do not exist, or whose
    /// home does not answer, are left out.
    ///
    /// # Errors
    /// The database's.
    pub async fn newest(&self, orders: &[Uuid]) -> Result<HashMap<Uuid, Newest>, Error> {
        let Database { pool, homes, .. } = self.database();
        let found = answering_homes(homes.divide_ids(orders), |home, ids| newest_in(pool, home, ids)).await?;
        Ok(found.into_iter().flatten().map(|order| (order.id, order.newest)).collect())
    }
}

async fn newest_in(pool: &Pool, home: i16, ids: Vec<Uuid>) -> Result<Vec<Found>, Error> {
    sqlx::query_as(
        "SELECT o.id, o.saga_id, s.revision, COALESCE(x.others, 0) AS others FROM UNNEST($2::uuid[]) AS w (id)
         JOIN orders AS o ON ($1::int2 IS NULL OR o.home = $1) AND o.id = w.id
         JOIN sagas AS s ON ($1::int2 IS NULL OR s.home = $1) AND s.id = o.saga_id
         LEFT JOIN LATERAL (
             SELECT sum(r.revision) AS others FROM order_sagas AS x
             JOIN sagas AS r ON ($1::int2 IS NULL OR r.home = $1) AND r.id = x.saga_id
             WHERE ($1::int2 IS NULL OR x.home = $1) AND x.order_id = o.id AND x.saga_id <> o.saga_id) AS x ON true",
    )
    .bind(home)
    .bind(ids)
    .fetch_all(pool)
    .await
    .map_err(error::of)
}
