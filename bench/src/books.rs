//! Whether every order has exactly the effects that it should have, over all five databases. A run whose books do
//! not balance has no figures.
//!
//! Databases cannot be joined, and there are hundreds of thousands of sagas. So each counts by itself, and what is
//! compared are counts, sums, and sums weighed with a *mark*: 28 random bits of each saga's id. Two sets of effects
//! that differ in one saga agree in all of them about once in 2^28.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use amends_workflows::order_fulfilment::FULFILLED;
use anyhow::Result;
use serde::Serialize;
use sqlx::{AssertSqlSafe, FromRow, PgPool, postgres::PgRow};

use crate::{args::Mode, roles::three_steps, stage::Stage};

/// The result of counting all databases.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Books {
    /// Sagas by label.
    pub labels: BTreeMap<String, i64>,
    /// Every discrepancy, in words; must be empty.
    pub violations: Vec<String>,
}

/// Effects of many sagas: how many, how much, and the same weighed with marks. (Sums of marks fit 64 bits up to
/// thousands of millions of sagas; what is weighed with an amount is `numeric`, compared as text.)
#[derive(Debug, PartialEq, Eq, FromRow)]
struct Sum {
    sagas: i64,
    marks: i64,
    amount: i64,
    weighed: String,
}

/// [`crate::load::ledger::mark`] in SQL.
fn mark(id: &str) -> String {
    format!("('x' || right({id}::text, 7))::bit(28)::int8")
}

fn sum(id: &str, amount: &str, from: &str) -> String {
    let mark = mark(id);
    format!(
        "SELECT count(*) AS sagas, coalesce(sum({mark}), 0)::int8 AS marks, coalesce(sum({amount}), 0)::int8 AS amount,
                coalesce(sum({amount}::numeric * {mark}), 0)::text AS weighed
         FROM {from}"
    )
}

/// Waits until nothing is under way, then counts.
pub async fn check(stage: &Stage, patience: Duration) -> Result<Books> {
    let mut books = Books::default();
    let pool = |name| stage.deployment.pool(name);
    let (engine, inventory, payment, shipment) =
        (pool("engine"), pool("inventory"), pool("payment"), pool("shipment"));
    settle(&[&engine, &payment, &shipment], patience, &mut books).await?;
    sagas(stage, &engine, &mut books).await?;
    if stage.mode != Mode::Engine {
        stock(&inventory, &mut books).await?;
        effects(&engine, [&inventory, &payment, &shipment], &mut books).await?;
    }
    Ok(books)
}

