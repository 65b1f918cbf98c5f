//! What an order is: as it comes, as it is stored, as it is read.

use amends_engine::core::{Change, NewSaga};
use amends_protocol::{Json, Reason};
use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

/// An order as it came through the door.
#[derive(Debug, Clone)]
pub struct NewOrder {
    /// UUIDv7.
    pub id: Uuid,
    /// Its saga's id, home and business key (the order's id).
    pub saga: NewSaga,
    /// Whose request it is. Idempotency keys are theirs.
    pub subject: String,
    /// The key that the request came with, and what its body comes to.
    pub idempotency: Option<(String, [u8; 32])>,
    /// Whose order it is.
    pub customer_id: String,
    /// ISO 4217.
    pub currency: String,
    /// In minor units.
    pub total: i64,
    /// As they are shown.
    pub lines: Json,
    /// The saga's input: everything but personal fields.
    pub data: Json,
    /// The saga's personal fields.
    pub personal: Json,
}

/// An order's immutable input, and its newest saga.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct OrderRow {
    /// UUIDv7.
    pub id: Uuid,
    /// Its newest saga.
    pub saga_id: Uuid,
    /// Who placed it.
    pub subject: String,
    /// Whose it is.
    pub customer_id: String,
    /// ISO 4217.
    pub currency: String,
    /// In minor units.
    pub total: i64,
    /// As they are shown.
    #[sqlx(json)]
    pub lines: Json,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When it is cancelled by itself, unless its first step has succeeded by then.
    pub cancels_at: Option<DateTime<Utc>>,
}

/// An order, with what its newest saga says.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct OrderView {
    /// The order.
    #[sqlx(flatten)]
    pub order: OrderRow,
    /// Its status: the label of its newest saga.
    pub label: String,
    /// While being undone: the label it will have.
    pub heading_for: Option<String>,
    /// Why it failed or is failing.
    #[sqlx(json(nullable))]
    pub reason: Option<Reason>,
    /// When its saga last changed.
    pub updated_at: DateTime<Utc>,
    /// The personal fields of its saga, where (still) there.
    #[sqlx(json(nullable))]
    pub personal: Option<Json>,
}

/// The columns of [`OrderRow`], of a table called `o`. By name, so that a new one does not break who runs already.
macro_rules! order_columns {
    () => {
        "o.id, o.saga_id, o.subject, o.customer_id, o.currency, o.total, o.lines::json AS lines, o.created_at, o.cancels_at"
    };
}
pub(crate) use order_columns;

/// What became of a placed order.
#[derive(Debug, Clone, PartialEq)]
pub enum Placed {
    /// It is accepted; the commands of its birth are to be sent.
    New {
        /// The order.
        order: Box<OrderRow>,
        /// The birth of its saga.
        change: Box<Change>,
    },
    /// The key came before, with the same body: this is the order that was placed then.
    Replayed(Box<OrderRow>),
    /// The key came before, with another body.
    KeyReused,
    /// The database cannot store it, and why; the others of its batch are placed.
    Unstorable(String),
}

impl NewOrder {
    /// Its row, once its saga is born.
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
