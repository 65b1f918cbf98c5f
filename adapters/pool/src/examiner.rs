//! The examination of new connections.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::future::BoxFuture;
use sqlx::PgConnection;
use tokio::time::timeout;

use crate::calls::{Calls, unanswered};

/// Examines a new connection before anything else uses it: whether its server is the one that it should be.
pub trait Examiner: fmt::Debug + Send + Sync {
    /// Examines it.
    ///
    /// # Errors
    /// The connection shall not be used, and is closed; another one is made after a pause.
    fn examine<'c>(&'c self, connection: &'c mut PgConnection) -> BoxFuture<'c, Result<(), sqlx::Error>>;
}

/// The examiner of a pool that exists before it.
pub(crate) type Examination = Arc<OnceLock<Box<dyn Examiner>>>;

/// Has a new connection examined, within the bound of a call.
pub(crate) async fn examined(
    connection: &mut PgConnection,
    examiner: Examination,
    calls: Arc<Calls>,
    bound: Duration,
) -> Result<(), sqlx::Error> {
    let Some(examiner) = examiner.get() else { return Ok(()) };
    let examined = timeout(bound, examiner.examine(connection)).await;
    let examined = examined.unwrap_or_else(|_| Err(unanswered(bound)));
    examined.inspect_err(|error| calls.note(error))
}
