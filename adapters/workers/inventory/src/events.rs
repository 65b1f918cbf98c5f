//! Publishes the ledger as domain events, `inventory.updated`: reads past the last published move, sends, and advances
//! the mark once everything is acknowledged. Delivery is at least once, and in order for each product.

use std::time::Duration;

use amends_pool::{Connection, Pool};
use amends_protocol::{
    SLOTS,
    transport::{self, Outbound, Placement, Sink},
    wire,
};
use amends_worker::Backoff;
use chrono::{DateTime, SecondsFormat, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::FromRow;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The type of the events, and their topic.
pub const TOPIC: &str = "inventory.updated";

/// Maximum number of moves in a batch.
const MOVES_BATCH: i64 = 500;
/// Pause after an empty read.
const MOVES_POLL: Duration = Duration::from_millis(100);

/// Why a batch was not published.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database failed.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The transport failed.
    #[error(transparent)]
    Transport(#[from] transport::Error),
}

/// Publishes the ledger. Only one of several instances publishes at a time.
pub struct Publisher<K> {
    pool: Pool,
    sink: K,
}

#[derive(FromRow)]
struct Move {
    move_id: i64,
    product_id: String,
    kind: String,
    quantity: i64,
    command_id: Option<Uuid>,
    at: DateTime<Utc>,
}

impl<K: Sink> Publisher<K> {
    /// Creates a publisher. `sink` must keep the order of its messages.
    pub fn new(pool: impl Into<Pool>, sink: K) -> Self {
        Self { pool: pool.into(), sink }
    }

    /// Publishes until stopped.
    pub async fn run(self, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        while !stop.is_cancelled() {
            let told = self.run_once().await;
            if told.is_ok() {
                backoff.reset();
            }
            let rest = match told {
                Ok(0) => MOVES_POLL,
                Ok(_) => continue,
                Err(error) => {
                    tracing::warn!(%error, "inventory.updated: the batch failed and will be retried");
                    backoff.pause()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Publishes one batch; returns the number of its moves. When it returns, another instance may publish.
    ///
    /// # Errors
    /// [`Error`]: the batch is published again.
    pub async fn run_once(&self) -> Result<usize, Error> {
        let mut tx = self.pool.begin().await?;
        match self.publish(&mut tx).await {
            Ok(told) => {
                tx.commit().await?;
                Ok(told)
            }
            Err(error) => {
                // A dropped transaction would end a little later, and with it its lock.
                let _ = tx.rollback().await;
                Err(error)
            }
        }
    }

    async fn publish(&self, tx: &mut Connection) -> Result<usize, Error> {
        // The instance that locks the row publishes; the others have nothing to do.
        let mark: Option<i64> = sqlx::query_scalar("SELECT move_id FROM published FOR UPDATE SKIP LOCKED")
            .fetch_optional(&mut *tx)
            .await?;
        let Some(mark) = mark else { return Ok(0) };
        let moves: Vec<Move> = sqlx::query_as(
            "SELECT move_id, product_id, kind, quantity, command_id, at FROM moves
             WHERE move_id > $1 ORDER BY move_id LIMIT $2",
        )
        .bind(mark)
        .bind(MOVES_BATCH)
        .fetch_all(&mut *tx)
        .await?;
        let Some(last) = moves.last().map(|m| m.move_id) else { return Ok(0) };
        self.sink.send(moves.iter().map(Move::event).collect()).await?;
        sqlx::query("UPDATE published SET move_id = $1").bind(last).execute(&mut *tx).await?;
        Ok(moves.len())
    }
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

impl Move {
    /// Returns the move as a structured CloudEvent 1.0.
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
