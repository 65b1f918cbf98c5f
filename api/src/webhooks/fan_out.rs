//! Plans the deliveries of domain events, in the publisher, before it moves on.
//!
//! The publisher reads the list of webhooks after it has read the entries of a batch. So the list has every webhook that
//! was committed before one of these entries was, and a webhook gets every event that happens after its creation was
//! answered. The list is short, and is read while the events are numbered: it delays nothing.

use std::sync::Arc;

use amends_orders::{
    webhook_deliveries::{DeliveryStore, NewDelivery},
    webhooks::{Subscription, WebhookStore},
};
use amends_pool::Pool;
use amends_postgres::Error;
use amends_protocol::wire;
use amends_workflows::events::DomainEvent;
use chrono::{DateTime, SubsecRound, Utc};
use tokio::sync::Notify;
use uuid::{Builder, Uuid};

use super::types;

/// Plans deliveries.
#[derive(Debug)]
pub struct FanOut {
    webhooks: WebhookStore,
    deliveries: DeliveryStore,
    planned: Arc<Notify>,
}

impl FanOut {
    /// Creates it over these connections. `planned` is notified of new deliveries.
    pub fn new(pool: &Pool, planned: Arc<Notify>) -> Self {
        Self {
            webhooks: WebhookStore::new(pool.clone()),
            deliveries: DeliveryStore::new(pool.clone()),
            planned,
        }
    }

    /// Reads what is sent to each webhook, after the entries were read whose events are planned.
    ///
    /// # Errors
    /// The database's.
    pub async fn subscriptions(&self) -> Result<Vec<Subscription>, Error> {
        self.webhooks.subscriptions().await
    }

    /// Plans the deliveries of these events. Those of events that are published again exist already.
    ///
    /// # Errors
    /// The database's: the events are published again.
    pub async fn plan(&self, subscriptions: &[Subscription], events: &[DomainEvent]) -> Result<(), Error> {
        let deliveries: Vec<NewDelivery> =
            events.iter().flat_map(|event| deliveries_of(subscriptions, event)).collect();
        if deliveries.is_empty() {
            return Ok(());
        }
        let planned = self.deliveries.plan(&deliveries).await?;
        metrics::counter!("amends_webhook_deliveries_planned_total").increment(planned);
        self.planned.notify_one();
        Ok(())
    }
}

/// Returns the deliveries of an event.
fn deliveries_of(subscriptions: &[Subscription], event: &DomainEvent) -> Vec<NewDelivery> {
    let at = DateTime::parse_from_rfc3339(&event.time).map(|at| at.to_utc()).unwrap_or_default();
    let gets = |subscription: &&Subscription| {
        // The event's time has no fraction of a millisecond.
        subscription.created_at.trunc_subsecs(3) <= at
            && subscription.types.iter().any(|named| types::names(named, &event.r#type))
    };
    let getting: Vec<&Subscription> = subscriptions.iter().filter(gets).collect();
    if getting.is_empty() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&wire::write(event)).into_owned();
    let sequence = event.sequence.parse().unwrap_or_default();
    let delivery = |subscription: &Subscription| NewDelivery {
        id: delivery_id(at, sequence),
        webhook_id: subscription.id,
        order_id: event.data.order_id.parse().ok(),
        sequence,
        event_type: event.r#type.clone(),
        event_id: event.id.clone(),
        event: text.clone(),
    };
    getting.into_iter().map(delivery).collect()
}

/// Returns the id of a delivery: a UUIDv7 of the time of its event, so that deliveries sort by it, and those of an order
/// in one millisecond by their numbers.
pub fn delivery_id(at: DateTime<Utc>, sequence: i64) -> Uuid {
    let millis = u64::try_from(at.timestamp_millis()).unwrap_or_default();
    let mut rest: [u8; 10] = rand::random();
    let [high, low] = u16::try_from(sequence & 0xfff).unwrap_or_default().to_be_bytes();
    (rest[0], rest[1]) = (high, low);
    Builder::from_unix_timestamp_millis(millis, &rest).into_uuid()
}

#[cfg(test)]
mod tests {
    use amends_protocol::id::born_at;

    use super::*;

    #[test]
    fn deliveries_sort_by_the_time_of_their_events_and_then_by_their_numbers() {
        let at = DateTime::from_timestamp_millis(1_790_000_000_123).unwrap();
        let later = DateTime::from_timestamp_millis(1_790_000_000_124).unwrap();
        let ids = [delivery_id(at, 2), delivery_id(at, 3), delivery_id(at, 300), delivery_id(later, 1)];
        assert!(ids.is_sorted(), "{ids:?}");
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
        assert_eq!(born_at(ids[0]), at);
        assert_ne!(delivery_id(at, 2), delivery_id(at, 2));
    }
}
