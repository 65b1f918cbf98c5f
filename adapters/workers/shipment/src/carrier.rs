//! The port to a carrier.

use std::future::Future;

use uuid::Uuid;

/// What is to be sent, as far as this carrier asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel {
    /// The idempotency key.
    pub key: Uuid,
    /// ISO 3166-1 alpha-2.
    pub country: String,
}

/// A label that was bought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Booking {
    /// What the parcel is followed by.
    pub tracking_number: String,
}

/// Why there is no booking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A business no. It stands.
    #[error("the carrier refuses")]
    Refused,
    /// It may have happened.
    #[error("no answer")]
    NoAnswer,
}

/// A carrier: idempotent by key, its first final answer binds, and it can look up a key.
pub trait Carrier: Send + Sync {
    /// Buys a label.
    fn book(&self, parcel: Parcel) -> impl Future<Output = Result<Booking, Error>> + Send;

    /// Cancels a booking, under a key of its own.
    fn cancel(&self, key: Uuid, booking: Uuid) -> impl Future<Output = Result<(), Error>> + Send;

    /// What was answered under a booking's key.
    fn look_up(&self, key: Uuid) -> impl Future<Output = Result<Option<Booking>, Error>> + Send;

    /// Whether something was cancelled under a cancellation's key.
    fn is_cancelled(&self, key: Uuid) -> impl Future<Output = Result<bool, Error>> + Send;
}
