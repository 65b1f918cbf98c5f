//! The executor SDK: everything about being a worker except the business. It implements the guarantees of
//! `docs/PROTOCOL.md` ("The worker's row", "Two kinds of executor") and needs nothing of the engine.
//!
//! Write an executor, and pass it to one of two workers:
//!
//! * a [`TransactionalExecutor`] to [`Transactional`]: its effects are stored in the worker's own database;
//! * an [`ExternalExecutor`] to [`External`]: its effect is a call to an external system.
//!
//! Both are plain futures over ports: the rows ([`Rows`], in Postgres [`PgRows`]), the transport
//! ([`amends_protocol::transport`]) and the [`Timer`]. They spawn nothing, and dropping them at any await is a crash
//! from which the rows recover.
//!
//! ```no_run
//! use amends_protocol::transport::{Sink, Source};
//! use amends_worker::{Answer, PgRows, PgTx, Settings, Transactional, TransactionalExecutor, Work, store};
//!
//! struct Nothing;
//! impl TransactionalExecutor<PgTx> for Nothing {
//!     async fn run(&self, _: &mut PgTx, work: &[Work]) -> Result<Vec<Answer>, store::Error> {
//!         Ok(work.iter().map(|_| Answer::succeeded(None, vec![])).collect())
//!     }
//! }
//!
//! async fn serve(pool: amends_pool::Pool, source: impl Source, sink: impl Sink) {
//!     let worker = Transactional::new(PgRows::new(pool), Nothing, source, sink, Settings::new("nothing"));
//!     worker.run(tokio_util::sync::CancellationToken::new()).await;
//! }
//! ```
#![warn(missing_docs)]

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod decide;
mod executor;
mod external;
mod group_commit;
mod health;
mod inbox;
mod keys;
mod outbox;
mod participant;
mod parts;
mod postgres;
mod publisher;
pub mod row;
mod settings;
pub mod store;
mod timer;
mod traces;
mod transactional;
mod unit_of_work;
mod upkeep;

pub use executor::{Action, Answer, ExternalExecutor, LookUp, Port, TransactionalExecutor, Void, Work};
#[doc(hidden)]
pub use external::model;
pub use external::{Calls, External, Intake, Recovery};
pub use group_commit::GroupCommit;
pub use health::{Health, Readiness};
pub use keys::{accepted_keys, write_keys};
pub use participant::Participant;
pub use postgres::{PgRows, PgTx};
pub use publisher::{PublishError, PublishedRow, Publisher};
pub use settings::Settings;
pub use store::{Due, Locked, Locks, Rows};
pub use timer::{Backoff, Timer, TokioTimer, within};
pub use transactional::Transactional;
pub use upkeep::{ensure_partitions, expire_pages, expire_rows};
