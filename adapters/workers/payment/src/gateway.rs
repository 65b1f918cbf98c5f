//! The port to a payment gateway, and the gateway that comes with the worker.

use std::{future::Future, time::Duration};

use amends_worker::{Clock, GroupCommit, TokioClock};
use sqlx::PgPool;
use uuid::Uuid;

use crate::books::{self, Charged};

/// Money to be captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// The idempotency key.
    pub key: Uuid,
    /// In minor units.
    pub amount: i64,
    /// ISO 4217.
    pub currency: String,
    /// How it is paid.
    pub method: String,
}

/// A charge to be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refund {
    /// The idempotency key.
    pub key: Uuid,
    /// The charge's key.
    pub charge: Uuid,
}

/// Proof of a charge or a refund.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The gateway's id for it.
    pub id: Uuid,
    /// In minor units.
    pub amount: i64,
    /// ISO 4217.
    pub currency: String,
}

/// Why there is no receipt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A business no. It stands: the key will get no other answer.
    #[error("declined: {code}")]
    Declined {
        /// Stable, for programs.
        code: String,
    },
    /// Out of order: certainly nothing happened.
    #[error("the gateway is out of order")]
    Unavailable,
    /// It may have happened.
    #[error("no answer")]
    NoAnswer,
}

/// A payment gateway: idempotent by key, its first final answer binds, and it can look up a key.
pub trait PaymentGateway: Send + Sync {
    /// Captures money.
    fn charge(&self, charge: Charge) -> impl Future<Output = Result<Receipt, Error>> + Send;

    /// Gives a charge back.
    fn refund(&self, refund: Refund) -> impl Future<Output = Result<Receipt, Error>> + Send;

    /// What was answered under a key: a receipt, a decline, or nothing so far.
    fn look_up(&self, key: Uuid) -> impl Future<Output = Result<Option<Receipt>, Error>> + Send;
}

/// How long `card_slow` takes.
const SLOW: Duration = Duration::from_secs(3);
/// The most calls that go together.
const TOGETHER: usize = 500;

/// The gateway that comes with the worker. It keeps its own books, in transactions of its own, as if it were
/// somebody else's system; concurrent calls share a transaction.
///
/// | method | what happens |
/// | --- | --- |
/// | `card_approved` | charged |
/// | `card_declined` | declined, `card_declined` |
/// | `card_slow` | charged; the answer takes 3 s |
/// | `card_lost_reply` | charged; the answer to the first call never comes |
/// | `card_error_twice` | out of order for the first two calls, then charged |
/// | `card_refund_refused` | charged; a refund is declined, `refund_refused` |
/// | any other | declined, `unknown_method` |
#[derive(Debug)]
pub struct BuiltInGateway<C = TokioClock> {
    pool: PgPool,
    clock: C,
    charges: GroupCommit<Charge, Charged>,
    refunds: GroupCommit<Refund, Result<Receipt, Error>>,
}

impl BuiltInGateway {
    /// A gateway with its books in this database.
    pub fn new(pool: PgPool) -> Self {
        Self::with_clock(pool, TokioClock)
    }
}

impl<C> BuiltInGateway<C> {
    /// A gateway with a clock of its own.
    pub fn with_clock(pool: PgPool, clock: C) -> Self {
        Self { pool, clock, charges: GroupCommit::new(TOGETHER), refunds: GroupCommit::new(TOGETHER) }
    }
}

impl<C: Clock> PaymentGateway for BuiltInGateway<C> {
    async fn charge(&self, charge: Charge) -> Result<Receipt, Error> {
        let method = charge.method.clone();
        let together = |charges: Vec<Charge>| books::charge(&self.pool, charges);
        let Charged { answer, is_new } = self.charges.call(charge, together).await.map_err(no_answer)?;
        match method.as_str() {
            "card_slow" => self.clock.sleep(SLOW).await,
            "card_lost_reply" if is_new => std::future::pending().await,
            _ => {}
        }
        answer
    }

    async fn refund(&self, refund: Refund) -> Result<Receipt, Error> {
        let together = |refunds: Vec<Refund>| books::refund(&self.pool, refunds);
        self.refunds.call(refund, together).await.map_err(no_answer)?
    }

    async fn look_up(&self, key: Uuid) -> Result<Option<Receipt>, Error> {
        books::look_up(&self.pool, key).await.map_err(no_answer)?
    }
}

/// The gateway's database failed under it: whether that was before or after the commit, nobody knows.
fn no_answer(error: sqlx::Error) -> Error {
    tracing::warn!(%error, "the gateway's books");
    Error::NoAnswer
}
