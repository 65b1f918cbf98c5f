//! Orders as shown to clients.

use amends_engine::core::{SagaProgress, Status};
use amends_orders::{OrderRow, OrderSaga, OrderView};
use amends_protocol::id;
use amends_workflows::{
    order_fulfilment::{self as order, Line},
    order_ledger::{EntryKind, Ledger, LedgerEntry, Standing, line_id},
    order_return::BackLine,
};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::{Builder, Uuid};

use crate::{
    auth::{Caller, Right},
    http::openapi::schema::{Currency, Instant, OrderStatus, ProductId, Text},
};

/// Formats a time by RFC 3339 in UTC, to the millisecond.
pub fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The reader of an order or timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The customer of the order.
    Customer,
    /// An operator, who may also see internals.
    Operator,
}

impl Audience {
    /// Returns what a caller may see: who may read sagas sees the internals of an order too.
    pub fn of(caller: &Caller) -> Self {
        if caller.may(Right::ReadSagas) { Self::Operator } else { Self::Customer }
    }
}

/// An order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    id: Uuid,
    /// For operators: the saga to look at when the order makes no progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    saga_id: Option<Uuid>,
    #[schema(value_type = OrderStatus)]
    status: String,
    /// The status that the order will have once it is undone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    heading_for: Option<String>,
    /// Why it failed, in a word for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
    #[schema(value_type = Text)]
    customer_id: String,
    #[schema(value_type = Currency)]
    currency: String,
    /// In minor units of the currency.
    total: i64,
    /// What was captured.
    captured: i64,
    /// What was paid back.
    refunded: i64,
    lines: Vec<OrderLine>,
    shipments: Vec<Shipment>,
    returns: Vec<Return>,
    refunds: Vec<Refund>,
    #[schema(value_type = Instant)]
    created_at: String,
    #[schema(value_type = Instant)]
    updated_at: String,
    /// When it is cancelled by itself, while it is pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    cancels_at: Option<String>,
    /// Until when it can be returned, once it is fulfilled.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    returnable_until: Option<String>,
}

/// A line of an order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OrderLine {
    line_id: String,
    #[schema(value_type = ProductId)]
    product_id: String,
    quantity: i64,
    /// Price of one unit, in minor units of the order's currency.
    unit_price: i64,
    /// Pieces that were shipped.
    fulfilled: i64,
    /// Pieces that came back.
    returned: i64,
}

/// A parcel.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Shipment {
    id: Uuid,
    tracking_number: Option<String>,
    lines: Vec<Quantity>,
    #[schema(value_type = Instant)]
    shipped_at: String,
}

/// A number of pieces of a line.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Quantity {
    line_id: String,
    quantity: i64,
}

/// A return.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Return {
    id: Uuid,
    status: &'static str,
    lines: Vec<Quantity>,
    amount: i64,
    reason: String,
    #[schema(value_type = Instant)]
    requested_at: String,
}

/// Money that is paid back, for a return or without one.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Refund {
    id: Uuid,
    amount: i64,
    reason: String,
    status: &'static str,
    #[schema(value_type = Instant)]
    created_at: String,
}

/// What an order waits for.
#[derive(Debug, Serialize, ToSchema)]
pub struct Explanation {
    /// One sentence for a person.
    pub sentence: String,
    /// Until when it waits; null if there is no such time.
    #[schema(required, format = DateTime)]
    pub until: Option<String>,
}

impl Order {
    /// Renders the order as it was accepted: the first answer, and every replay of it.
    pub fn accepted(row: &OrderRow) -> Self {
        Self::with(row, order::PENDING.to_owned(), row.created_at)
    }

