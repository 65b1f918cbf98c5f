//! Personal data of a customer: what table `personal` has of their orders, and its erasure.

use amends_pool::Pool;
use amends_postgres::{Database, Error, error, homes::each_home};
use amends_protocol::Json;
use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, FromRow};
use uuid::Uuid;

use crate::OrderStore;

/// Number of orders that one statement reads or erases. It stands in the statements: of a bound that is a parameter Postgres
/// expects a tenth of the table, and then does not look other tables' rows up one by one.
const ORDERS_AT_ONCE: u32 = 1_000;
/// Number of orders under way that a refusal names.
const NAMED_MOST: usize = 100;

/// What is stored of an order's personal data.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct PersonalData {
    /// The order.
    pub order_id: Uuid,
    /// When it was placed.
    pub created_at: DateTime<Utc>,
    /// Its personal fields; `None` once they are erased.
    #[sqlx(json(nullable))]
    pub data: Option<Json>,
}

/// A page of a customer's personal data, the oldest order first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PersonalDataPage {
    /// The orders of the page.
    pub items: Vec<PersonalData>,
    /// The last order of the page, behind which the next one begins; `None` if this is the last page.
    pub next: Option<Uuid>,
}

/// The result of an erasure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Erasure {
    /// The personal data of all of the customer's orders is erased.
    Erased {
        /// The number of orders that had any.
        orders: u64,
        /// When the last of it was erased.
        at: DateTime<Utc>,
    },
    /// Nothing is erased: these orders, the oldest ones, are still under way.
    UnderWay(Vec<Uuid>),
}

#[derive(FromRow)]
struct Looked {
    id: Uuid,
    is_under_way: bool,
}

