//! An order for tests of the workflow.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::time::Duration;

use amends_engine::core::{Definition, SagaState};
use amends_engine::dialogue::Dialogue;
use amends_protocol::{Exposure, Outcome};
use amends_workflows::{
    Settings,
    order_fulfilment::{Line, OrderInput, definition},
};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// Patience with unknown outcomes: short enough that its timeline is readable.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Returns the workflow with a shorter patience.
pub(crate) fn workflow() -> Definition {
    definition(Settings { unknown_patience: PATIENCE, ..Settings::default() })
}

/// Returns an order for two mugs that was just accepted.
pub(crate) fn order() -> Dialogue {
    let input = OrderInput {
        customer_id: "c-1001".into(),
        currency: "EUR".into(),
        total: 2500,
        lines: vec![Line { product_id: "mug-blue".into(), quantity: 2, unit_price: 1250 }],
        payment_method: "card_approved".into(),
    };
    Dialogue::begin(workflow(), serde_json::to_value(input).unwrap())
}

/// Returns an order that waits for this step's answer.
pub(crate) fn waiting_for(step: &str) -> Dialogue {
    let mut order = order();
    for done in ["reserve", "pay", "ship", "take"].into_iter().take_while(|s| *s != step) {
        order.succeeds(&format!("{done} execute"));
    }
    order.sent.clear();
    order
}

/// Returns an order that is parked because the outcome of this step is unknown.
pub(crate) fn unknown(step: &str) -> Dialogue {
    let mut order = waiting_for(step);
    order.answers(&format!("{step} execute"), Outcome::Unknown);
    while !order.saga.parked {
        order.passes(SECOND);
        if std::mem::take(&mut order.sent).iter().any(|s| s.kind.as_str() == "probe") {
            order.answers(&format!("{step} probe"), Outcome::Unknown);
        }
    }
    order
}

pub(crate) fn label_bought() -> Vec<Exposure> {
    vec![Exposure::new("label_bought", "label", 1)]
}

/// Asserts that the order has ended as `label`, for `reason`, that an undone order holds nothing, and that its timeline
/// replays to the row.
#[track_caller]
pub(crate) fn ended(order: &Dialogue, label: &str, reason: Option<&str>) {
    let saga = &order.saga;
    let expected = if label == "FULFILLED" { SagaState::Completed } else { SagaState::Undone };
    assert_eq!((saga.label.as_str(), saga.state()), (label, expected), "\n{}", order.timeline());
    assert_eq!(saga.reason.as_ref().map(|r| r.code.as_str()), reason, "\n{}", order.timeline());
    assert!(!saga.live && saga.wake_at.is_none() && saga.heading_for.is_none(), "\n{}", order.timeline());
    if expected == SagaState::Undone {
        assert_eq!(order.holds(), [], "\n{}", order.timeline());
    }
    order.replays();
}
