//! Upkeep of a worker's database.

use std::{marker::PhantomData, time::Duration};

use amends_notification::{Channel, count_waiting, expire_notifications};
use amends_pool::Pool;
use amends_worker::{Participant, PgRows, Settings, ensure_partitions, expire_rows, store};
use anyhow::Result;
use chrono::Utc;

use super::{Piece, Upkeep, statistics::CountWrites};
use crate::{process::Process, services};

/// Number of months ahead for which partitions of a worker's rows are created.
const MONTHS_AHEAD: u16 = 3;
/// The number up to which waiting notifications are counted.
const WAITING_COUNTED: i64 = 100_000;

/// Starts the upkeep of a workflows' participant.
pub async fn of_worker<P: Participant + 'static>(
    process: &Process,
    pool: Pool,
    settings: Settings,
) -> Result<()> {
    let upkeep = Upkeep::new().await?;
    let rows = PgRows::new(pool.clone());
    if let Some(service) = services::find_worker(&settings.name) {
        upkeep.add(CountWrites::of(service.name, pool.clone())).await?;
    }
    upkeep.add(RowPartitions(rows.clone())).await?;
    upkeep.add(ExpireRows { rows, settings: settings.clone() }).await?;
    upkeep.add(ExpireBooks::<P> { pool, settings, participant: PhantomData }).await?;
    upkeep.start(process).await
}

/// Starts the upkeep of the notification worker, which has no rows.
pub async fn of_notification(process: &Process, pool: Pool) -> Result<()> {
    let upkeep = Upkeep::new().await?;
    upkeep.add(CountWrites::of("notification", pool.clone())).await?;
    upkeep.add(CountNotifications(pool.clone())).await?;
    upkeep.add(ExpireNotifications { pool, retention: process.settings.retention }).await?;
    upkeep.start(process).await
}

/// Creates the partitions of coming months.
struct RowPartitions(PgRows);

impl Piece for RowPartitions {
    const PERIOD: Duration = Duration::from_secs(3600);
    type Error = store::Error;

    fn name(&self) -> &'static str {
        "partitions of worker rows"
    }

    async fn run_once(&mut self) -> Result<(), store::Error> {
        ensure_partitions(&self.0, MONTHS_AHEAD).await.map(drop)
    }
}

/// Drops months of rows that are older than the retention.
struct ExpireRows {
    rows: PgRows,
    settings: Settings,
}

impl Piece for ExpireRows {
    const PERIOD: Duration = Duration::from_secs(3600);
    type Error = store::Error;

    fn name(&self) -> &'static str {
        "expiry of worker rows"
    }

    async fn run_once(&mut self) -> Result<(), store::Error> {
        let (months, rows) = expire_rows(&self.rows, self.settings.retention).await?;
        if months + rows > 0 {
            tracing::info!(worker = self.settings.name, months, rows, "removed rows past their retention");
        }
        Ok(())
    }
}

/// Deletes a participant's other data that is older than the retention.
struct ExpireBooks<P> {
    pool: Pool,
    settings: Settings,
    participant: PhantomData<fn() -> P>,
}

impl<P: Participant + 'static> Piece for ExpireBooks<P> {
    const PERIOD: Duration = Duration::from_secs(3600);
    type Error = store::Error;

    fn name(&self) -> &'static str {
        "expiry of a worker's books"
    }

    async fn run_once(&mut self) -> Result<(), store::Error> {
        let rows = P::expire_books(&self.pool, self.settings.retention).await?;
        if rows > 0 {
            tracing::info!(worker = self.settings.name, rows, "removed books past their retention");
        }
        Ok(())
    }
}

/// Deletes notifications of orders that are older than the retention.
struct ExpireNotifications {
    pool: Pool,
    retention: Duration,
}

impl Piece for ExpireNotifications {
    const PERIOD: Duration = Duration::from_secs(3600);
    type Error = sqlx::Error;

    fn name(&self) -> &'static str {
        "expiry of notifications"
    }

    async fn run_once(&mut self) -> Result<(), sqlx::Error> {
        let rows = expire_notifications(&self.pool, Utc::now(), self.retention).await?;
        if rows > 0 {
            tracing::info!(rows, "removed notifications past their retention");
        }
        Ok(())
    }
}

/// Sets the gauges of notifications that wait to be sent.
struct CountNotifications(Pool);

impl Piece for CountNotifications {
    const PERIOD: Duration = Duration::from_secs(5);
    type Error = sqlx::Error;

    fn name(&self) -> &'static str {
        "count of notifications"
    }

    async fn run_once(&mut self) -> Result<(), sqlx::Error> {
        for channel in Channel::ALL {
            let waiting = count_waiting(&self.0, channel, WAITING_COUNTED).await?;
            metrics::gauge!("amends_notifications_waiting", "channel" => channel.as_str())
                .set(waiting as f64);
        }
        Ok(())
    }
}
