//! Upkeep of webhooks' deliveries.

use std::time::Duration;

use amends_orders::webhook_deliveries::DeliveryStore;
use amends_postgres::Error;
use amends_protocol::id;
use chrono::{TimeDelta, Utc};
use uuid::Uuid;

use super::Piece;

/// How long deliveries of webhooks are kept.
const DELIVERY_RETENTION: TimeDelta = TimeDelta::days(30);
/// Maximum number of pages of old deliveries that one run deletes.
const DELIVERY_PAGES_MOST: usize = 50;
/// The number up to which deliveries that are due are counted.
const DUE_COUNTED: i64 = 100_000;

/// Deletes old deliveries of webhooks, and those of deleted webhooks.
pub(super) struct ExpireDeliveries(pub DeliveryStore);

impl Piece for ExpireDeliveries {
    const PERIOD: Duration = Duration::from_secs(60);
    type Error = Error;

    fn name(&self) -> &'static str {
        "expiry of webhooks' deliveries"
    }

    async fn run_once(&mut self) -> Result<(), Error> {
        let first_kept = id::dated(Uuid::nil(), Utc::now() - DELIVERY_RETENTION);
        for _ in 0..DELIVERY_PAGES_MOST {
            let gone = self.0.expire(first_kept).await? + self.0.clear_deleted().await?;
            if gone == 0 {
                break;
            }
        }
        Ok(())
    }
}

/// Sets the gauge of deliveries that are due.
pub(super) struct CountDeliveries(pub DeliveryStore);

impl Piece for CountDeliveries {
    const PERIOD: Duration = Duration::from_secs(5);
    type Error = Error;

    fn name(&self) -> &'static str {
        "count of webhooks' deliveries"
    }

    async fn run_once(&mut self) -> Result<(), Error> {
        let due = self.0.waiting(DUE_COUNTED).await?;
        metrics::gauge!("amends_webhook_deliveries_due").set(due as f64);
        Ok(())
    }
}
