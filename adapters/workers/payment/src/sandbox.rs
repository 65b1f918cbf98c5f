//! The built-in gateway, for development and tests.

use std::time::Duration;

use amends_pool::Pool;
use amends_worker::{GroupCommit, Timer, TokioTimer};
use uuid::Uuid;

use crate::{
    books::{self, Charged},
    gateway::{Charge, Error, PaymentGateway, Receipt, Refund},
};

/// Delay of `card_slow`.
const SLOW_CHARGE: Duration = Duration::from_secs(3);
/// Maximum number of calls that are combined.
const CHARGES_TOGETHER: usize = 500;

/// The built-in gateway. It keeps its own books, in its own transactions, like an external system; concurrent calls
/// share a transaction.
///
/// | method | what happens |
/// | --- | --- |
/// | `card_approved` | charged |
/// | `card_declined` | declined, `card_declined` |
/// | `card_slow` | charged; the answer takes 3 s |
/// | `card_lost_reply` | charged; the answer to the first call never arrives |
/// | `card_error_twice` | out of order for the first two calls, then charged |
/// | `card_refund_refused` | charged; a refund is declined, `refund_refused` |
/// | any other | declined, `unknown_method` |
#[derive(Debug)]
pub struct SandboxGateway<C = TokioTimer> {
    pool: Pool,
    timer: C,
    charges: GroupCommit<Charge, Charged>,
    refunds: GroupCommit<Refund, Result<Receipt, Error>>,
}

impl SandboxGateway {
    /// Creates a gateway with its books in this database.
    pub fn new(pool: impl Into<Pool>) -> Self {
        Self::with_timer(pool, TokioTimer)
    }
}

impl<C> SandboxGateway<C> {
    /// Creates a gateway with the given timer.
    pub fn with_timer(pool: impl Into<Pool>, timer: C) -> Self {
        Self {
            pool: pool.into(),
            timer,
            charges: GroupCommit::new(CHARGES_TOGETHER),
            refunds: GroupCommit::new(CHARGES_TOGETHER),
        }
    }
}

impl<C: Timer> PaymentGateway for SandboxGateway<C> {
    async fn charge(&self, charge: Charge) -> Result<Receipt, Error> {
        let method = charge.method.clone();
        let together = |charges: Vec<Charge>| books::charge(&self.pool, charges);
        let Charged { answer, is_new } = self.charges.call(charge, together).await.map_err(no_answer)?;
        match method.as_str() {
            "card_slow" => self.timer.sleep(SLOW_CHARGE).await,
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

/// The gateway's database failed; it is unknown whether that was before or after the commit.
fn no_answer(error: sqlx::Error) -> Error {
    tracing::warn!(%error, "the gateway's books");
    Error::NoAnswer
}
