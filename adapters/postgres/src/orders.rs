//! Orders: placed many at once, in one transaction with their sagas.

use amends_engine::core::{Change, Entry, NewSaga};
use amends_protocol::{Json, Reason};
use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use crate::Error;

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
#[derive(Debug, Clone, PartialEq)]
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
    pub lines: Json,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When it is cancelled by itself, unless its first step has succeeded by then.
    pub cancels_at: Option<DateTime<Utc>>,
}

/// An order, with what its newest saga says.
#[derive(Debug, Clone, PartialEq)]
pub struct OrderView {
    /// The order.
    pub order: OrderRow,
    /// Its status: the label of its newest saga.
    pub label: String,
    /// While being undone: the label it will have.
    pub heading_for: Option<String>,
    /// Why it failed or is failing.
    pub reason: Option<Reason>,
    /// When its saga last changed.
    pub updated_at: DateTime<Utc>,
    /// The personal fields of its saga, where (still) there.
    pub personal: Option<Json>,
}

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

/// Orders in the engine's database.
#[derive(Debug, Clone)]
pub struct OrderStore {
    pool: PgPool,
}

impl OrderStore {
    /// Over these connections.
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Places orders in one transaction, and answers for each in turn. `birth` gets the database's time. Orders
    /// whose idempotency key is known, in the database or earlier in this batch, are not placed again; one that
    /// is just being placed by somebody else is waited for.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: then none is placed, unless even the question whether it happened had no answer.
    pub async fn place(
        &self,
        orders: &[NewOrder],
        birth: impl Fn(&NewOrder, DateTime<Utc>) -> Change,
    ) -> Result<Vec<Placed>, Error> {
        let _ = (orders, birth, &self.pool);
        Err(Error::Unavailable("not yet".into()))
    }

    /// An order as it is now.
    ///
    /// # Errors
    /// The database's.
    pub async fn get(&self, order_id: Uuid) -> Result<Option<OrderView>, Error> {
        let _ = order_id;
        Err(Error::Unavailable("not yet".into()))
    }

    /// An order's newest saga.
    ///
    /// # Errors
    /// The database's.
    pub async fn saga_of(&self, order_id: Uuid) -> Result<Option<Uuid>, Error> {
        let _ = order_id;
        Err(Error::Unavailable("not yet".into()))
    }

    /// What happened to an order's newest saga, from its birth on; `None` if there is no such order.
    ///
    /// # Errors
    /// The database's, or an entry of a newer program.
    pub async fn timeline(&self, order_id: Uuid) -> Result<Option<Vec<Entry>>, Error> {
        let _ = order_id;
        Err(Error::Unavailable("not yet".into()))
    }
}
