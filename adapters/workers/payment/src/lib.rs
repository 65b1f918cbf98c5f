//! The payment worker: charges and refunds at a payment gateway.
//!
//! Steps: `pay` (`{"amount":2500,"currency":"EUR","method":"card_approved"}`); its compensation refunds the whole charge.
//! `refund` (`{"charge":"…","amount":1250,"currency":"EUR","lines":[…]}`) pays part of a charge back. The gateway is a port ([`PaymentGateway`]); the built-in one ([`SandboxGateway`]) keeps its own books.
#![warn(missing_docs)]

mod books;
mod executor;
mod expiry;
mod gateway;
mod sandbox;

use std::time::Duration;

use amends_pool::Pool;
use amends_protocol::transport::{Sink, Source};
use amends_worker::{External, PgRows, Settings};

pub use executor::Payments;
pub use expiry::expire_books;
pub use gateway::{Charge, Error, PaymentGateway, Receipt, Refund};
pub use sandbox::SandboxGateway;

/// The migrations of the payment database.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("../../../migrations/payment");

/// Returns the initial settings of the payment worker. A call may take 5 s: two more than `card_slow`.
pub fn settings() -> Settings {
    Settings { call_timeout: Duration::from_secs(5), ..Settings::new("payment") }
}

/// Creates a worker with the built-in gateway, for tests and measurements. `amends worker payment` is started from the
/// registry of services instead.
pub fn worker<S: Source, K: Sink + 'static>(
    pool: impl Into<Pool>,
    source: S,
    sink: K,
    settings: Settings,
) -> External<PgRows, Payments<SandboxGateway>, S, K> {
    let pool = pool.into();
    let gateway = SandboxGateway::new(pool.clone());
    External::new(PgRows::new(pool), Payments::new(gateway), source, sink, settings)
}