impl OrderStore {
    /// Reads a page of a customer's personal data: of the orders behind `after`, at most `limit`.
    ///
    /// # Errors
    /// The database's.
    pub async fn personal_data(
        &self,
        customer_id: &str,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<PersonalDataPage, Error> {
        let Database { pool, homes, .. } = self.database();
        // One row more than is shown is read: it shows whether there are more.
        let limit = limit.clamp(1, ORDERS_AT_ONCE - 1);
        let most = limit + 1;
        let read = |home, ()| read(pool, home, customer_id, after, most);
        let all = homes.all().map(|home| (home, ()));
        let mut items: Vec<PersonalData> = each_home(all, read).await?.into_iter().flatten().collect();
        items.sort_by_key(|item| item.order_id);
        let is_last = items.len() < most as usize;
        items.truncate(limit as usize);
        let next = items.last().filter(|_| !is_last).map(|item| item.order_id);
        Ok(PersonalDataPage { items, next })
    }

    /// Reads the personal data of one order; `None` once they are erased, or if there is no such order.
    ///
    /// # Errors
    /// The database's.
    pub async fn personal_data_of(&self, order_id: Uuid) -> Result<Option<Json>, Error> {
        let Database { pool, homes, .. } = self.database();
        let data: Option<sqlx::types::Json<Json>> = sqlx::query_scalar(
            "SELECT p.data::json
             FROM orders AS o JOIN personal AS p ON ($1::int2 IS NULL OR p.home = $1) AND p.saga_id = COALESCE((
                 SELECT x.saga_id FROM order_sagas AS x
                 WHERE ($1::int2 IS NULL OR x.home = $1) AND x.order_id = o.id
                 ORDER BY x.workflow = 'order_fulfilment' DESC, x.saga_id LIMIT 1), o.saga_id)
             WHERE ($1::int2 IS NULL OR o.home = $1) AND o.id = $2",
        )
        .bind(homes.of(order_id))
        .bind(order_id)
        .fetch_optional(pool)
        .await
        .map_err(error::of)?;
        Ok(data.map(|data| data.0))
    }

    /// Erases the personal data of all of a customer's orders, and records who did so. An order is under way unless
    /// its newest saga has ended or has one of the labels `settled`; if any is, nothing is erased. The erasure is
    /// idempotent: interrupted, it is completed by the next.
    ///
    /// # Errors
    /// The database's.
    pub async fn erase_personal_data(
        &self,
        customer_id: &str,
        erased_by: &str,
        settled: &[&str],
    ) -> Result<Erasure, Error> {
        let under_way = self.under_way(customer_id, settled).await?;
        if !under_way.is_empty() {
            return Ok(Erasure::UnderWay(under_way));
        }
        let Database { pool, homes, .. } = self.database();
        let id = Uuid::now_v7();
        sqlx::query("INSERT INTO personal_data_erasures (id, customer_id, erased_by) VALUES ($1, $2, $3)")
            .bind(id)
            .bind(customer_id)
            .bind(erased_by)
            .execute(pool)
            .await
            .map_err(error::of)?;
        let (mut orders, mut after) = (0, None);
        loop {
            let page = self.page(customer_id, settled, after).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            let ids: Vec<Uuid> = page.iter().map(|order| order.id).collect();
            let erase = |home, ids| erase(pool, home, ids, settled);
            orders += each_home(homes.divide_ids(&ids), erase).await?.into_iter().sum::<i64>();
        }
        let at: DateTime<Utc> = sqlx::query_scalar(
            "UPDATE personal_data_erasures SET ended_at = now(), orders = $2 WHERE id = $1
             RETURNING ended_at",
        )
        .bind(id)
        .bind(orders)
        .fetch_one(pool)
        .await
        .map_err(error::of)?;
        Ok(Erasure::Erased { orders: orders.unsigned_abs(), at })
    }

    /// Returns a customer's oldest orders that are under way, [`NAMED_MOST`] at most.
    async fn under_way(&self, customer_id: &str, settled: &[&str]) -> Result<Vec<Uuid>, Error> {
        let (mut under_way, mut after) = (Vec::new(), None);
        while under_way.len() < NAMED_MOST {
            let page = self.page(customer_id, settled, after).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            under_way.extend(page.iter().filter(|order| order.is_under_way).map(|order| order.id));
        }
        under_way.truncate(NAMED_MOST);
        Ok(under_way)
    }

    /// Returns a customer's next orders, the oldest first, and whether each is under way.
    async fn page(
        &self,
        customer_id: &str,
        settled: &[&str],
        after: Option<Uuid>,
    ) -> Result<Vec<Looked>, Error> {
        let Database { pool, homes, .. } = self.database();
        let look = |home, ()| look(pool, home, customer_id, settled, after);
        let all = homes.all().map(|home| (home, ()));
        let mut page: Vec<Looked> = each_home(all, look).await?.into_iter().flatten().collect();
        page.sort_by_key(|order| order.id);
        page.truncate(ORDERS_AT_ONCE as usize);
        Ok(page)
    }
}

async fn read(
    pool: &Pool,
    home: i16,
    customer_id: &str,
    after: Option<Uuid>,
    most: u32,
) -> Result<Vec<PersonalData>, Error> {
    sqlx::query_as(AssertSqlSafe(format!(
        "SELECT o.id AS order_id, o.created_at, p.data::json AS data
         FROM (SELECT o.id, o.created_at, o.saga_id FROM orders AS o
               WHERE ($1::int2 IS NULL OR o.home = $1) AND o.customer_id = $2 AND ($3::uuid IS NULL OR o.id > $3)
               ORDER BY o.id LIMIT {ORDERS_AT_ONCE}) AS o
         LEFT JOIN personal AS p ON ($1::int2 IS NULL OR p.home = $1) AND p.saga_id = COALESCE((
             SELECT x.saga_id FROM order_sagas AS x
             WHERE ($1::int2 IS NULL OR x.home = $1) AND x.order_id = o.id
             ORDER BY x.workflow = 'order_fulfilment' DESC, x.saga_id LIMIT 1), o.saga_id)
         ORDER BY o.id LIMIT $4",
    )))
    .bind(home)
    .bind(customer_id)
    .bind(after)
    .bind(i64::from(most))
    .fetch_all(pool)
    .await
    .map_err(error::of)
}

async fn look(
    pool: &Pool,
    home: i16,
    customer_id: &str,
    settled: &[&str],
    after: Option<Uuid>,
) -> Result<Vec<Looked>, Error> {
    sqlx::query_as(AssertSqlSafe(format!(
        "SELECT o.id, COALESCE((s.live OR s.parked OR s.outcome IS NULL) AND s.label <> ALL($4), false) AS is_under_way
         FROM (SELECT o.id, o.saga_id FROM orders AS o
               WHERE ($1::int2 IS NULL OR o.home = $1) AND o.customer_id = $2 AND ($3::uuid IS NULL OR o.id > $3)
               ORDER BY o.id LIMIT {ORDERS_AT_ONCE}) AS o
         LEFT JOIN sagas AS s ON ($1::int2 IS NULL OR s.home = $1) AND s.id = o.saga_id
         ORDER BY o.id",
    )))
    .bind(home)
    .bind(customer_id)
    .bind(after)
    .bind(settled)
    .fetch_all(pool)
    .await
    .map_err(error::of)
}

async fn erase(pool: &Pool, home: i16, ids: Vec<Uuid>, settled: &[&str]) -> Result<i64, Error> {
    sqlx::query_scalar("SELECT erase_personal_data($1, $2, $3)")
        .bind(home)
        .bind(ids)
        .bind(settled)
        .fetch_one(pool)
        .await
        .map_err(error::of)
}
