//! Upkeep: deletion of old notifications, and the number of those that wait.

use std::time::Duration;

use amends_pool::Pool;
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::{event::Channel, store::NotificationStore};

/// Number of rows that one statement deletes.
const EXPIRY_PAGE: i64 = 1_000;

/// Returns how many notifications of a channel wait to be sent or to be tried again, up to `most`.
///
/// # Errors
/// The database's.
pub async fn count_waiting(pool: &Pool, channel: Channel, most: i64) -> Result<i64, sqlx::Error> {
    NotificationStore::new(pool).waiting(channel, most).await
}

/// Deletes notifications of events that happened longer than `retention` before `now`: an id is a UUIDv7, and sorts by
/// that time. It reads only old rows. Returns the number of rows deleted.
///
/// # Errors
/// The database's error; earlier deletions remain.
pub async fn expire_notifications(
    pool: &Pool,
    now: DateTime<Utc>,
    retention: Duration,
) -> Result<u64, sqlx::Error> {
    let first_kept = first_id_of(now - TimeDelta::from_std(retention).unwrap_or(TimeDelta::MAX));
    let mut gone = 0;
    loop {
        let went = sqlx::query(
            "DELETE FROM notifications AS n
             USING (SELECT id FROM notifications WHERE id < $1 ORDER BY id LIMIT $2) AS page
             WHERE n.id = page.id",
        )
        .bind(first_kept)
        .bind(EXPIRY_PAGE)
        .execute(pool)
        .await?
        .rows_affected();
        gone += went;
        if went == 0 {
            return Ok(gone);
        }
    }
}

/// Returns the least id of an event of then or later.
fn first_id_of(at: DateTime<Utc>) -> Uuid {
    let millis = u128::try_from(at.timestamp_millis()).unwrap_or_default();
    Uuid::from_u128(millis << 80)
}
