//! `order_refund@1`: a refund without a return.
//!
//! | step | done by | kind |
//! | --- | --- | --- |
//! | refund | payment | retriable |
//!
//! Its label is no status of the order: the order stays what it is.

pub mod events;

use std::time::Duration;

use amends_engine::core::{Call, Definition, Labels, Needs, RetryPolicy, Step, StepKind};
use amends_protocol::{Exposure, Json};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Settings,
    order_return::{BackLine, REFUND, Refund, paid_back},
};

/// The workflow's name.
pub const NAME: &str = "order_refund";
/// Label of a refund that is under way.
pub const REFUNDING: &str = "REFUNDING";
/// Label of a refund that is done.
pub const REFUNDED: &str = "REFUNDED";

/// The saga's input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefundInput {
    /// ISO 4217.
    pub currency: String,
    /// What is paid back, in minor units.
    pub amount: i64,
    /// The command that captured the money.
    pub charge: Uuid,
    /// The pieces for which it is paid back; empty if it is an amount.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<BackLine>,
}

fn input(call: &Call<'_>) -> Option<RefundInput> {
    call.input.data.read().ok()
}

fn payload(call: &Call<'_>) -> Json {
    let payload = |input: &RefundInput| {
        let RefundInput { charge, amount, currency, lines } = input;
        Json::of(&Refund { charge: *charge, amount: *amount, currency, lines }).ok()
    };
    input(call).as_ref().and_then(payload).unwrap_or_default()
}

fn money(call: &Call<'_>) -> Vec<Exposure> {
    input(call).map(|input| paid_back(input.currency, input.amount)).unwrap_or_default()
}

/// Returns the definition. A refused refund parks, and an operator mends it.
pub fn definition(Settings { unknown_patience, .. }: Settings) -> Definition {
    Definition {
        name: NAME,
        version: 1,
        labels: Labels { initial: REFUNDING, undoing: REFUNDING, cancelled: REFUNDING },
        relabel: |_| Vec::new(),
        timeout: None,
        unknown_patience,
        steps: vec![Step {
            name: REFUND,
            participant: "payment",
            signal: None,
            kind: StepKind::Retriable,
            retry: RetryPolicy::attempts(None),
            undo_retry: RetryPolicy::attempts(Some(10)),
            deadline: Duration::from_secs(10),
            label_done: Some(REFUNDED),
            label_undone: REFUNDING,
            needs: Needs::Input,
            parts: |_| 1,
            payload,
            may_hold: money,
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amends_engine::{core::Illegal, dialogue::Dialogue};

    #[test]
    fn a_refund_is_paid_back_or_waits_for_an_operator_and_is_never_undone() {
        let input = RefundInput {
            currency: "EUR".into(),
            amount: 700,
            charge: Uuid::from_u128(1),
            lines: Vec::new(),
        };
        let input = serde_json::to_value(input).unwrap();
        let begin = || Dialogue::begin(definition(Settings::default()), input.clone());
        let mut refund = begin();
        refund.label(REFUNDING).expect(&["refund execute"]).cancels().is_illegal(Illegal::PastPivot);
        refund.succeeds("refund execute").label(REFUNDED).expect(&[]);
        refund.replays();
        let mut refused = begin();
        refused.refuses("refund execute", "refund_refused");
        assert!(refused.saga.parked);
        refused.sent.clear();
        refused.retries().expect(&["refund execute"]).succeeds("refund execute").label(REFUNDED);
        refused.replays();
    }
}
