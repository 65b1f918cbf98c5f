//! The database's time, without asking for it each time.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;

/// For so long an answer serves: our clock and the server's run apart by less than a microsecond in that time.
const FRESH: Duration = Duration::from_secs(1);

/// What the server said last, and when that was heard. What it tells is never ahead of the server: an answer was a
/// little old when it came.
#[derive(Debug, Default)]
pub struct DatabaseClock(Mutex<Option<(DateTime<Utc>, Instant)>>);

impl DatabaseClock {
    /// The database's time, a little late at most.
    ///
    /// # Errors
    /// The database's, when it is asked again.
    pub async fn now(&self, pool: &PgPool) -> Result<DateTime<Utc>, sqlx::Error> {
        let heard = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((said, at)) = heard
            && at.elapsed() < FRESH
        {
            // As Postgres counts: in whole microseconds.
            let since = i64::try_from(at.elapsed().as_micros()).unwrap_or_default();
            return Ok(said + TimeDelta::microseconds(since));
        }
        let said: DateTime<Utc> = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(pool).await?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((said, Instant::now()));
        Ok(said)
    }
}
