//! Connections to any of the databases, on which no call waits for ever; whether a schema is this program's; and what
//! time it is there.
//!
//! | module | is |
//! | --- | --- |
//! | `pool` | [`Pool`]: connections that are checked before they are given out, and the [`Bounds`] of a call |
//! | `connection` | [`Connection`] and [`Transaction`]: each call ends within its bound, or the connection is closed |
//! | `calls` | which calls wait for an answer, and when the way to the database was last found to be silent |
//! | `writability` | [`WriteCheck`]: whether the database takes writes, for readiness |
//! | [`sqlstate`] | what an error means: whose fault it is, whether the connection is of use afterwards |
//! | `schema` | [`check`] and [`is_at`], for a start |
//! | `clock` | [`DatabaseClock`] |

#![warn(missing_docs)]

mod calls;
mod clock;
mod connection;
mod pool;
mod schema;
pub mod sqlstate;
mod writability;

pub use clock::DatabaseClock;
pub use connection::{Connection, Transaction};
pub use pool::{Bounds, Pool, connect};
pub use schema::{check, is_at};
pub use writability::{Unwritable, WriteCheck};

/// Why a start cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is none.
    #[error("not a Postgres URL: {0}")]
    Url(#[source] sqlx::Error),
    /// It does not answer.
    #[error("the database cannot be reached: {0}")]
    Unreachable(#[source] sqlx::Error),
    /// It has not been migrated to this program's schema.
    #[error("the database is at an older schema than this program: run `amends migrate`")]
    Older,
    /// It was migrated by a newer program, and says that this one is too old for it.
    #[error("the database is at a newer schema ({0}) than this program can run beside: run a newer `amends`")]
    Newer(i64),
    /// A migration is not the one that this program knows by that number.
    #[error("migration {0} of the database is not this program's")]
    Different(i64),
}