    /// Renders the order in its present state.
    pub fn now(view: &OrderView, audience: Audience) -> Self {
        let ledger = view.ledger();
        // The reason of a return is the return's.
        let reason = view.reason.as_ref().filter(|_| view.workflow == order::NAME);
        let (captured, refunded) = money(view, &ledger);
        let mut shown = Self {
            saga_id: (audience == Audience::Operator).then_some(view.order.saga_id),
            heading_for: view.heading_for.clone(),
            reason: reason.map(|r| r.code.clone()),
            captured,
            refunded,
            shipments: shipment(view, &ledger).into_iter().collect(),
            returnable_until: ledger.returnable_until().map(instant),
            ..Self::with(&view.order, view.label.clone(), view.updated_at)
        };
        for (n, line) in shown.lines.iter_mut().enumerate() {
            line.fulfilled = if ledger.is_fulfilled() { line.quantity } else { 0 };
            line.returned = ledger.returned(n);
        }
        let sagas = view.sagas.iter().flatten();
        for (saga, entry) in sagas.filter_map(|saga| Some((saga, ledger.entry(saga.saga_id)?))) {
            shown.returns.extend(returned(saga, entry));
            shown.refunds.extend(refunded_by(saga, entry));
        }
        shown
    }

    fn with(row: &OrderRow, status: String, updated_at: DateTime<Utc>) -> Self {
        Self {
            id: row.id,
            saga_id: None,
            // Only a pending order is cancelled automatically.
            cancels_at: row.cancels_at.filter(|_| status == order::PENDING).map(instant),
            status,
            heading_for: None,
            reason: None,
            customer_id: row.customer_id.clone(),
            currency: row.currency.clone(),
            total: row.total,
            captured: 0,
            refunded: 0,
            lines: lines(row),
            shipments: Vec::new(),
            returns: Vec::new(),
            refunds: Vec::new(),
            returnable_until: None,
            created_at: instant(row.created_at),
            updated_at: instant(updated_at),
        }
    }
}

fn lines(row: &OrderRow) -> Vec<OrderLine> {
    let lines: Vec<Line> = row.lines.read().unwrap_or_default();
    let line = |(n, Line { product_id, quantity, unit_price }): (usize, Line)| OrderLine {
        line_id: line_id(n),
        product_id,
        quantity,
        unit_price,
        fulfilled: 0,
        returned: 0,
    };
    lines.into_iter().enumerate().map(line).collect()
}

/// Returns what was captured and what was paid back. An order that was undone has given back what was captured.
fn money(view: &OrderView, ledger: &Ledger) -> (i64, i64) {
    if ledger.is_fulfilled() {
        return (ledger.captured(), ledger.refunded());
    }
    let state = view.state.as_ref().and_then(|state| state.read::<SagaProgress>().ok());
    let commands = state.iter().flat_map(|state| &state.commands);
    let mut paid = commands.filter(|c| c.step == order::PAY && c.status == Status::Succeeded);
    match paid.next() {
        Some(pay) => (view.order.total, if pay.is_undone() { view.order.total } else { 0 }),
        None => (0, 0),
    }
}

fn shipment(view: &OrderView, ledger: &Ledger) -> Option<Shipment> {
    let at = ledger.fulfilled_at?;
    let body: Value = view.fulfilled_by.as_ref().and_then(|body| body.read().ok()).unwrap_or_default();
    // An operator's evidence has a reference instead.
    let event = &body["event"];
    let tracking = [&event["replied"]["result"]["trackingNumber"], &event["resolved"]["reference"]];
    let tracking = tracking.into_iter().find_map(|number| number.as_str()).map(str::to_owned);
    let line = |(n, line): (usize, &Line)| Quantity { line_id: line_id(n), quantity: line.quantity };
    Some(Shipment {
        id: shipment_id(ledger.fulfilment),
        tracking_number: tracking,
        lines: ledger.lines.iter().enumerate().map(line).collect(),
        shipped_at: instant(at),
    })
}

/// Returns the id of a parcel: a UUIDv7 of its order's birth, as all ids of the API are, and otherwise the id of the
/// command that shipped it. It is the same at each reading.
fn shipment_id(fulfilment: Uuid) -> Uuid {
    let command = id::execute(fulfilment, "ship", 0, 1);
    let millis = u64::try_from(id::born_at(command).timestamp_millis()).unwrap_or_default();
    let mut rest = [0; 10];
    rest.copy_from_slice(&command.as_bytes()[6..]);
    Builder::from_unix_timestamp_millis(millis, &rest).into_uuid()
}

