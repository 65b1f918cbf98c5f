//! The timeline of an order for each way it can go, as people read it.

mod support;

use amends_engine::core::Event;
use amends_engine::dialogue::Dialogue;
use amends_protocol::Outcome;
use insta::assert_snapshot;
use support::{SECOND, ended, label_bought, order, unknown, waiting_for};

fn undo(order: &mut Dialogue, steps: &[&str]) {
    for step in steps {
        order.succeeds(&format!("{step} compensate"));
    }
}

#[test]
fn out_of_stock() {
    let mut order = order();
    order.refuses("reserve execute", "out_of_stock");
    ended(&order, "FAILED", Some("out_of_stock"));
    assert_snapshot!(order.timeline());
}

#[test]
fn unknown_product() {
    let mut order = order();
    order.refuses("reserve execute", "unknown_product");
    ended(&order, "FAILED", Some("unknown_product"));
    assert_snapshot!(order.timeline());
}

#[test]
fn declined() {
    let mut order = waiting_for("pay");
    order.refuses("pay execute", "card_declined").label("CANCELLING");
    assert_eq!(order.saga.heading_for.as_deref(), Some("PAYMENT_FAILED"));
    undo(&mut order, &["reserve"]);
    ended(&order, "PAYMENT_FAILED", Some("card_declined"));
    assert_snapshot!(order.timeline());
}

#[test]
fn the_carrier_refuses() {
    let mut order = waiting_for("ship");
    order.refuses("ship execute", "not_served");
    undo(&mut order, &["pay", "reserve"]);
    ended(&order, "SHIPMENT_FAILED", Some("not_served"));
    assert_snapshot!(order.timeline());
}

#[test]
fn cancelled_while_pending() {
    let mut order = waiting_for("reserve");
    order.cancels();
    undo(&mut order, &["reserve"]);
    ended(&order, "CANCELLED", None);
    assert_snapshot!(order.timeline());
}

#[test]
fn cancelled_while_confirmed() {
    let mut order = waiting_for("pay");
    order.cancels();
    undo(&mut order, &["pay", "reserve"]);
    ended(&order, "CANCELLED", None);
    assert_snapshot!(order.timeline());
}

#[test]
fn cancelled_while_paid() {
    let mut order = waiting_for("ship");
    order.cancels();
    undo(&mut order, &["ship", "pay", "reserve"]);
    ended(&order, "CANCELLED", None);
    assert_snapshot!(order.timeline());
}

#[test]
fn cancelled_during_a_slow_payment() {
    let mut order = waiting_for("pay");
    order.passes(SECOND).cancels().answers("pay compensate", Outcome::InFlight);
    order.passes(2 * SECOND).succeeds("pay execute");
    undo(&mut order, &["pay", "reserve"]);
    ended(&order, "CANCELLED", None);
    assert_snapshot!(order.timeline());
}

#[test]
fn a_lost_reply_is_asked_for() {
    let mut order = waiting_for("pay");
    order.passes(10 * SECOND).expect(&["pay execute", "pay probe"]).succeeds("pay probe").label("PAID");
    order.succeeds("ship execute").succeeds("take execute");
    ended(&order, "FULFILLED", None);
    assert_snapshot!(order.timeline());
}

#[test]
fn a_payment_that_fails_twice() {
    let mut order = waiting_for("pay");
    for _ in 0..2 {
        order.answers("pay execute", Outcome::FailedTransient).passes(2 * SECOND).expect(&["pay execute"]);
    }
    order.succeeds("pay execute").succeeds("ship execute").succeeds("take execute");
    ended(&order, "FULFILLED", None);
    assert_snapshot!(order.timeline());
}

#[test]
fn a_payment_unavailable_five_times() {
    let mut order = waiting_for("pay");
    for _ in 0..5 {
        order.answers("pay execute", Outcome::FailedTransient).passes(4 * SECOND);
    }
    undo(&mut order, &["pay", "reserve"]);
    ended(&order, "PAYMENT_FAILED", Some("unavailable"));
    assert_snapshot!(order.timeline());
}

