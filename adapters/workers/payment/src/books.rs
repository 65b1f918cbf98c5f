//! The built-in gateway's books: tables `gateway_charges`, `gateway_refunds` and `gateway_faults`.

use std::collections::HashMap;

use amends_pool::{Connection, Pool};
use sqlx::FromRow;
use uuid::Uuid;

use crate::gateway::{Charge, Error, Receipt, Refund};

/// Number of calls for which `card_error_twice` fails.
const FAULTS_BEFORE_SUCCESS: i32 = 2;

/// The result of a charge, and whether this call is the first with a result.
#[derive(Debug, Clone)]
pub(crate) struct Charged {
    pub(crate) answer: Result<Receipt, Error>,
    pub(crate) is_new: bool,
}

#[derive(Debug, Clone, FromRow)]
struct ChargeRow {
    key: Uuid,
    charge_id: Uuid,
    amount: i64,
    currency: String,
    declined: Option<String>,
}

impl ChargeRow {
    fn answer(self) -> Result<Receipt, Error> {
        match self.declined {
            Some(code) => Err(Error::Declined { code }),
            None => Ok(Receipt { id: self.charge_id, amount: self.amount, currency: self.currency }),
        }
    }
}

/// Charges many at once, by one statement if all are new; each key once.
pub(crate) async fn charge(pool: &Pool, mut charges: Vec<Charge>) -> Result<Vec<Charged>, sqlx::Error> {
    let asked: Vec<Uuid> = charges.iter().map(|c| c.key).collect();
    charges.sort_by_key(|c| c.key);
    charges.dedup_by_key(|c| c.key);
    let out_of_order = faults(pool, &charges).await?;
    charges.retain(|c| !out_of_order.contains(&c.key));
    let inserted: Vec<ChargeRow> = sqlx::query_as(
        "INSERT INTO gateway_charges (key, charge_id, amount, currency, method, declined)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::int8[], $4::text[], $5::text[], $6::text[])
         ON CONFLICT (key) DO NOTHING RETURNING key, charge_id, amount, currency, declined",
    )
    .bind(charges.iter().map(|c| c.key).collect::<Vec<_>>())
    .bind(charges.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>())
    .bind(charges.iter().map(|c| c.amount).collect::<Vec<_>>())
    .bind(charges.iter().map(|c| c.currency.as_str()).collect::<Vec<_>>())
    .bind(charges.iter().map(|c| c.method.as_str()).collect::<Vec<_>>())
    .bind(charges.iter().map(|c| declined(&c.method)).collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    let new: HashMap<Uuid, ChargeRow> = inserted.into_iter().map(|row| (row.key, row)).collect();
    let known: Vec<Uuid> = charges.iter().map(|c| c.key).filter(|key| !new.contains_key(key)).collect();
    let known = if known.is_empty() { HashMap::new() } else { find(pool, &known).await? };
    let answer = |key: &Uuid| {
        let row = new.get(key).or_else(|| known.get(key)).cloned();
        let answer = row.map_or(Err(Error::Unavailable), ChargeRow::answer);
        Charged { answer, is_new: new.contains_key(key) }
    };
    Ok(asked.iter().map(answer).collect())
}

/// Returns why a method is declined, if it is.
fn declined(method: &str) -> Option<&'static str> {
    match method {
        "card_approved" | "card_slow" | "card_lost_reply" | "card_error_twice" | "card_refund_refused" => {
            None
        }
        "card_declined" => Some("card_declined"),
        _ => Some("unknown_method"),
    }
}

/// Returns the keys for which the gateway fails this time.
async fn faults(pool: &Pool, charges: &[Charge]) -> Result<Vec<Uuid>, sqlx::Error> {
    let faulty: Vec<Uuid> =
        charges.iter().filter(|c| c.method == "card_error_twice").map(|c| c.key).collect();
    if faulty.is_empty() {
        return Ok(faulty);
    }
    let calls: Vec<(Uuid, i32)> = sqlx::query_as(
        "INSERT INTO gateway_faults AS f (key, calls) SELECT key, 1 FROM UNNEST($1::uuid[]) AS key
         ON CONFLICT (key) DO UPDATE SET calls = f.calls + 1 RETURNING key, calls",
    )
    .bind(faulty)
    .fetch_all(pool)
    .await?;
    Ok(calls.into_iter().filter(|(_, calls)| *calls <= FAULTS_BEFORE_SUCCESS).map(|(key, _)| key).collect())
}

