//! The types of an order: as received, as stored, as read.

use amends_engine::core::{Change, NewSaga, SagaOutcome};
use amends_postgres::Error;
use amends_protocol::{Json, Reason, id};
use amends_workflows::{
    order_fulfilment,
    order_ledger::{EntryKind, Ledger, LedgerEntry, Standing},
    order_refund,
    order_return::{self, BackLine},
};
use chrono::{DateTime, Utc};
use serde::Deserialize;
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

/// An order's immutable input, and the id of the newest saga that carries its status.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct OrderRow {
    /// UUIDv7.
    pub id: Uuid,
    /// The newest saga that carries the order's status.
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

/// A saga of an order that has several, as its ledger has it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderSaga {
    /// The saga.
    pub saga_id: Uuid,
    /// Its workflow.
    pub workflow: String,
    /// When it was added.
    pub created_at: DateTime<Utc>,
    /// What is paid back, in minor units.
    pub amount: i64,
    /// The pieces that come back, or are paid for.
    pub lines: Vec<BackLine>,
    /// Why, in the caller's words.
    pub reason: String,
    /// Digest of subject, method, path and key of the request that added it, in hex.
    pub request: Option<String>,
    /// Digest of that request's body, in hex.
    pub fingerprint: Option<String>,
    /// The saga's step; `None` once the saga is past its retention.
    pub step: Option<String>,
    /// Its outcome.
    pub outcome: Option<SagaOutcome>,
    /// Whether it waits for an operator.
    pub parked: Option<bool>,
    /// Its revision.
    pub revision: Option<i32>,
}

impl OrderSaga {
    /// Returns how far it is. A saga that is past its retention has ended.
    pub fn standing(&self) -> Standing {
        let past = self.step.is_none().then_some(SagaOutcome::Completed);
        Standing::of(self.step.as_deref().unwrap_or_default(), self.outcome.or(past))
    }
}

/// An order with the state of the newest saga that carries its status.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct OrderView {
    /// The order.
    #[sqlx(flatten)]
    pub order: OrderRow,
    /// Its status: the label of that saga.
    pub label: String,
    /// The label that a saga being undone will have.
    pub heading_for: Option<String>,
    /// Why the order failed or is failing.
    #[sqlx(json(nullable))]
    pub reason: Option<Reason>,
    /// The revision of that saga.
    pub revision: i32,
    /// The workflow of that saga.
    pub workflow: String,
    /// The state of that saga, unless the status says all that a reader needs of it.
    #[sqlx(json(nullable))]
    pub state: Option<Json>,
    /// When the order was fulfilled.
    pub fulfilled_at: Option<DateTime<Utc>>,
    /// The timeline entry by which it was.
    #[sqlx(json(nullable))]
    pub fulfilled_by: Option<Json>,
    /// Its sagas, if it has several, in the order of their births.
    #[sqlx(json(nullable))]
    pub sagas: Option<Vec<OrderSaga>>,
    /// When that saga last changed.
    pub updated_at: DateTime<Utc>,
}

impl OrderView {
    /// Returns the saga that fulfils the order.
    pub fn fulfilment(&self) -> Uuid {
        let first = self.sagas.iter().flatten().find(|saga| saga.workflow == order_fulfilment::NAME);
        first.map_or(self.order.saga_id, |saga| saga.saga_id)
    }

    /// Returns whether the saga that fulfils the order is past its retention, and another one is not.
    pub(crate) fn is_past_its_retention(&self) -> bool {
        let fulfilment = self.fulfilment();
        self.sagas.iter().flatten().any(|saga| saga.saga_id == fulfilment && saga.step.is_none())
    }

    /// Returns the order's ledger. Lines that cannot be read are none: nothing can come back then.
    pub fn ledger(&self) -> Ledger {
        let kind_of = |workflow: &str| match workflow {
            order_return::NAME => Some(EntryKind::Return),
            order_refund::NAME => Some(EntryKind::Refund),
            _ => None,
        };
        let entry = |saga: &OrderSaga| {
            Some(LedgerEntry {
                saga_id: saga.saga_id,
                kind: kind_of(&saga.workflow)?,
                amount: saga.amount,
                lines: saga.lines.clone(),
                standing: saga.standing(),
            })
        };
        Ledger {
            fulfilment: self.fulfilment(),
            status: self.label.clone(),
            currency: self.order.currency.clone(),
            lines: self.order.lines.read().unwrap_or_default(),
            fulfilled_at: self.fulfilled_at,
            entries: self.sagas.iter().flatten().filter_map(entry).collect(),
        }
    }

