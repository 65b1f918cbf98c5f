//! Table `lost_commits`: sagas of which the database no longer has the newest state that it had acknowledged.

use std::{sync::Arc, time::Duration};

use amends_pool::Pool;
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::{
    Error,
    columns::{each, int},
    error,
    sentinel::OnLostCommits,
};

/// A saga of which the database no longer has the newest acknowledged state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost {
    pub saga_id: Uuid,
    /// The newest acknowledged revision.
    pub acknowledged: u32,
    /// `None`: the saga is not there.
    pub found: Option<u32>,
    /// What was born with the saga, if that is known.
    pub business_key: Option<Arc<str>>,
}

/// Notes sagas that were acknowledged in this epoch, and begins the next one unless another program has done so.
///
/// # Errors
/// The database's; nothing is noted.
pub(crate) async fn note(
    connection: impl PgExecutor<'_>,
    epoch: u32,
    on_lost: OnLostCommits,
    lost: &[Lost],
) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT note_lost_commits($1, $2, $3, $4, $5, $6)")
        .bind(int(epoch))
        .bind(on_lost == OnLostCommits::Stop)
        .bind(each(lost, |lost| lost.saga_id))
        .bind(each(lost, |lost| int(lost.acknowledged)))
        .bind(each(lost, |lost| lost.found.map(int)))
        .bind(each(lost, |lost| lost.business_key.as_deref()))
        .execute(connection)
        .await?;
    Ok(())
}

/// Returns the number of sagas that were noted within this time.
///
/// # Errors
/// The database's.
pub async fn count(pool: &Pool, within: Duration) -> Result<u64, Error> {
    let count: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM lost_commits WHERE noted_at > clock_timestamp() - make_interval(secs => $1)",
    )
    .bind(within.as_secs_f64())
    .fetch_one(pool)
    .await
    .map_err(error::of)?;
    Ok(count.unsigned_abs())
}
