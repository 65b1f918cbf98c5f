//! What a worker's role does now and then.

use crate::{
    settings::Settings,
    store::{Error, Rows},
};

/// How many rows go in one statement.
const BATCH: usize = 1_000;

/// Removes rows older than two horizons whose effect is not held any more, in bounded batches. Returns how
/// many went.
///
/// # Errors
/// What the database says; what went before stays gone.
pub async fn expire_rows<R: Rows>(rows: &R, settings: &Settings) -> Result<u64, Error> {
    let mut gone = 0;
    loop {
        let batch = rows.expire(settings.horizon * 2, BATCH).await?;
        gone += batch;
        if batch < BATCH as u64 {
            return Ok(gone);
        }
    }
}
