//! The meaning of a database error for its caller. SQLSTATEs are known only here.

use sqlx::{
    Error,
    postgres::{PgDatabaseError, PgSeverity},
};

/// Data exception, constraint violation, program limit: a retry would fail again.
const DATA_CLASSES: [&str; 3] = ["22", "23", "54"];
/// The server ended the statement or the session, or the connection broke.
const INTERRUPTED_CLASSES: [&str; 2] = ["08", "57"];
/// `connection_exception`. As a mere error it is about another connection than the client's: that of a coordinator to
/// one of its nodes.
const CONNECTION_CLASS: [&str; 1] = ["08"];
/// `admin_shutdown`, `crash_shutdown`, `cannot_connect_now`, `database_dropped`, `idle_session_timeout`.
const SESSION_ENDED: &str = "57P0";
/// `read_only_sql_transaction`: this session cannot write, but a new one may.
const READ_ONLY: &str = "25006";
/// `idle_in_transaction_session_timeout`.
const IDLE_IN_TRANSACTION: &str = "25P03";
/// `lock_not_available`: another transaction holds the lock.
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// `query_canceled`: by `statement_timeout`, or on request.
const QUERY_CANCELED: &str = "57014";
/// `disk_full`, and `configuration_limit_exceeded`: files cannot grow any more.
const NO_ROOM: [&str; 2] = ["53100", "53400"];
/// Feature not supported, syntax error or access rule violation: such a statement can never succeed.
const PROGRAM_CLASSES: [&str; 2] = ["0A", "42"];
/// Amends' own (migrations/engine/0002_writes.sql): the database was restored to an earlier state since the program has
/// read its epoch.
const OTHER_EPOCH: &str = "AM001";
/// `insufficient_privilege`.
const FORBIDDEN: &str = "42501";
/// `undefined_table`.
const UNDEFINED_TABLE: &str = "42P01";

/// Returns whether the data is at fault, so that the same statement would fail again.
pub fn is_data_fault(error: &Error) -> bool {
    has_class(error, &DATA_CLASSES)
}

/// Returns whether the statement gave up waiting for a lock.
pub fn is_locked(error: &Error) -> bool {
    has_code(error, LOCK_NOT_AVAILABLE)
}

/// Returns whether the server ended the statement because it took too long.
pub fn is_statement_timeout(error: &Error) -> bool {
    has_code(error, QUERY_CANCELED)
}

/// Returns whether the server's disk is full.
pub fn is_disk_full(error: &Error) -> bool {
    has_class(error, &NO_ROOM)
}

/// Returns whether the session is read-only.
pub fn is_read_only(error: &Error) -> bool {
    has_code(error, READ_ONLY)
}

/// Returns whether the program is at fault: the statement needs something that this database will never have or allow.
pub fn is_program_fault(error: &Error) -> bool {
    has_class(error, &PROGRAM_CLASSES) || is_other_epoch(error)
}

/// Returns whether the database was restored to an earlier state since the program has read its epoch.
pub fn is_other_epoch(error: &Error) -> bool {
    has_code(error, OTHER_EPOCH)
}

/// Returns whether the role may not do what the statement does.
pub fn is_forbidden(error: &Error) -> bool {
    has_code(error, FORBIDDEN)
}

/// Returns whether the statement names a table that does not exist.
pub(crate) fn is_undefined_table(error: &Error) -> bool {
    has_code(error, UNDEFINED_TABLE)
}

/// Returns whether a transaction may have been committed although its last statement got this error: the connection
/// broke, the server ended it, or the client's bound ended the wait for the answer.
pub fn leaves_open(error: &Error) -> bool {
    is_broken(error) || has_class(error, &INTERRUPTED_CLASSES)
}

/// Returns whether the connection cannot be used after this error: it is broken, or its session is over or cannot
/// write.
pub fn ends_connection(error: &Error) -> bool {
    is_broken(error)
        || (has_class(error, &CONNECTION_CLASS) && is_fatal(error))
        || has_class(error, &[SESSION_ENDED])
        || has_code(error, READ_ONLY)
        || has_code(error, IDLE_IN_TRANSACTION)
}

/// Returns whether the error is not an answer of the server at all.
fn is_broken(error: &Error) -> bool {
    matches!(error, Error::Io(_) | Error::Tls(_) | Error::Protocol(_) | Error::WorkerCrashed)
}

/// Returns whether the server has ended the session with this error.
fn is_fatal(error: &Error) -> bool {
    let said = error.as_database_error().and_then(|said| said.try_downcast_ref::<PgDatabaseError>());
    said.is_some_and(|said| matches!(said.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

fn has_code(error: &Error, code: &str) -> bool {
    error.as_database_error().and_then(|said| said.code()).is_some_and(|said| said == code)
}

fn has_class(error: &Error, classes: &[&str]) -> bool {
    let code = error.as_database_error().and_then(|said| said.code());
    code.is_some_and(|code| classes.iter().any(|class| code.starts_with(class)))
}
