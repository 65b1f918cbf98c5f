//! The port to a payment gateway.

use std::future::Future;

use uuid::Uuid;

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
