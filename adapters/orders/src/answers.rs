//! Table `idempotent_answers`: the answer to each request with an idempotency key.
//!
//! A request takes its key in a transaction that stays open until it is answered. So a second request with the same key
//! waits for the first, and a process that dies leaves nothing behind.

use std::time::Duration;

use amends_pool::{Pool, Transaction};
use amends_postgres::{Error, error};
use sqlx::FromRow;

/// How long an answer is usually kept.
pub const ANSWER_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How long the answer to a refund is kept.
pub const REFUND_ANSWER_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// Number of expired answers that one statement deletes.
const FORGOTTEN_AT_ONCE: i64 = 1_000;

/// A SHA-256.
pub type Digest = [u8; 32];

/// A stored answer.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct StoredAnswer {
    /// The HTTP status, 2xx.
    pub status: i16,
    /// The headers that belong to the answer, as JSON.
    pub headers: String,
    /// The body.
    pub body: String,
}

/// What a key's request is to do.
#[derive(Debug)]
pub enum Turn {
    /// It is the first with this key: it is carried out, and then answered.
    First(Reservation),
    /// The key is known, with the same body: this was the answer.
    Replayed(StoredAnswer),
    /// The key is known, with another body.
    KeyReused,
}

/// A key that is taken until its request is answered. When dropped, it is free again.
#[derive(Debug)]
pub struct Reservation {
    transaction: Transaction,
    request: Digest,
}

/// The answers in the engine's database.
#[derive(Debug, Clone)]
pub struct AnswerStore(Pool);

#[derive(FromRow)]
struct Known {
    fingerprint: Vec<u8>,
    #[sqlx(flatten)]
    answer: StoredAnswer,
}

impl AnswerStore {
    /// Creates a store over this pool. Each request with a key holds a connection until it is answered, so the pool is
    /// not that of other work.
    pub fn new(pool: impl Into<Pool>) -> Self {
        Self(pool.into())
    }

    /// Takes a key, or waits for the request that has it. `request` is the digest of subject, method, path and key;
    /// `fingerprint` that of the body.
    ///
    /// # Errors
    /// The database's; [`Error::Locked`] if the other request takes too long.
    pub async fn take(
        &self,
        request: Digest,
        fingerprint: Digest,
        lifetime: Duration,
    ) -> Result<Turn, Error> {
        self.try_take(request, fingerprint, lifetime).await.map_err(error::of)
    }

    async fn try_take(
        &self,
        request: Digest,
        fingerprint: Digest,
        lifetime: Duration,
    ) -> Result<Turn, sqlx::Error> {
        let mut transaction = self.0.begin().await?;
        // Longer than for other rows: the request that holds the key is being carried out.
        sqlx::query("SET LOCAL lock_timeout = '8s'").execute(&mut *transaction).await?;
        let taken = sqlx::query(
            "INSERT INTO idempotent_answers AS a (request, expires_at, status, fingerprint, headers, body)
             VALUES ($1, clock_timestamp() + make_interval(secs => $3), 0, $2, '', '')
             ON CONFLICT (request) DO UPDATE
             SET expires_at = EXCLUDED.expires_at, fingerprint = EXCLUDED.fingerprint
             WHERE a.expires_at <= clock_timestamp()
             RETURNING 1",
        )
        .bind(&request[..])
        .bind(&fingerprint[..])
        .bind(lifetime.as_secs_f64())
        .fetch_optional(&mut *transaction)
        .await?;
        if taken.is_some() {
            return Ok(Turn::First(Reservation { transaction, request }));
        }
        let known: Known = sqlx::query_as(
            "SELECT fingerprint, status, headers, body FROM idempotent_answers WHERE request = $1",
        )
        .bind(&request[..])
        .fetch_one(&mut *transaction)
        .await?;
        transaction.rollback().await?;
        Ok(if known.fingerprint == fingerprint { Turn::Replayed(known.answer) } else { Turn::KeyReused })
    }

    /// Deletes expired answers; returns their number.
    ///
    /// # Errors
    /// The database's.
    pub async fn forget_expired(&self) -> Result<u64, Error> {
        let deleted = sqlx::query(
            "DELETE FROM idempotent_answers WHERE request = ANY(ARRAY(
                 SELECT a.request FROM idempotent_answers AS a WHERE a.expires_at <= clock_timestamp()
                 ORDER BY a.expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))",
        )
        .bind(FORGOTTEN_AT_ONCE)
        .execute(&self.0)
        .await
        .map_err(error::of)?;
        Ok(deleted.rows_affected())
    }
}

impl Reservation {
    /// Stores the answer.
    ///
    /// # Errors
    /// The database's: the key may be free again.
    pub async fn keep(self, answer: &StoredAnswer) -> Result<(), Error> {
        self.try_keep(answer).await.map_err(error::of)
    }

    async fn try_keep(mut self, answer: &StoredAnswer) -> Result<(), sqlx::Error> {
        sqlx::query("UPDATE idempotent_answers SET status = $2, headers = $3, body = $4 WHERE request = $1")
            .bind(&self.request[..])
            .bind(answer.status)
            .bind(&answer.headers)
            .bind(&answer.body)
            .execute(&mut *self.transaction)
            .await?;
        self.transaction.commit().await
    }

    /// Gives the key back: the request was refused.
    pub async fn give_back(self) {
        // Without an answer, the connection is closed, and the key is free all the same.
        let _ = self.transaction.rollback().await;
    }
}
