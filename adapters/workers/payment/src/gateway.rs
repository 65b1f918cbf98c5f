//! The port to a payment gateway.

use std::future::Future;

use uuid::Uuid;

/// Money to capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// The idempotency key.
    pub key: Uuid,
    /// Amount in minor units.
    pub amount: i64,
    /// ISO 4217.
    pub currency: String,
    /// The payment method.
    pub method: String,
}

/// Money to refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refund {
    /// The idempotency key.
    pub key: Uuid,
    /// The charge's key.
    pub charge: Uuid,
    /// Amount in minor units; `None`: the whole charge.
    pub amount: Option<i64>,
}

/// Proof of a charge or a refund.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The gateway's id.
    pub id: Uuid,
    /// Amount in minor units.
    pub amount: i64,
    /// ISO 4217.
    pub currency: String,
}

/// Why there is no receipt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Declined for a business reason. The answer is final for this key.
    #[error("declined: {code}")]
    Declined {
        /// Stable code for programs.
        code: String,
    },
    /// The gateway is out of order: certainly nothing happened.
    #[error("the gateway is out of order")]
    Unavailable,
    /// The call may have taken effect.
    #[error("no answer")]
    NoAnswer,
}

/// A payment gateway: idempotent by key, its first final answer binds, and it can look up a key.
pub trait PaymentGateway: Send + Sync {
    /// Captures money.
    fn charge(&self, charge: Charge) -> impl Future<Output = Result<Receipt, Error>> + Send;

    /// Refunds a charge, or part of it. All refunds of a charge together never exceed it.
    fn refund(&self, refund: Refund) -> impl Future<Output = Result<Receipt, Error>> + Send;

    /// Returns the answer recorded under a key: a receipt, a decline, or nothing so far.
    fn look_up(&self, key: Uuid) -> impl Future<Output = Result<Option<Receipt>, Error>> + Send;
}
