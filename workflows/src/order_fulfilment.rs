//! `order_fulfilment@1`: reserve → pay → ship → take.
//!
//! | step | participant | undone by | kind | success makes it | giving up makes it |
//! | --- | --- | --- | --- | --- | --- |
//! | reserve | inventory | release | compensatable | `CONFIRMED` | `FAILED` |
//! | pay | payment | refund | compensatable | `PAID` | `PAYMENT_FAILED` |
//! | ship | shipment | cancelling the booking | pivot | `FULFILLED` | `SHIPMENT_FAILED` |
//! | take | inventory | – | retriable | (complete) | – |

pub mod events;

use std::time::Duration;

use amends_engine::core::{Call, Definition, Labels, Needs, RetryPolicy, SagaTimeout, Step, StepKind};
use amends_protocol::{Exposure, Json, id};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Settings;

/// The workflow's name.
pub const NAME: &str = "order_fulfilment";

/// The saga's input. It contains no personal fields, so that timelines and logs cannot contain any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderInput {
    /// The customer: an opaque id.
    pub customer_id: String,
    /// ISO 4217.
    pub currency: String,
    /// Total in minor units: the sum over the lines.
    pub total: i64,
    /// The lines of the order.
    pub lines: Vec<Line>,
    /// The payment method.
    pub payment_method: String,
}

/// A line of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// The product.
    pub product_id: String,
    /// Number of units.
    pub quantity: i64,
    /// Price of one unit, in minor units.
    pub unit_price: i64,
}

/// The saga's personal fields. Only the `ship` command carries any: the address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Personal {
    /// The shipping address.
    pub shipping_address: Json,
    /// How to reach the customer; no command carries it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<Json>,
    /// The language in which the customer is written to; no command carries it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
}

/// Label of an order that was accepted and has no stock yet.
pub const PENDING: &str = "PENDING";
/// Stock is reserved.
pub const CONFIRMED: &str = "CONFIRMED";
/// The payment is captured.
pub const PAID: &str = "PAID";
/// Shipped.
pub const FULFILLED: &str = "FULFILLED";
/// The order is being undone.
pub const CANCELLING: &str = "CANCELLING";
/// The order was undone on request, or because it was pending for too long.
pub const CANCELLED: &str = "CANCELLED";
/// Out of stock.
pub const FAILED: &str = "FAILED";
/// Declined.
pub const PAYMENT_FAILED: &str = "PAYMENT_FAILED";
/// The carrier refused.
pub const SHIPMENT_FAILED: &str = "SHIPMENT_FAILED";

/// A customer asks to return pieces of a fulfilled order.
pub const RETURN_REQUESTED: &str = "RETURN_REQUESTED";
/// Everything came back.
pub const RETURNED: &str = "RETURNED";
/// Some pieces came back.
pub const PARTIALLY_RETURNED: &str = "PARTIALLY_RETURNED";

/// The kind of what an order holds of its customer's money.
pub const MONEY_CAPTURED: &str = "money_captured";

/// Every status of an order. The last three are labels of its returns.
pub const STATUSES: [&str; 12] = [
    PENDING,
    CONFIRMED,
    PAID,
    FULFILLED,
    CANCELLING,
    CANCELLED,
    FAILED,
    PAYMENT_FAILED,
    SHIPMENT_FAILED,
    RETURN_REQUESTED,
    RETURNED,
    PARTIALLY_RETURNED,
];

/// Index of the step that captures the money.
pub const PAY: usize = 1;

fn input(call: &Call<'_>) -> Option<OrderInput> {
    call.input.data.read().ok()
}

fn lines(call: &Call<'_>) -> Vec<Line> {
    input(call).map(|i| i.lines).unwrap_or_default()
}

/// A line in the payloads of `reserve` and `ship`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Piece {
    product_id: String,
    quantity: i64,
}

fn pieces(call: &Call<'_>) -> Vec<Piece> {
    let piece = |Line { product_id, quantity, .. }| Piece { product_id, quantity };
    lines(call).into_iter().map(piece).collect()
}

fn reserve_payload(call: &Call<'_>) -> Json {
    #[derive(Serialize)]
    struct Reserve {
        lines: Vec<Piece>,
    }
    payload(&Reserve { lines: pieces(call) })
}

fn pay_payload(call: &Call<'_>) -> Json {
    #[derive(Serialize)]
    struct Pay {
        amount: i64,
        currency: String,
        method: String,
    }
    payload(&input(call).map(|i| Pay { amount: i.total, currency: i.currency, method: i.payment_method }))
}

fn ship_payload(call: &Call<'_>) -> Json {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Ship {
        shipping_address: Option<Json>,
        lines: Vec<Piece>,
    }
    let address = call.input.personal.and_then(|p| p.read::<Personal>().ok()).map(|p| p.shipping_address);
    payload(&Ship { shipping_address: address, lines: pieces(call) })
}

fn take_payload(call: &Call<'_>) -> Json {
    #[derive(Serialize)]
    struct Take {
        reservation: Uuid,
    }
    payload(&Take { reservation: id::execute(call.saga_id, "reserve", call.part, 1) })
}

