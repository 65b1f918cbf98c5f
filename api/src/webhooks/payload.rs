//! What is sent to a webhook.

use amends_orders::{OrderStore, webhook_deliveries::DueDelivery};
use amends_postgres::Error;
use serde_json::{Value, json};

use super::request::SNAPSHOT;
use crate::orders::view::{Audience, Order};

/// Returns the body of a delivery: the event as it happened, or with the order as it is now in place of its data. `None`:
/// the order is past its retention.
///
/// # Errors
/// The database's.
pub async fn payload(
    format: &str,
    delivery: &DueDelivery,
    orders: &OrderStore,
) -> Result<Option<Vec<u8>>, Error> {
    let event = || Ok(Some(delivery.event.clone().into_bytes()));
    let Some(order) = delivery.order_id.filter(|_| format == SNAPSHOT) else { return event() };
    let Some(view) = orders.get(order).await? else { return Ok(None) };
    let unreadable = |error: serde_json::Error| Error::Unreadable(error.to_string());
    let mut event: Value = serde_json::from_str(&delivery.event).map_err(unreadable)?;
    event["data"] = json!(Order::now(&view, Audience::Customer));
    Ok(Some(event.to_string().into_bytes()))
}
