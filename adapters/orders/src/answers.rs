//! Table `idempotent_answers`: the answer to each request with an idempotency key.
//!
//! A request takes its key in a transaction that stays open until it is answered. So a second request with the same key
//! waits for the first, and a process that dies leaves nothing behind.

use std::time::Duration;

use amends_pool::Transaction;
use amends_postgres::{Database, Error, error, homes::answering_homes};
use sqlx::FromRow;

/// How long an answer is usually kept.
pub const ANSWER_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How long the answer to a refund is kept.
pub const REFUND_ANSWER_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// Number of expired answers that one statement deletes.
const FORGOTTEN_AT_ONCE: i64 = 1_000;

/// Takes a key that no answer has. If another transaction has just taken it, it waits.
const TAKE: &str =
    "INSERT INTO idempotent_answers (home, request, fingerprint, expires_at, status, headers, body)
     VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4), 0, '', '')
     ON CONFLICT (request, home) DO NOTHING RETURNING 1";
/// Takes a key whose answer has expired.
const TAKE_OVER: &str =
    "UPDATE idempotent_answers SET fingerprint = $3, expires_at = now() + make_interval(secs => $4)
     WHERE ($1::int2 IS NULL OR home = $1) AND request = $2 AND expires_at <= now() RETURNING 1";
const FORGET: &str =
    "DELETE FROM idempotent_answers WHERE ($1::int2 IS NULL OR home = $1) AND request = ANY(ARRAY(
     SELECT a.request FROM idempotent_answers AS a
     WHERE ($1::int2 IS NULL OR a.home = $1) AND a.expires_at <= now()
     ORDER BY a.expires_at LIMIT $2 FOR UPDATE SKIP LOCKED))";

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
pub enum KeyUse {
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
    home: i16,
}

/// The answers in the engine's database.
#[derive(Debug, Clone)]
pub struct AnswerStore(Database);

#[derive(FromRow)]
struct Known {
    fingerprint: Vec<u8>,
    #[sqlx(flatten)]
    answer: StoredAnswer,
}

impl AnswerStore {
    /// Creates a store over this database. Each request with a key holds a connection until it is answered, so the pool
    /// is not that of other work.
    pub fn new(database: impl Into<Database>) -> Self {
        Self(database.into())
    }

    /// The home of a request: that of the slot with which its digest begins.
    fn home(&self, request: &Digest) -> i16 {
        self.0.homes.of_slot(u16::from_be_bytes([request[0], request[1]]))
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
    ) -> Result<KeyUse, Error> {
        self.try_take(request, fingerprint, lifetime).await.map_err(error::of)
    }

    async fn try_take(
        &self,
        request: Digest,
        fingerprint: Digest,
        lifetime: Duration,
    ) -> Result<KeyUse, sqlx::Error> {
        let home = self.home(&request);
        let mut transaction = self.0.pool.begin().await?;
        // Longer than for other rows: the request that holds the key is being carried out.
        sqlx::query("SET LOCAL lock_timeout = '8s'").execute(&mut *transaction).await?;
        for statement in [TAKE, TAKE_OVER] {
            let taken = sqlx::query(statement)
                .bind(home)
                .bind(&request[..])
                .bind(&fingerprint[..])
                .bind(lifetime.as_secs_f64())
                .fetch_optional(&mut *transaction)
                .await?;
            if taken.is_some() {
                return Ok(KeyUse::First(Reservation { transaction, request, home }));
            }
        }
        let known: Known = sqlx::query_as(
            "SELECT fingerprint, status, headers, body FROM idempotent_answers
             WHERE ($1::int2 IS NULL OR home = $1) AND request = $2",
        )
        .bind(home)
        .bind(&request[..])
        .fetch_one(&mut *transaction)
        .await?;
        transaction.rollback().await?;
        Ok(if known.fingerprint == fingerprint { KeyUse::Replayed(known.answer) } else { KeyUse::KeyReused })
    }

    /// Deletes expired answers, at most [`FORGOTTEN_AT_ONCE`] of each home; returns their number.
    ///
    /// # Errors
    /// The database's.
    pub async fn forget_expired(&self) -> Result<u64, Error> {
        let Database { pool, homes, .. } = &self.0;
        let forget = |home, ()| async move {
            sqlx::query(FORGET).bind(home).bind(FORGOTTEN_AT_ONCE).execute(pool).await.map_err(error::of)
        };
        let deleted = answering_homes(homes.all().map(|home| (home, ())), forget).await?;
        Ok(deleted.iter().map(|deleted| deleted.rows_affected()).sum())
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
        sqlx::query(
            "UPDATE idempotent_answers SET status = $3, headers = $4, body = $5
             WHERE ($1::int2 IS NULL OR home = $1) AND request = $2",
        )
        .bind(self.home)
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