fn payload(of: &impl Serialize) -> Json {
    Json::of(of).unwrap_or_default()
}

fn stock(call: &Call<'_>) -> Vec<Exposure> {
    let mut held = Vec::new();
    for line in lines(call) {
        let more = [Exposure::new("stock_reserved", line.product_id, line.quantity)];
        amends_protocol::add_exposure(&mut held, &more);
    }
    held
}

fn money(call: &Call<'_>) -> Vec<Exposure> {
    let captured = input(call).map(|i| Exposure::new(MONEY_CAPTURED, i.currency, i.total));
    captured.into_iter().filter(|e| e.amount != 0).collect()
}

fn label_bought(_: &Call<'_>) -> Vec<Exposure> {
    vec![Exposure::new("label_bought", "label", 1)]
}

fn nothing(_: &Call<'_>) -> Vec<Exposure> {
    Vec::new()
}

fn one_part(_: &Json) -> u16 {
    1
}

/// Returns the definition. An order still `PENDING` after `pending_timeout` is cancelled automatically, and the engine
/// keeps asking for `unknown_patience` after an `unknown` answer.
pub fn definition(Settings { pending_timeout, unknown_patience }: Settings) -> Definition {
    let deadline = Duration::from_secs(10);
    let undo_retry = RetryPolicy::attempts(Some(10));
    let step = |name, participant, kind, payload| Step {
        name,
        participant,
        signal: None,
        kind,
        retry: RetryPolicy::attempts(Some(5)),
        undo_retry,
        deadline,
        label_done: None,
        label_undone: FAILED,
        needs: Needs::Input,
        parts: one_part,
        payload,
        may_hold: nothing,
    };
    Definition {
        name: NAME,
        version: 1,
        labels: Labels { initial: PENDING, undoing: CANCELLING, cancelled: CANCELLED },
        relabel: |_| Vec::new(),
        timeout: Some(SagaTimeout { until_step: 0, after: pending_timeout, reason: "pending_timeout" }),
        unknown_patience,
        steps: vec![
            Step {
                // Retried until the saga's own timeout.
                retry: RetryPolicy::attempts(None),
                label_done: Some(CONFIRMED),
                may_hold: stock,
                ..step("reserve", "inventory", StepKind::Compensatable, reserve_payload)
            },
            Step {
                label_done: Some(PAID),
                label_undone: PAYMENT_FAILED,
                may_hold: money,
                ..step("pay", "payment", StepKind::Compensatable, pay_payload)
            },
            Step {
                label_done: Some(FULFILLED),
                label_undone: SHIPMENT_FAILED,
                needs: Needs::Personal,
                may_hold: label_bought,
                ..step("ship", "shipment", StepKind::Pivot, ship_payload)
            },
            Step {
                retry: RetryPolicy::attempts(None),
                needs: Needs::Nothing,
                ..step("take", "inventory", StepKind::Retriable, take_payload)
            },
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amends_engine::{core::replay, dialogue::Dialogue};
    use amends_protocol::Outcome;

    fn order() -> Dialogue {
        let input = OrderInput {
            customer_id: "c-1".into(),
            currency: "EUR".into(),
            total: 2500,
            lines: vec![Line { product_id: "mug-blue".into(), quantity: 2, unit_price: 1250 }],
            payment_method: "card_approved".into(),
        };
        Dialogue::begin(definition(Settings::default()), serde_json::to_value(input).unwrap())
    }

    #[test]
    fn money_is_captured_by_the_second_step() {
        assert_eq!(definition(Settings::default()).steps[PAY].name, "pay");
    }

    #[test]
    fn a_fulfilled_order() {
        let mut order = order();
        order.label(PENDING).expect(&["reserve execute"]).succeeds("reserve execute").label(CONFIRMED);
        order.expect(&["pay execute"]).succeeds("pay execute").label(PAID);
        order.expect(&["ship execute"]).succeeds("ship execute").label(FULFILLED);
        order.expect(&["take execute"]).succeeds("take execute").label(FULFILLED).expect(&[]);
        order.replays();
        insta::assert_snapshot!(order.timeline());
    }

    #[test]
    fn an_answer_after_the_deadline_does_not_save_the_order_though_it_is_heard_before_the_clock() {
        for (outcome, held) in [(Outcome::Succeeded, 1), (Outcome::Refused, 0)] {
            let mut order = order();
            order.now += Duration::from_secs(901);
            order.answers("reserve execute", outcome).label(CANCELLING);
            assert_eq!(order.holds().len(), held, "a late reservation is held until it is released");
            order
                .expect(&["reserve execute", "reserve compensate"])
                .succeeds("reserve compensate")
                .label(CANCELLED);
            assert!(order.holds().is_empty());
            order.replays();
        }
    }

    #[test]
    fn a_deadline_that_was_promised_holds_though_the_setting_has_changed() {
        let mut order = order();
        order.passes(Duration::from_secs(600)).label(PENDING);
        let (new, _) = order.birth();
        let settings = Settings { pending_timeout: Duration::from_secs(60), ..Settings::default() };
        let replayed = replay(&definition(settings), new, &order.entries).unwrap();
        assert_eq!(replayed.state, order.saga.state);
    }
}