fn returned(saga: &OrderSaga, entry: &LedgerEntry) -> Option<Return> {
    let line = |BackLine { line_id, quantity, .. }: &BackLine| Quantity {
        line_id: line_id.clone(),
        quantity: *quantity,
    };
    (entry.kind == EntryKind::Return).then(|| Return {
        id: saga.saga_id,
        status: match entry.standing {
            Standing::Requested => "REQUESTED",
            Standing::Refunding | Standing::Restocking => "REFUNDING",
            Standing::Completed => "COMPLETED",
            Standing::Rejected => "REJECTED",
        },
        lines: entry.lines.iter().map(line).collect(),
        amount: entry.amount,
        reason: saga.reason.clone(),
        requested_at: instant(saga.created_at),
    })
}

/// A return is a refund once it is approved.
fn refunded_by(saga: &OrderSaga, entry: &LedgerEntry) -> Option<Refund> {
    let status = match entry.standing {
        Standing::Requested | Standing::Rejected => return None,
        standing if standing.is_refunded() => "SUCCEEDED",
        _ if saga.parked == Some(true) => "PARKED",
        _ => "PENDING",
    };
    (entry.amount > 0).then(|| Refund {
        id: saga.saga_id,
        amount: entry.amount,
        reason: saga.reason.clone(),
        status,
        created_at: instant(saga.created_at),
    })
}

#[cfg(test)]
mod tests {
    use amends_engine::core::SagaOutcome;
    use amends_protocol::Json;
    use amends_workflows::order_return;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_order_whose_fulfilment_is_past_its_retention_still_shows_what_was_captured_and_came_back() {
        let at = DateTime::UNIX_EPOCH;
        let [fulfilment, back] = [1, 2].map(Uuid::from_u128);
        let back_line = BackLine { line_id: "1".into(), product_id: "mug".into(), quantity: 1, amount: 1250 };
        let saga = |saga_id, workflow: &str, step: Option<&str>| OrderSaga {
            saga_id,
            workflow: workflow.into(),
            created_at: at,
            amount: if saga_id == back { 1250 } else { 0 },
            lines: if saga_id == back { vec![back_line.clone()] } else { Vec::new() },
            reason: "damaged".into(),
            request: None,
            fingerprint: None,
            step: step.map(str::to_owned),
            outcome: step.map(|_| SagaOutcome::Completed),
            parked: step.map(|_| false),
            revision: step.map(|_| 4),
        };
        let view = OrderView {
            order: OrderRow {
                id: Uuid::from_u128(3),
                saga_id: back,
                subject: "shop".into(),
                customer_id: "c-1".into(),
                currency: "EUR".into(),
                total: 2500,
                lines: Json::from(json!([{ "productId": "mug", "quantity": 2, "unitPrice": 1250 }])),
                created_at: at,
                cancels_at: None,
            },
            label: order::PARTIALLY_RETURNED.into(),
            heading_for: None,
            reason: None,
            revision: 4,
            workflow: order_return::NAME.into(),
            state: None,
            fulfilled_at: None,
            fulfilled_by: None,
            sagas: Some(vec![
                saga(fulfilment, order::NAME, None),
                saga(back, order_return::NAME, Some(order_return::RESTOCK)),
            ]),
            updated_at: at,
        };
        let shown = Order::now(&view, Audience::Customer);
        assert_eq!((shown.captured, shown.refunded), (2500, 1250));
        assert_eq!((shown.lines[0].fulfilled, shown.lines[0].returned), (2, 1));
        assert_eq!((shown.shipments.len(), shown.returns.len(), shown.returnable_until), (0, 1, None));
    }

    #[test]
    fn a_parcel_has_a_uuid_of_version_7_that_stays_the_same_and_is_no_other_orders() {
        let [first, second] = [Uuid::now_v7(), Uuid::now_v7()].map(shipment_id);
        assert_eq!((first.get_version_num(), first.get_variant()), (7, uuid::Variant::RFC4122));
        assert_ne!(first, second);
        let fulfilment = Uuid::now_v7();
        assert_eq!(shipment_id(fulfilment), shipment_id(fulfilment));
        assert_eq!(id::born_at(shipment_id(fulfilment)), id::born_at(fulfilment));
    }
}
