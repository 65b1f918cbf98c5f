//! Connections to any of the databases. No call waits for ever; the schema is checked at the start; and the database's
//! time is available without a query for each reading.
//!
//! | module | contains |
//! | --- | --- |
//! | `pool` | [`Pool`]: connections that are checked before use, and the [`Bounds`] of a call and the [`Plans`] of statements |
//! | `connection` | [`Connection`] and [`Transaction`]: each call ends within its bound, or the connection is closed |
//! | `examiner` | [`Examiner`]: what a new connection is examined by before use |
//! | `calls` | the calls that wait for an answer, and when the database was last found to be silent |
//! | `writability` | [`WriteCheck`]: whether the database accepts writes, for readiness |
//! | [`sqlstate`] | the meaning of an error: its cause, and whether the connection can still be used |
//! | `schema` | [`check`] and [`is_at`], for the start |
//! | `clock` | [`DatabaseClock`] |
//! | `statistics` | [`Statistics`]: what the database has committed and written |

#![warn(missing_docs)]

mod calls;
mod clock;
mod connection;
mod examiner;
mod pool;
mod schema;
pub mod sqlstate;
mod statement;
mod statistics;
mod writability;

pub use clock::DatabaseClock;
pub use connection::{Connection, Transaction};
pub use examiner::Examiner;
pub use pool::{Bounds, Occupancy, Plans, Pool, ROLE_SETTINGS, connect};
pub use schema::{check, is_at};
pub use statistics::{Statistics, statistics};
pub use writability::{Unwritable, WriteCheck};

/// Why a start fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is invalid.
    #[error("not a Postgres URL: {0}")]
    Url(#[source] sqlx::Error),
    /// The database does not answer.
    #[error("the database cannot be reached: {0}")]
    Unreachable(#[source] sqlx::Error),
    /// The database has not been migrated to this program's schema.
    #[error("the database is at an older schema than this program: run `amends migrate`")]
    Older,
    /// A newer program migrated the database, and its schema says that this program is too old for it.
    #[error("the database is at a newer schema ({0}) than this program can run beside: run a newer `amends`")]
    Newer(i64),
    /// A migration differs from the one that this program knows by that number.
    #[error("migration {0} of the database is not this program's")]
    Different(i64),
}
