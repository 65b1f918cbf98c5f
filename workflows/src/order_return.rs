//! `order_return@1`: decision → refund → restock.
//!
//! | step | done by | kind | success makes it | giving up makes it |
//! | --- | --- | --- | --- | --- |
//! | decision | a person, by a signal | pivot | – | what it was before: `FULFILLED` or `PARTIALLY_RETURNED` |
//! | refund | payment | retriable | – | – |
//! | restock | inventory | retriable | `RETURNED` or `PARTIALLY_RETURNED` | – |
//!
//! An order's status is the label of its newest saga that carries it, and a return does.

pub mod events;

use std::time::Duration;

use amends_engine::core::{
    Call, Definition, Labels, Needs, RetryPolicy, SignalStep, SignalVerdict, Step, StepKind,
};
use amends_protocol::{Exposure, Json, Reason};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Settings,
    order_fulfilment::{FULFILLED, PARTIALLY_RETURNED, RETURN_REQUESTED, RETURNED},
};

/// The workflow's name.
pub const NAME: &str = "order_return";
/// The signal by which a person approves or rejects the return, and the step that waits for it.
pub const DECISION: &str = "decision";
/// The step that pays back.
pub const REFUND: &str = "refund";
/// The step that takes the pieces back into stock.
pub const RESTOCK: &str = "restock";

/// The saga's input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReturnInput {
    /// ISO 4217.
    pub currency: String,
    /// What is paid back, in minor units: the sum over the lines.
    pub amount: i64,
    /// The command that captured the money.
    pub charge: Uuid,
    /// The command that reserved the pieces.
    pub reservation: Uuid,
    /// The pieces that come back.
    pub lines: Vec<BackLine>,
    /// Whether parts of the order have been returned before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follows_another: bool,
    /// Whether pieces of the order stay with the customer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaves_some: bool,
}

/// Pieces of a line of an order that come back, or are paid back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackLine {
    /// The line of the order.
    pub line_id: String,
    /// Its product.
    pub product_id: String,
    /// Number of pieces.
    pub quantity: i64,
    /// What is paid back for them, in minor units.
    pub amount: i64,
}

/// The payload of [`DECISION`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Whether the return is approved.
    pub approved: bool,
}

fn decided(payload: &Json) -> SignalVerdict {
    match payload.read() {
        Ok(Decision { approved: true }) => SignalVerdict::Accepted,
        Ok(Decision { approved: false }) => SignalVerdict::Declined(Reason::new("rejected", "")),
        Err(_) => SignalVerdict::Malformed,
    }
}

fn input(call: &Call<'_>) -> Option<ReturnInput> {
    call.input.data.read().ok()
}

/// The payload of a refund: some payment providers need the lines.
#[derive(Serialize)]
pub(crate) struct Refund<'a> {
    pub(crate) charge: Uuid,
    pub(crate) amount: i64,
    pub(crate) currency: &'a str,
    pub(crate) lines: &'a [BackLine],
}

fn refund_payload(call: &Call<'_>) -> Json {
    let payload = |input: &ReturnInput| {
        let ReturnInput { charge, amount, currency, lines, .. } = input;
        Json::of(&Refund { charge: *charge, amount: *amount, currency, lines }).ok()
    };
    input(call).as_ref().and_then(payload).unwrap_or_default()
}

fn restock_payload(call: &Call<'_>) -> Json {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Piece {
        product_id: String,
        quantity: i64,
    }
    #[derive(Serialize)]
    struct Restock {
        reservation: Uuid,
        lines: Vec<Piece>,
    }
    let payload = |input: ReturnInput| {
        let piece = |BackLine { product_id, quantity, .. }| Piece { product_id, quantity };
        let lines = input.lines.into_iter().map(piece).collect();
        Json::of(&Restock { reservation: input.reservation, lines }).ok()
    };
    input(call).and_then(payload).unwrap_or_default()
}

/// What is paid back.
pub(crate) fn paid_back(currency: String, amount: i64) -> Vec<Exposure> {
    if amount == 0 { Vec::new() } else { vec![Exposure::new("money_refunded", currency, amount)] }
}

fn money(call: &Call<'_>) -> Vec<Exposure> {
    input(call).map(|input| paid_back(input.currency, input.amount)).unwrap_or_default()
}

fn stock(call: &Call<'_>) -> Vec<Exposure> {
    let mut back = Vec::new();
    for line in input(call).map(|input| input.lines).unwrap_or_default() {
        let more = [Exposure::new("stock_returned", line.product_id, line.quantity)];
        amends_protocol::add_exposure(&mut back, &more);
    }
    back
}