async fn find(pool: &Pool, keys: &[Uuid]) -> Result<HashMap<Uuid, ChargeRow>, sqlx::Error> {
    let rows: Vec<ChargeRow> = sqlx::query_as(
        "SELECT key, charge_id, amount, currency, declined FROM gateway_charges WHERE key = ANY($1)",
    )
    .bind(keys)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.key, row)).collect())
}

/// Refunds many at once. Refunds of one charge take turns, so that each sees those before it.
pub(crate) async fn refund(
    pool: &Pool,
    refunds: Vec<Refund>,
) -> Result<Vec<Result<Receipt, Error>>, sqlx::Error> {
    let mut left = refunds.clone();
    left.sort_by_key(|r| (r.charge, r.key));
    left.dedup_by_key(|r| r.key);
    let mut tx = pool.begin().await?;
    let charges: Vec<Uuid> = left.iter().map(|r| r.charge).collect();
    sqlx::query("SELECT FROM gateway_charges WHERE key = ANY($1) ORDER BY key FOR UPDATE")
        .bind(charges)
        .execute(&mut *tx)
        .await?;
    while !left.is_empty() {
        let mut turn = left.clone();
        turn.dedup_by_key(|r| r.charge);
        left.retain(|r| !turn.contains(r));
        insert_refunds(&mut tx, &turn).await?;
    }
    let rows: Vec<(Uuid, Uuid, i64, String)> =
        sqlx::query_as("SELECT key, refund_id, amount, currency FROM gateway_refunds WHERE key = ANY($1)")
            .bind(refunds.iter().map(|r| r.key).collect::<Vec<_>>())
            .fetch_all(&mut *tx)
            .await?;
    tx.commit().await?;
    let found: HashMap<Uuid, Receipt> =
        rows.into_iter().map(|(key, id, amount, currency)| (key, Receipt { id, amount, currency })).collect();
    let refused = || Error::Declined { code: "refund_refused".into() };
    Ok(refunds.iter().map(|r| found.get(&r.key).cloned().ok_or_else(refused)).collect())
}

/// Inserts refunds of different charges, as far as something is left of each charge.
async fn insert_refunds(connection: &mut Connection, refunds: &[Refund]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO gateway_refunds (key, refund_id, charge_key, amount, currency)
         SELECT r.key, r.refund_id, c.key, COALESCE(r.amount, c.amount), c.currency
         FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::int8[]) AS r (key, refund_id, charge, amount)
         JOIN gateway_charges AS c ON c.key = r.charge
         WHERE c.declined IS NULL AND c.method <> 'card_refund_refused'
           AND COALESCE(r.amount, c.amount) <= c.amount - (
               SELECT COALESCE(sum(before.amount), 0) FROM gateway_refunds AS before
               WHERE before.charge_key = c.key AND before.key <> r.key)
         ON CONFLICT DO NOTHING",
    )
    .bind(refunds.iter().map(|r| r.key).collect::<Vec<_>>())
    .bind(refunds.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>())
    .bind(refunds.iter().map(|r| r.charge).collect::<Vec<_>>())
    .bind(refunds.iter().map(|r| r.amount).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Returns the answer recorded under a key, for a charge or refund.
pub(crate) async fn look_up(pool: &Pool, key: Uuid) -> Result<Result<Option<Receipt>, Error>, sqlx::Error> {
    let row: Option<ChargeRow> = sqlx::query_as(
        "SELECT key, charge_id, amount, currency, declined FROM gateway_charges WHERE key = $1
         UNION ALL
         SELECT key, refund_id, amount, currency, NULL FROM gateway_refunds WHERE key = $1",
    )
    .bind(key)
    .fetch_optional(pool)
    .await?;
    Ok(row.map(ChargeRow::answer).transpose())
}
