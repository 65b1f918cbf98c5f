//! What Postgres says, in the engine's words.

use amends_engine::port::Error;

/// The engine's word for it.
pub fn of(error: sqlx::Error) -> Error {
    match &error {
        // 22: data exception, 23: constraint, 54: too large. The same again would meet the same answer.
        sqlx::Error::Database(said) => match class(&error) {
            Some("22" | "23" | "54") => Error::Data(said.message().to_owned()),
            _ => Error::Unavailable(format!("{} ({})", said.message(), said.code().unwrap_or_default())),
        },
        sqlx::Error::Encode(_) => Error::Data(error.to_string()),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_) => {
            Error::Unreadable(error.to_string())
        }
        _ => Error::Unavailable(error.to_string()),
    }
}

/// The class of its SQLSTATE.
pub(crate) fn class(error: &sqlx::Error) -> Option<&'static str> {
    let code = error.as_database_error()?.code()?;
    ["08", "22", "23", "54", "57"].into_iter().find(|class| code.starts_with(class))
}
