//! Maps errors of Postgres to errors of the engine's store.

use amends_engine::port::Error;
use amends_pool::sqlstate;

/// Returns the store's error for a database error.
pub fn of(error: sqlx::Error) -> Error {
    match &error {
        sqlx::Error::Database(said) if sqlstate::is_data_fault(&error) => {
            Error::Data(said.message().to_owned())
        }
        sqlx::Error::Database(said) if sqlstate::is_locked(&error) => {
            Error::Locked(said.message().to_owned())
        }
        sqlx::Error::Database(said) if sqlstate::is_other_epoch(&error) => {
            Error::OtherEpoch(said.message().to_owned())
        }
        sqlx::Error::Database(said) => {
            Error::Unavailable(format!("{} ({})", said.message(), said.code().unwrap_or_default()))
        }
        sqlx::Error::Encode(_) => Error::Data(error.to_string()),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_) => {
            Error::Unreadable(error.to_string())
        }
        _ => Error::Unavailable(error.to_string()),
    }
}
