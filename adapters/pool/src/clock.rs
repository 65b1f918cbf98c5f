//! The database's time, without a query for each reading.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};

use crate::Pool;

/// How long an answer is used: in that time the client's clock and the server's drift apart by less than a microsecond.
const CLOCK_FRESH: Duration = Duration::from_secs(1);

/// The server's last answer, and when it arrived. The time returned is never ahead of the server, because an answer is
/// already a little old when it arrives. It never goes back, unless the server's clock was set back.
#[derive(Debug, Default)]
pub struct DatabaseClock(Mutex<Option<Heard>>);

#[derive(Debug, Clone, Copy)]
struct Heard {
    said: DateTime<Utc>,
    at: Instant,
    told: DateTime<Utc>,
}

impl Heard {
    /// Returns the present time according to this answer.
    fn now(&self) -> DateTime<Utc> {
        // In whole microseconds, as in Postgres.
        self.said + TimeDelta::microseconds(i64::try_from(self.at.elapsed().as_micros()).unwrap_or_default())
    }

    fn tell(&mut self, now: DateTime<Utc>) -> DateTime<Utc> {
        let set_back = self.told.signed_duration_since(now).to_std().is_ok_and(|ahead| ahead > CLOCK_FRESH);
        self.told = if set_back { now } else { self.told.max(now) };
        self.told
    }
}

impl DatabaseClock {
    /// Returns the database's time, or slightly less.
    ///
    /// # Errors
    /// The database's, if a query is needed.
    pub async fn now(&self, pool: &Pool) -> Result<DateTime<Utc>, sqlx::Error> {
        if let Some(heard) = self.heard().as_mut().filter(|heard| heard.at.elapsed() < CLOCK_FRESH) {
            return Ok(heard.tell(heard.now()));
        }
        let said = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(pool).await?;
        let mut heard = self.heard();
        let told = heard.map_or(said, |heard| heard.told);
        Ok(heard.insert(Heard { said, at: Instant::now(), told }).tell(said))
    }

    /// Records the database's time from another query's answer.
    pub fn hear(&self, said: DateTime<Utc>) {
        let mut heard = self.heard();
        let heard = heard.get_or_insert(Heard { said, at: Instant::now(), told: said });
        if heard.now() < said {
            (heard.said, heard.at) = (said, Instant::now());
        }
        // An answer that was delayed does not mean that the server's clock was set back.
        heard.told = heard.told.max(said);
    }

    fn heard(&self) -> MutexGuard<'_, Option<Heard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(clock: &DatabaseClock) -> DateTime<Utc> {
        let mut heard = clock.heard();
        let heard = heard.as_mut().unwrap();
        heard.tell(heard.now())
    }

    #[test]
    fn what_was_told_is_not_taken_back_unless_the_server_s_clock_is_set_back() {
        let (clock, noon) = (DatabaseClock::default(), DateTime::from_timestamp(1_767_268_800, 0).unwrap());
        clock.hear(noon);
        let ahead = noon + TimeDelta::milliseconds(500);
        clock.hear(ahead);
        assert!(told(&clock) >= ahead);
        clock.hear(noon);
        assert!(told(&clock) >= ahead, "an answer that was long on its way");
        let hour_before = noon - TimeDelta::hours(1);
        *clock.heard() = Some(Heard { said: hour_before, at: Instant::now(), told: ahead });
        assert!(told(&clock) < noon);
    }
}
