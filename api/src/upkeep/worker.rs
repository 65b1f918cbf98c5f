//! Upkeep of a worker's database.

use std::time::Duration;

use amends_worker::{PgRows, Settings, expire_rows, store};
use anyhow::Result;
use sqlx::PgPool;

use super::{Piece, Upkeep};
use crate::process::Process;

/// Starts a worker's upkeep.
pub async fn of_worker(process: &Process, pool: PgPool, settings: Settings) -> Result<()> {
    let upkeep = Upkeep::new().await?;
    upkeep.add(ExpireRows { rows: PgRows::new(pool), settings }).await?;
    upkeep.start(process).await
}

/// Rows past two horizons.
struct ExpireRows {
    rows: PgRows,
    settings: Settings,
}

impl Piece for ExpireRows {
    const NAME: &'static str = "expiry of worker rows";
    const PERIOD: Duration = Duration::from_secs(3600);
    type Error = store::Error;

    async fn run_once(&mut self) -> Result<(), store::Error> {
        let gone = expire_rows(&self.rows, &self.settings).await?;
        tracing::info!(worker = self.settings.name, rows = gone, "forgot rows past two horizons");
        Ok(())
    }
}
