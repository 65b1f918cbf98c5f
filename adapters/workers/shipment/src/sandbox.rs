//! The built-in carrier, for development and tests.

use std::future::pending;

use amends_pool::Pool;
use amends_worker::GroupCommit;
use uuid::Uuid;

use crate::{
    books::{self, Answered},
    carrier::{Booking, Carrier, Error, Parcel},
};

/// Maximum number of calls that are combined.
const BOOKINGS_TOGETHER: usize = 500;

/// The built-in carrier. It keeps its own books, in its own transactions, like an external system; concurrent calls
/// share a transaction.
///
/// It refuses the country `AQ`. For `BV` it neither answers nor supports look-ups, and books nothing.
#[derive(Debug)]
pub struct SandboxCarrier {
    pool: Pool,
    bookings: GroupCommit<Parcel, Answered>,
    cancellations: GroupCommit<(Uuid, Uuid), ()>,
}

impl SandboxCarrier {
    /// Creates a carrier with its books in this database.
    pub fn new(pool: impl Into<Pool>) -> Self {
        Self {
            pool: pool.into(),
            bookings: GroupCommit::new(BOOKINGS_TOGETHER),
            cancellations: GroupCommit::new(BOOKINGS_TOGETHER),
        }
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

impl Carrier for SandboxCarrier {
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

/// The carrier's database failed; it is unknown whether that was before or after the commit.
fn no_answer(error: sqlx::Error) -> Error {
    tracing::warn!(%error, "the carrier's books");
    Error::NoAnswer
}
