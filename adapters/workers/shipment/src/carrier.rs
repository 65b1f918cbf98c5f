//! The port to a carrier, and the carrier that comes with the worker.

use std::future::{Future, pending};

use amends_worker::GroupCommit;
use sqlx::PgPool;
use uuid::Uuid;

use crate::books;

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

/// The most calls that go together.
const TOGETHER: usize = 500;

/// The carrier that comes with the worker. It keeps its own books, in transactions of its own, as if it were
/// somebody else's system; concurrent calls share a transaction.
///
/// It refuses the country `AQ`. For `BV` it neither answers nor can be asked, and books nothing.
#[derive(Debug)]
pub struct BuiltInCarrier {
    pool: PgPool,
    bookings: GroupCommit<Parcel, Answered>,
    cancellations: GroupCommit<(Uuid, Uuid), ()>,
}

/// What the books say under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answered {
    Booked(Booking),
    Refused,
    /// `BV`: the carrier will never say.
    Silence,
}

impl BuiltInCarrier {
    /// A carrier with its books in this database.
    pub fn new(pool: PgPool) -> Self {
        Self { pool, bookings: GroupCommit::new(TOGETHER), cancellations: GroupCommit::new(TOGETHER) }
    }
}

impl Answered {
    async fn say(self) -> Result<Booking, Error> {
        match self {
            Answered::Booked(booking) => Ok(booking),
            Answered::Refused => Err(Error::Refused),
            Answered::Silence => pending().await,
        }
    }
}

impl Carrier for BuiltInCarrier {
    async fn book(&self, parcel: Parcel) -> Result<Booking, Error> {
        let together = |parcels: Vec<Parcel>| books::book(&self.pool, parcels);
        self.bookings.call(parcel, together).await.map_err(no_answer)?.say().await
    }

    async fn cancel(&self, key: Uuid, booking: Uuid) -> Result<(), Error> {
        let together = |cancellations: Vec<(Uuid, Uuid)>| books::cancel(&self.pool, cancellations);
        self.cancellations.call((key, booking), together).await.map_err(no_answer)
    }

    async fn look_up(&self, key: Uuid) -> Result<Option<Booking>, Error> {
        match books::look_up(&self.pool, key).await.map_err(no_answer)? {
            None => Ok(None),
            Some(answered) => answered.say().await.map(Some),
        }
    }

    async fn is_cancelled(&self, key: Uuid) -> Result<bool, Error> {
        books::is_cancelled(&self.pool, key).await.map_err(no_answer)
    }
}

/// The carrier's database failed under it: whether that was before or after the commit, nobody knows.
fn no_answer(error: sqlx::Error) -> Error {
    tracing::warn!(%error, "the carrier's books");
    Error::NoAnswer
}