/// Some labels depend on what else of the order has been returned.
fn relabel(input: &Json) -> Vec<(&'static str, &'static str)> {
    let Ok(input) = input.read::<ReturnInput>() else { return Vec::new() };
    let before = input.follows_another.then_some((FULFILLED, PARTIALLY_RETURNED));
    let after = input.leaves_some.then_some((RETURNED, PARTIALLY_RETURNED));
    before.into_iter().chain(after).collect()
}

/// Returns the definition. The decision has no deadline: an operator takes as long as it takes.
pub fn definition(Settings { unknown_patience, .. }: Settings) -> Definition {
    let step = |name, participant, payload| Step {
        name,
        participant,
        signal: None,
        kind: StepKind::Retriable,
        retry: RetryPolicy::attempts(None),
        undo_retry: RetryPolicy::attempts(Some(10)),
        deadline: Duration::from_secs(10),
        label_done: None,
        label_undone: FULFILLED,
        needs: Needs::Input,
        parts: |_| 1,
        payload,
        may_hold: money,
    };
    Definition {
        name: NAME,
        version: 1,
        labels: Labels { initial: RETURN_REQUESTED, undoing: RETURN_REQUESTED, cancelled: FULFILLED },
        relabel,
        timeout: None,
        unknown_patience,
        steps: vec![
            Step {
                signal: Some(SignalStep { deadline: None, judge: decided }),
                label_undone: FULFILLED,
                ..Step::signal(DECISION, StepKind::Pivot)
            },
            step(REFUND, "payment", refund_payload),
            Step {
                label_done: Some(RETURNED),
                may_hold: stock,
                ..step(RESTOCK, "inventory", restock_payload)
            },
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amends_engine::{core::Illegal, dialogue::Dialogue};
    use amends_protocol::Outcome;
    use serde_json::json;

    fn asked(follows_another: bool, leaves_some: bool) -> Dialogue {
        let line = |line_id: &str, product: &str, quantity, amount| BackLine {
            line_id: line_id.into(),
            product_id: product.into(),
            quantity,
            amount,
        };
        let input = ReturnInput {
            currency: "EUR".into(),
            amount: 3750,
            charge: Uuid::from_u128(1),
            reservation: Uuid::from_u128(2),
            lines: vec![line("1", "mug-blue", 2, 2500), line("2", "mug-red", 1, 1250)],
            follows_another,
            leaves_some,
        };
        Dialogue::begin(definition(Settings::default()), serde_json::to_value(input).unwrap())
    }

    #[test]
    fn an_approved_return_is_refunded_and_restocked() {
        let mut back = asked(false, false);
        back.label(RETURN_REQUESTED).expect(&[]);
        back.signals(DECISION, json!({ "approved": true })).label(RETURN_REQUESTED);
        back.expect(&["refund execute"]).succeeds("refund execute");
        back.expect(&["restock execute"]).succeeds("restock execute").label(RETURNED).expect(&[]);
        back.replays();
        insta::assert_snapshot!(back.timeline());
    }

    #[test]
    fn a_rejected_return_leaves_the_order_as_it_was() {
        for (follows_another, label) in [(false, FULFILLED), (true, PARTIALLY_RETURNED)] {
            let mut back = asked(follows_another, false);
            back.signals(DECISION, json!({ "approved": false })).label(label).expect(&[]);
            back.signals(DECISION, json!({ "approved": true })).is_illegal(Illegal::SignalledOtherwise);
            back.replays();
        }
    }

    #[test]
    fn part_of_an_order_comes_back_and_the_rest_of_it_later() {
        let mut back = asked(false, true);
        back.signals(DECISION, json!({ "approved": true }));
        back.succeeds("refund execute").succeeds("restock execute").label(PARTIALLY_RETURNED);
        back.replays();
        let mut rest = asked(true, false);
        rest.signals(DECISION, json!({ "approved": true }));
        rest.succeeds("refund execute").succeeds("restock execute").label(RETURNED);
        rest.replays();
    }

    #[test]
    fn what_was_approved_only_goes_forward_and_a_refused_refund_waits_for_an_operator() {
        let mut back = asked(false, false);
        back.signals(DECISION, json!({ "approved": true })).cancels().is_illegal(Illegal::PastPivot);
        back.refuses("refund execute", "refund_refused").label(RETURN_REQUESTED);
        assert!(back.saga.parked);
        back.sent.clear();
        back.retries().expect(&["refund execute"]).succeeds("refund execute");
        back.expect(&["restock execute"]).answers("restock execute", Outcome::FailedTransient);
        back.sent.clear();
        back.passes(Duration::from_secs(60)).succeeds("restock execute").label(RETURNED);
        back.replays();
    }
}
