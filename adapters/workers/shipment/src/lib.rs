//! The shipment worker: bookings at a carrier, and their cancellation.
//!
//! Step: `ship` (`{"shippingAddress":{"name":…,"line1":…,"city":…,"postalCode":…,"country":"AT"},"lines":[…]}`); its
//! compensation cancels the booking. The carrier is a port ([`Carrier`]); the built-in one ([`SandboxCarrier`]) keeps
//! its own books. Addresses are personal: they are neither logged, nor kept in the worker's row once the command is
//! settled.
#![warn(missing_docs)]

mod books;
mod carrier;
mod executor;
mod expiry;
mod sandbox;

use std::time::Duration;

use amends_pool::Pool;
use amends_protocol::transport::{Sink, Source};
use amends_worker::{External, PgRows, Settings};

pub use carrier::{Booking, Carrier, Error, Parcel};
pub use executor::Shipments;
pub use expiry::expire_books;
pub use sandbox::SandboxCarrier;

/// The migrations of the shipment database.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("../../../migrations/shipment");

/// Returns the initial settings of the shipment worker. A call may take 2 s: a carrier that is silent longer is asked
/// by a look-up, so that the saga soon learns that the outcome is unknown.
pub fn settings() -> Settings {
    Settings { call_timeout: Duration::from_secs(2), ..Settings::new("shipment") }
}

/// Creates a worker with the built-in carrier, for tests and measurements. `amends worker shipment` is started from the
/// registry of services instead.
pub fn worker<S: Source, K: Sink + 'static>(
    pool: impl Into<Pool>,
    source: S,
    sink: K,
    settings: Settings,
) -> External<PgRows, Shipments<SandboxCarrier>, S, K> {
    let pool = pool.into();
    let carrier = SandboxCarrier::new(pool.clone());
    External::new(PgRows::new(pool), Shipments::new(carrier), source, sink, settings)
}
