//! The ledger as domain events, `inventory.updated`: at least once, and in order for each product.

use std::time::Duration;

use amends_protocol::{
    SLOTS,
    transport::{Outbound, Placement},
    wire,
};
use amends_worker::PublishedRow;
use chrono::{DateTime, SecondsFormat, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::FromRow;
use uuid::Uuid;

/// The type of the events, and their topic.
pub const TOPIC: &str = "inventory.updated";

/// Publishes the ledger.
pub type Publisher<K> = amends_worker::Publisher<MoveEvent, K>;

/// A movement in the ledger.
#[derive(Debug, Clone, FromRow)]
pub struct MoveEvent {
    move_id: i64,
    product_id: String,
    kind: String,
    quantity: i64,
    command_id: Option<Uuid>,
    at: DateTime<Utc>,
}

/// `inventory.updated`: stock was added, reserved, released, taken or returned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct StockEvent {
    /// `1.0`.
    pub specversion: &'static str,
    /// The event's id, the same for every delivery.
    pub id: String,
    /// `/amends/inventory`.
    pub source: &'static str,
    /// The type, which is also the topic: `inventory.updated`.
    pub r#type: &'static str,
    /// The product's id.
    pub subject: String,
    /// When it happened.
    pub time: String,
    /// `application/json`.
    pub datacontenttype: &'static str,
    /// The number of the movement in the ledger of all products: it grows for each product, with gaps. (CloudEvents'
    /// extension of that name is a string.)
    pub sequence: String,
    /// The content.
    pub data: StockMoved,
}

/// A movement of stock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StockMoved {
    /// The product.
    pub product_id: String,
    /// `adjusted`, `reserved`, `released`, `taken` or `returned`.
    pub kind: String,
    /// Number of units.
    pub quantity: i64,
    /// The command that moved them; null if a person did.
    pub command_id: Option<Uuid>,
}

impl PublishedRow for MoveEvent {
    const TOPIC: &'static str = TOPIC;
    const POLL: Duration = Duration::from_millis(100);
    const MARK: &'static str = "SELECT move_id FROM published FOR UPDATE SKIP LOCKED";
    const ROWS: &'static str = "SELECT move_id, product_id, kind, quantity, command_id, at FROM moves
         WHERE move_id > $1 ORDER BY move_id LIMIT $2";
    const ADVANCE: &'static str = "UPDATE published SET move_id = $1";

    fn number(&self) -> i64 {
        self.move_id
    }

    fn event(&self) -> Outbound {
        let key =
            Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("/amends/inventory/{}", self.product_id).as_bytes());
        let [high, low, ..] = *key.as_bytes();
        let event = StockEvent {
            specversion: "1.0",
            id: format!("inventory/{}", self.move_id),
            source: "/amends/inventory",
            r#type: TOPIC,
            subject: self.product_id.clone(),
            time: self.at.to_rfc3339_opts(SecondsFormat::Millis, true),
            datacontenttype: "application/json",
            sequence: self.move_id.to_string(),
            data: StockMoved {
                product_id: self.product_id.clone(),
                kind: self.kind.clone(),
                quantity: self.quantity,
                command_id: self.command_id,
            },
        };
        Outbound {
            topic: TOPIC.to_owned(),
            placement: Placement::Slot(u16::from_be_bytes([high, low]) % SLOTS),
            key,
            traceparent: None,
            bytes: wire::write(&event),
        }
    }
}
