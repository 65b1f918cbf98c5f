//! What happened to orders before some place in their slots, for the numbers of their domain events.

use std::collections::HashMap;

use amends_engine::core::Entry;
use amends_pool::Pool;
use amends_postgres::{Database, Error, columns::each, error, homes::each_home, timeline::EntryRow};
use sqlx::FromRow;
use uuid::Uuid;

use crate::OrderStore;

/// An entry of a saga of an order.
#[derive(Debug, Clone, PartialEq)]
pub struct EarlierEntry {
    /// Name of the saga's workflow.
    pub workflow: String,
    /// Its version.
    pub workflow_version: u32,
    /// The entry.
    pub entry: Entry,
}

#[derive(FromRow)]
struct EarlierRow {
    order_id: Uuid,
    workflow: String,
    workflow_version: i32,
    #[sqlx(flatten)]
    entry: EntryRow,
}

impl OrderStore {
    /// Reads the entries of all sagas of these orders before a position each. Orders without any are left out.
    ///
    /// # Errors
    /// The database's, or an entry of a newer program.
    pub async fn entries_before(
        &self,
        orders: &[(Uuid, i64)],
    ) -> Result<HashMap<Uuid, Vec<EarlierEntry>>, Error> {
        let Database { pool, homes, .. } = self.database();
        let parts = homes.divide(orders.iter().copied(), |(order, _)| homes.of(*order));
        let found = each_home(parts, |home, orders| rows_of_home(pool, home, orders)).await?;
        let mut entries: HashMap<Uuid, Vec<EarlierEntry>> = HashMap::new();
        for EarlierRow { order_id, workflow, workflow_version, entry } in found.into_iter().flatten() {
            let workflow_version = u32::try_from(workflow_version).unwrap_or_default();
            let earlier = EarlierEntry { workflow, workflow_version, entry: entry.read()? };
            entries.entry(order_id).or_default().push(earlier);
        }
        Ok(entries)
    }
}

async fn rows_of_home(pool: &Pool, home: i16, orders: Vec<(Uuid, i64)>) -> Result<Vec<EarlierRow>, Error> {
    sqlx::query_as(
        "SELECT w.order_id, s.workflow, s.workflow_version, t.saga_id, t.revision, t.at, t.body
         FROM UNNEST($2::uuid[], $3::int8[]) AS w (order_id, position)
         CROSS JOIN LATERAL (
             SELECT o.saga_id FROM orders AS o WHERE ($1::int2 IS NULL OR o.home = $1) AND o.id = w.order_id
             UNION SELECT x.saga_id FROM order_sagas AS x
                   WHERE ($1::int2 IS NULL OR x.home = $1) AND x.order_id = w.order_id) AS m
         JOIN sagas AS s ON ($1::int2 IS NULL OR s.home = $1) AND s.id = m.saga_id
         JOIN timeline AS t ON ($1::int2 IS NULL OR t.home = $1) AND t.saga_id = m.saga_id
              AND t.position < w.position
         ORDER BY t.position",
    )
    .bind(home)
    .bind(each(&orders, |(order, _)| *order))
    .bind(each(&orders, |(_, position)| *position))
    .fetch_all(pool)
    .await
    .map_err(error::of)
}