async fn settle(pools: &[&PgPool; 3], patience: Duration, books: &mut Books) -> Result<()> {
    let begun = Instant::now();
    loop {
        let live: i64 = one(pools[0], "SELECT count(*) FROM sagas WHERE live").await?;
        let calls = "SELECT count(*) FROM commands WHERE live";
        let at_work: i64 = one::<i64>(pools[1], calls).await? + one::<i64>(pools[2], calls).await?;
        if live + at_work == 0 {
            return Ok(());
        }
        if begun.elapsed() > patience {
            books.violations.push(format!("{live} sagas are still live, {at_work} calls under way"));
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Every one that was begun is there, has ended as it should, and has a history without a gap.
async fn sagas(stage: &Stage, engine: &PgPool, books: &mut Books) -> Result<()> {
    let promised = stage.ledger.promised();
    let over_http = stage.mode.over_http();
    let key = if over_http { "business_key" } else { "id" };
    let all: Sum = row(engine, sum(key, "1", "sagas")).await?;
    books.same("sagas begun", promised.begun.cast_signed(), all.sagas);
    books.same("their marks", promised.marks, all.marks);
    if stage.mode != Mode::Engine {
        let orders: Sum = row(engine, sum("saga_id", "1", "orders")).await?;
        let theirs: Sum = row(engine, sum("id", "1", "sagas")).await?;
        books.same("sagas with an order", &theirs, &orders);
    }
    let labels: Vec<(String, i64)> =
        sqlx::query_as("SELECT label, count(*) FROM sagas GROUP BY label").fetch_all(engine).await?;
    books.labels = labels.into_iter().collect();
    let found = std::mem::take(&mut books.labels);
    let labels: BTreeSet<&str> =
        promised.labels.keys().copied().chain(found.keys().map(String::as_str)).collect();
    for label in labels {
        let expected = promised.labels.get(label).copied().unwrap_or_default();
        let found = found.get(label).copied().unwrap_or_default();
        books.same(&format!("sagas that end {label}"), expected.cast_signed(), found);
    }
    books.labels = found;
    let done = if stage.mode == Mode::Engine { three_steps::DONE } else { FULFILLED };
    let odd: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM sagas WHERE live OR parked OR outcome IS DISTINCT FROM CASE label WHEN $1 THEN 'completed' ELSE 'undone' END",
    )
    .bind(done)
    .fetch_one(engine)
    .await?;
    books.same("sagas that have not ended well", 0, odd);
    let entries: i64 = one(engine, "SELECT count(*) FROM timeline").await?;
    let revisions: i64 = one(engine, "SELECT coalesce(sum(revision), 0)::int8 FROM sagas").await?;
    books.same("entries of their timelines", revisions, entries);
    Ok(())
}

/// What was put in is on hand or shipped; nothing is reserved; the reservations say the same.
async fn stock(inventory: &PgPool, books: &mut Books) -> Result<()> {
    let odd: i64 = one(
        inventory,
        "SELECT count(*) FROM stock AS s
         LEFT JOIN (SELECT product_id, sum(quantity) FILTER (WHERE status = 'taken') AS taken,
                           count(*) FILTER (WHERE status = 'held') AS held FROM reservations GROUP BY product_id) AS r
                USING (product_id)
         WHERE s.adjusted <> s.on_hand + s.shipped OR s.reserved <> 0 OR s.shipped <> coalesce(r.taken, 0)
            OR coalesce(r.held, 0) <> 0",
    )
    .await?;
    books.same("products whose stock does not add up", 0, odd);
    Ok(())
}

/// A fulfilled order has its total captured once, one label bought and its pieces taken; any other has nothing left.
async fn effects(
    engine: &PgPool,
    [inventory, payment, shipment]: [&PgPool; 3],
    books: &mut Books,
) -> Result<()> {
    let fulfilled = format!("orders AS o JOIN sagas AS s ON s.id = o.saga_id WHERE s.label = '{FULFILLED}'");
    let due: Sum = row(engine, sum("o.saga_id", "o.total", &fulfilled)).await?;
    let captured = "gateway_charges AS g JOIN commands AS c ON c.command_id = g.key
                    LEFT JOIN gateway_refunds AS r ON r.charge_key = g.key
                    WHERE g.declined IS NULL AND r.key IS NULL";
    let captured: Sum = row(payment, sum("c.saga_id", "g.amount", captured)).await?;
    books.same("money captured and kept", &due, &captured);
    let halves = "SELECT count(*) FROM gateway_refunds AS r JOIN gateway_charges AS g ON g.key = r.charge_key
                  WHERE r.amount <> g.amount OR g.declined IS NOT NULL";
    books.same("refunds that are not of the whole charge", 0, one::<i64>(payment, halves).await?);

    let parcels: Sum = row(engine, sum("o.saga_id", "1", &fulfilled)).await?;
    let booked = "carrier_bookings AS b JOIN commands AS c ON c.command_id = b.key
                  LEFT JOIN carrier_cancellations AS x ON x.booking_key = b.key
                  WHERE b.tracking_number IS NOT NULL AND x.key IS NULL";
    let booked: Sum = row(shipment, sum("c.saga_id", "1", booked)).await?;
    books.same("labels bought and not cancelled", &parcels, &booked);

    let pieces = format!(
        "(SELECT o.saga_id, (SELECT sum((l->>'quantity')::int8) FROM json_array_elements(o.lines::json) AS l) AS n
          FROM {fulfilled}) AS p"
    );
    let pieces: Sum = row(engine, sum("saga_id", "n", &pieces)).await?;
    let taken =
        "(SELECT saga_id, sum(quantity) AS n FROM reservations WHERE status = 'taken' GROUP BY saga_id) AS t";
    let taken: Sum = row(inventory, sum("saga_id", "n", taken)).await?;
    books.same("pieces taken", &pieces, &taken);
    Ok(())
}

impl Books {
    fn same<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, expected: T, found: T) {
        if expected != found {
            self.violations.push(format!("{what}: {expected:?} expected, {found:?} found"));
        }
    }
}

async fn one<T>(pool: &PgPool, sql: &'static str) -> Result<T>
where
    T: Send + Unpin + sqlx::Type<sqlx::Postgres> + for<'r> sqlx::Decode<'r, sqlx::Postgres>,
{
    Ok(sqlx::query_scalar(sql).fetch_one(pool).await?)
}

async fn row<T: Send + Unpin + for<'r> FromRow<'r, PgRow>>(pool: &PgPool, sql: String) -> Result<T> {
    // The names are constants of this file.
    Ok(sqlx::query_as(AssertSqlSafe(sql)).fetch_one(pool).await?)
}