#[test]
fn pending_for_too_long() {
    let mut order = waiting_for("reserve");
    for _ in 0..30 {
        order.answers("reserve execute", Outcome::FailedTransient).passes(30 * SECOND);
    }
    undo(&mut order, &["reserve"]);
    ended(&order, "CANCELLED", Some("pending_timeout"));
    assert!(order.entries.len() < 100, "a backoff that grows");
    // The first and the last lines.
    let lines: Vec<_> = order.timeline().lines().map(str::to_owned).collect();
    assert_snapshot!([&lines[..6], &["  ...".to_owned()], &lines[lines.len() - 6..]].concat().join("\n"));
}

#[test]
fn pending_for_too_long_and_reserved_after_all() {
    let mut order = waiting_for("reserve");
    order.answers("reserve execute", Outcome::Unsupported).passes(899 * SECOND);
    let before = order.timeline().lines().count();
    order.passes(SECOND).succeeds("reserve execute").label("CANCELLING");
    assert_eq!(order.holds().len(), 1);
    undo(&mut order, &["reserve"]);
    ended(&order, "CANCELLED", Some("pending_timeout"));
    assert_snapshot!(order.timeline().lines().skip(before).collect::<Vec<_>>().join("\n"));
}

#[test]
fn a_refused_refund_is_resolved_by_hand() {
    let mut order = waiting_for("ship");
    order.refuses("ship execute", "not_served").refuses("pay compensate", "refund_refused");
    assert_eq!(order.saga.parked_reason().unwrap().code, "refund_refused");
    order.resolves(true, vec![]);
    undo(&mut order, &["reserve"]);
    ended(&order, "SHIPMENT_FAILED", Some("not_served"));
    assert_snapshot!(order.timeline());
}

#[test]
fn an_unknown_shipment_resolved_as_not_done() {
    let mut order = unknown("ship");
    order.resolves(false, label_bought()).expect(&["ship compensate"]);
    order.answers("ship compensate", Outcome::Unknown);
    undo(&mut order, &["pay", "reserve"]);
    ended(&order, "SHIPMENT_FAILED", Some("resolved_not_done"));
    assert_snapshot!(order.timeline());
}

#[test]
fn an_unknown_shipment_resolved_as_done() {
    let mut order = unknown("ship");
    order.resolves(true, label_bought()).label("FULFILLED").succeeds("take execute");
    ended(&order, "FULFILLED", None);
    assert_snapshot!(order.timeline());
}

#[test]
fn an_unknown_shipment_cancelled() {
    let mut order = unknown("ship");
    order.cancels();
    while !order.saga.parked {
        order.answers("ship compensate", Outcome::Unknown).passes(2 * SECOND);
    }
    order.resolves(true, vec![]);
    undo(&mut order, &["pay", "reserve"]);
    ended(&order, "CANCELLED", None);
    assert_snapshot!(order.timeline());
}

#[test]
fn a_refused_take_is_retried_as_another_command() {
    let mut order = waiting_for("take");
    order.refuses("take execute", "no_such_reservation").label("FULFILLED");
    order.cancels().is_illegal(amends_engine::core::Illegal::PastPivot);
    order.retries().expect(&["take execute"]).succeeds("take execute");
    ended(&order, "FULFILLED", None);
    assert_snapshot!(order.timeline());
}

#[test]
fn a_success_heard_after_the_end() {
    let mut order = waiting_for("reserve");
    let late = order.reply("reserve execute", Outcome::Succeeded);
    order.cancels();
    undo(&mut order, &["reserve"]);
    order.passes(60 * SECOND).happens(Event::Replied(late));
    ended(&order, "CANCELLED", None);
    assert_snapshot!(order.timeline());
}

#[test]
fn an_orphan() {
    let mut order = waiting_for("pay");
    let late = order.reply("pay execute", Outcome::Succeeded);
    order.refuses("pay execute", "card_declined");
    undo(&mut order, &["reserve"]);
    order.passes(60 * SECOND).happens(Event::Replied(late)).label("PAYMENT_FAILED");
    assert!(order.saga.live);
    undo(&mut order, &["pay"]);
    ended(&order, "PAYMENT_FAILED", Some("card_declined"));
    assert_snapshot!(order.timeline());
}
