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
pub struct DatabaseClock(Mutex<Option<Reading>>);

/// An answer of the server.
#[derive(Debug, Clone, Copy)]
struct Reading {
    server_time: DateTime<Utc>,
    arrived_at: Instant,
    last_returned: DateTime<Utc>,
}

impl Reading {
    /// Returns the present time according to this answer.
    fn now(&self) -> DateTime<Utc> {
        // In whole microseconds, as in Postgres.
        let elapsed = i64::try_from(self.arrived_at.elapsed().as_micros()).unwrap_or_default();
        self.server_time + TimeDelta::microseconds(elapsed)
    }

    /// Returns this time, or the one returned last if that is later and the server's clock was not set back.
    fn advance_to(&mut self, now: DateTime<Utc>) -> DateTime<Utc> {
        let ahead = self.last_returned.signed_duration_since(now).to_std();
        let is_set_back = ahead.is_ok_and(|ahead| ahead > CLOCK_FRESH);
        self.last_returned = if is_set_back { now } else { self.last_returned.max(now) };
        self.last_returned
    }
}

impl DatabaseClock {
    /// Returns the database's time, or slightly less.
    ///
    /// # Errors
    /// The database's, if a query is needed.
    pub async fn now(&self, pool: &Pool) -> Result<DateTime<Utc>, sqlx::Error> {
        if let Some(reading) = self.reading().as_mut().filter(|last| last.arrived_at.elapsed() < CLOCK_FRESH)
        {
            return Ok(reading.advance_to(reading.now()));
        }
        let server_time = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(pool).await?;
        let mut reading = self.reading();
        let last_returned = reading.map_or(server_time, |last| last.last_returned);
        let reading = reading.insert(Reading { server_time, arrived_at: Instant::now(), last_returned });
        Ok(reading.advance_to(server_time))
    }

    /// Records the database's time from another query's answer.
    pub fn observe(&self, server_time: DateTime<Utc>) {
        let mut reading = self.reading();
        let first = Reading { server_time, arrived_at: Instant::now(), last_returned: server_time };
        let reading = reading.get_or_insert(first);
        if reading.now() < server_time {
            (reading.server_time, reading.arrived_at) = (server_time, Instant::now());
        }
        // An answer that was delayed does not mean that the server's clock was set back.
        reading.last_returned = reading.last_returned.max(server_time);
    }

    fn reading(&self) -> MutexGuard<'_, Option<Reading>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(clock: &DatabaseClock) -> DateTime<Utc> {
        let mut reading = clock.reading();
        let reading = reading.as_mut().unwrap();
        reading.advance_to(reading.now())
    }

    #[test]
    fn the_time_never_goes_back_unless_the_server_s_clock_is_set_back() {
        let (clock, noon) = (DatabaseClock::default(), DateTime::from_timestamp(1_767_268_800, 0).unwrap());
        clock.observe(noon);
        let ahead = noon + TimeDelta::milliseconds(500);
        clock.observe(ahead);
        assert!(now(&clock) >= ahead);
        clock.observe(noon);
        assert!(now(&clock) >= ahead, "an answer that was long on its way");
        let hour_before = noon - TimeDelta::hours(1);
        let set_back = Reading { server_time: hour_before, arrived_at: Instant::now(), last_returned: ahead };
        *clock.reading() = Some(set_back);
        assert!(now(&clock) < noon);
    }
}