    /// Returns which state of the order this is.
    pub fn newest(&self) -> Newest {
        let others = self.sagas.iter().flatten().filter(|saga| saga.saga_id != self.order.saga_id);
        let others = others.filter_map(|saga| saga.revision).map(i64::from).sum();
        Newest { saga_id: self.order.saga_id, revision: self.revision, others }
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

/// The columns of [`OrderView`] and the tables that they come from, for orders called `o` of the home `$1`, with the
/// newest saga `s` that carries their status. Most orders have one saga, and no row in `order_sagas`.
macro_rules! view_columns {
    () => {
        concat!(
            "SELECT ",
            crate::order::order_columns!(),
            ", s.label, s.heading_for, s.reason::json AS reason, s.revision, s.updated_at, s.workflow,
               CASE WHEN s.workflow = 'order_fulfilment' AND s.label NOT IN ('PENDING', 'CONFIRMED', 'FULFILLED')
                    THEN s.state::json END AS state,
               f.at AS fulfilled_at, f.body::json AS fulfilled_by, x.sagas"
        )
    };
}
pub(crate) use view_columns;

/// See [`view_columns`]. An order is fulfilled by the entry that gives it that label; no text in an entry can look like
/// that, because quotation marks within texts are escaped.
macro_rules! view_tables {
    () => {
        "JOIN sagas AS s ON ($1::int2 IS NULL OR s.home = $1) AND s.id = o.saga_id
         LEFT JOIN LATERAL (
             SELECT json_agg(json_build_object(
                        'sagaId', x.saga_id, 'workflow', x.workflow, 'createdAt', x.created_at, 'amount', x.amount,
                        'lines', x.lines::json, 'reason', x.reason, 'request', encode(x.request, 'hex'),
                        'fingerprint', encode(x.fingerprint, 'hex'),
                        'step', r.step, 'outcome', r.outcome, 'parked', r.parked, 'revision', r.revision)
                    ORDER BY x.saga_id) AS sagas,
                    (array_agg(x.saga_id ORDER BY x.workflow = 'order_fulfilment' DESC, x.saga_id))[1] AS first
             FROM order_sagas AS x LEFT JOIN sagas AS r ON ($1::int2 IS NULL OR r.home = $1) AND r.id = x.saga_id
             WHERE ($1::int2 IS NULL OR x.home = $1) AND x.order_id = o.id) AS x ON true
         LEFT JOIN LATERAL (
             SELECT t.at, t.body FROM timeline AS t
             WHERE ($1::int2 IS NULL OR t.home = $1) AND t.saga_id = COALESCE(x.first, o.saga_id)
               AND (s.label = 'FULFILLED' OR s.workflow <> 'order_fulfilment')
               AND t.revision > 1 AND t.body LIKE '%\"label\":\"FULFILLED\"%'
             ORDER BY t.revision LIMIT 1) AS f ON true"
    };
}
pub(crate) use view_tables;

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
    /// Its home, or that of its key, has failed, or its part of a halved batch: the order may have been placed, unless it
    /// is [`Error::Locked`]. Other orders have their own results.
    Failed(Error),
}

impl Placed {
    /// Returns whether the order was placed now.
    pub(crate) fn is_new(&self) -> bool {
        matches!(self, Self::New { .. })
    }

    /// Returns whether the order was certainly not placed, and does not keep its key.
    pub(crate) fn frees_key(&self) -> bool {
        matches!(self, Self::Unstorable(_) | Self::Failed(Error::Locked(_)))
    }
}

impl NewOrder {
    /// Gives the order and its saga this slot and this time of birth. Their ids change.
    pub fn born(&mut self, slot: u16, at: DateTime<Utc>) {
        let born = |id| id::dated(id::at_slot(id, slot), at);
        self.id = born(self.id);
        self.saga =
            NewSaga { id: born(self.saga.id), business_key: self.id.to_string(), trace: self.saga.trace };
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
