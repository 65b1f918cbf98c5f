//! Table `stock_requests`: the answer to each change of stock with an idempotency key, in the transaction of the change.
//! So a change is made once, whichever process dies, and a second request with the key waits for the first's commit.

use std::time::Duration;

use amends_pool::{Connection, Pool};
use sqlx::FromRow;

/// How long an answer is kept.
const ANSWER_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Number of expired answers that one statement deletes.
const FORGOTTEN_AT_ONCE: i64 = 1_000;

/// A SHA-256.
pub(crate) type Digest = [u8; 32];

/// A request that is to be carried out once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Once {
    /// The digest of its key.
    pub request: Digest,
    /// The digest of its content.
    pub fingerprint: Digest,
}

/// An answer that was given.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub(crate) struct Given {
    /// The HTTP status, 2xx.
    pub status: i16,
    /// The body, JSON.
    pub body: String,
}

/// What a request with a key is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeyUse {
    /// It is the first with this key.
    First,
    /// The key is known, with the same content.
    Replayed(Given),
    /// The key is known, with other content.
    KeyReused,
}

#[derive(FromRow)]
struct Known {
    fingerprint: Vec<u8>,
    #[sqlx(flatten)]
    given: Given,
}

/// Takes the key of a request, or waits for the transaction that has it.
pub(crate) async fn take(db: &mut Connection, once: &Once) -> Result<KeyUse, sqlx::Error> {
    let taken = sqlx::query(
        "INSERT INTO stock_requests AS r (request, expires_at, status, fingerprint, body)
         VALUES ($1, clock_timestamp() + make_interval(secs => $3), 0, $2, '')
         ON CONFLICT (request) DO UPDATE
         SET expires_at = EXCLUDED.expires_at, fingerprint = EXCLUDED.fingerprint
         WHERE r.expires_at <= clock_timestamp()
         RETURNING 1",
    )
    .bind(&once.request[..])
    .bind(&once.fingerprint[..])
    .bind(ANSWER_LIFETIME.as_secs_f64())
    .fetch_optional(&mut *db)
    .await?;
    if taken.is_some() {
        return Ok(KeyUse::First);
    }
    let known: Known =
        sqlx::query_as("SELECT fingerprint, status, body FROM stock_requests WHERE request = $1")
            .bind(&once.request[..])
            .fetch_one(db)
            .await?;
    Ok(if known.fingerprint == once.fingerprint { KeyUse::Replayed(known.given) } else { KeyUse::KeyReused })
}

/// Stores the answer to a request that has taken its key in this transaction.
pub(crate) async fn keep(db: &mut Connection, once: &Once, given: &Given) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE stock_requests SET status = $2, body = $3 WHERE request = $1")
        .bind(&once.request[..])
        .bind(given.status)
        .bind(&given.body)
        .execute(db)
        .await?;
    Ok(())
}

/// Deletes expired answers; returns their number.
pub(crate) async fn forget_expired(pool: &Pool) -> Result<u64, sqlx::Error> {
    let mut forgotten = 0;
    loop {
        let page = sqlx::query(
            "DELETE FROM stock_requests WHERE request = ANY(ARRAY(
                 SELECT r.request FROM stock_requests AS r WHERE r.expires_at <= clock_timestamp()
                 ORDER BY r.expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))",
        )
        .bind(FORGOTTEN_AT_ONCE)
        .execute(pool)
        .await?
        .rows_affected();
        forgotten += page;
        if page < FORGOTTEN_AT_ONCE.unsigned_abs() {
            return Ok(forgotten);
        }
    }
}
