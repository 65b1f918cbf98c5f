//! The port to a carrier.

use std::future::Future;

use uuid::Uuid;

/// A parcel, with the data that this carrier needs.
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
    /// Number for tracking the parcel.
    pub tracking_number: String,
}

/// Why there is no booking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Refused for a business reason. The answer is final.
    #[error("the carrier refuses")]
    Refused,
    /// The call may have taken effect.
    #[error("no answer")]
    NoAnswer,
}

/// A carrier: idempotent by key, its first final answer binds, and it can look up a key.
pub trait Carrier: Send + Sync {
    /// Buys a label.
    fn book(&self, parcel: Parcel) -> impl Future<Output = Result<Booking, Error>> + Send;

    /// Cancels a booking, under a separate key.
    fn cancel(&self, key: Uuid, booking: Uuid) -> impl Future<Output = Result<(), Error>> + Send;

    /// Returns the answer recorded under a booking's key.
    fn look_up(&self, key: Uuid) -> impl Future<Output = Result<Option<Booking>, Error>> + Send;

    /// Returns whether a booking was cancelled under a cancellation's key.
    fn is_cancelled(&self, key: Uuid) -> impl Future<Output = Result<bool, Error>> + Send;
}
