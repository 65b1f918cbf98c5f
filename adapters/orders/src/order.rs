//! The types of an order: as received, as stored, as read.

use amends_engine::core::{Change, NewSaga};
use amends_postgres::Error;
use amends_protocol::{Json, Reason, id};
use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use crate::Newest;

/// An order as received.
#[derive(Debug, Clone)]
pub struct NewOrder {
    /// UUIDv7. Its slot is that of its sagas, and its millisecond that of its birth by the database's clock.
    pub id: Uuid,
    /// Id and business key (the order's id) of its saga.
    pub saga: NewSaga,
    /// Subject of the request. Idempotency keys are per subject.
    pub subject: String,
    /// Idempotency key of the request, and the digest of its body.
    pub idempotency: Option<(String, [u8; 32])>,
    /// The customer.
    pub customer_id: String,
    /// ISO 4217.
    pub currency: String,
    /// Total in minor units.
    pub total: i64,
    /// The lines as shown to clients.
    pub lines: Json,
    /// The saga's input without personal fields.
    pub data: Json,
    /// The saga's personal fields.
    pub personal: Json,
}

/// An order's immutable input, and the id of its newest saga.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct OrderRow {
    /// UUIDv7.
    pub id: Uuid,
    /// The order's newest saga.
    pub saga_id: Uuid,
    /// Subject of the request that placed it.
    pub subject: String,
    /// The customer.
    pub customer_id: String,
    /// ISO 4217.
    pub currency: String,
    /// Total in minor units.
    pub total: i64,
    /// The lines as shown to clients.
    #[sqlx(json)]
    pub lines: Json,
    /// When the order was accepted.
    pub created_at: DateTime<Utc>,
    /// When the order is cancelled automatically unless its first step has succeeded by then.
    pub cancels_at: Option<DateTime<Utc>>,
}

/// An order with the state of its newest saga.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct OrderView {
    /// The order.
    #[sqlx(flatten)]
    pub order: OrderRow,
    /// Its status: the label of its newest saga.
    pub label: String,
    /// The label that a saga being undone will have.
    pub heading_for: Option<String>,
    /// Why the order failed or is failing.
    #[sqlx(json(nullable))]
    pub reason: Option<Reason>,
    /// The revision of its newest saga.
    pub revision: i32,
    /// When the saga last changed.
    pub updated_at: DateTime<Utc>,
    /// The saga's personal fields, if they still exist.
    #[sqlx(json(nullable))]
    pub personal: Option<Json>,
}

impl OrderView {
    /// Returns which state of the order this is.
    pub fn newest(&self) -> Newest {
        Newest { saga_id: self.order.saga_id, revision: self.revision }
    }
}

/// The columns of [`OrderRow`], of a table called `o`. They are listed by name, so that a new column does not break
/// programs that are already running.
macro_rules! order_columns {
    () => {
        "o.id, o.saga_id, o.subject, o.customer_id, o.currency, o.total, o.lines::json AS lines, o.created_at, o.cancels_at"
    };
}
pub(crate) use order_columns;

/// The result of placing an order.
#[derive(Debug, Clone, PartialEq)]
pub enum Placed {
    /// The order is accepted; the commands of its saga's birth are to be sent.
    New {
        /// The order.
        order: Box<OrderRow>,
        /// The birth of its saga.
        change: Box<Change>,
    },
    /// The key is known, with the same body: this is the order placed then.
    Replayed(Box<OrderRow>),
    /// The key is known, with a different body.
    KeyReused,
    /// The database cannot store the order, and why; the other orders of the batch are placed.
    Unstorable(String),
    /// Its home, or that of its key, has failed: the order may have been placed. Orders of other homes have their own
    /// results.
    Failed(Error),
}

impl NewOrder {
    /// Gives the order and its saga this slot and this time of birth. Their ids change.
    pub fn born(&mut self, slot: u16, at: DateTime<Utc>) {
        let born = |id| id::dated(id::at_slot(id, slot), at);
        self.id = born(self.id);
        self.saga = NewSaga { id: born(self.saga.id), business_key: self.id.to_string() };
    }

    /// Returns the order's row, once its saga is born.
    pub(crate) fn row(&self, change: &Change) -> OrderRow {
        OrderRow {
            id: self.id,
            saga_id: change.saga.id,
            subject: self.subject.clone(),
            customer_id: self.customer_id.clone(),
            currency: self.currency.clone(),
            total: self.total,
            lines: self.lines.clone(),
            created_at: change.saga.born_at,
            cancels_at: change.saga.state.timeout_at,
        }
    }
}
