//! Every situation in which an order's saga waits, explained to an operator in one sentence.

use std::{fmt::Write, time::Duration};

use amends_engine::{
    core::{Actor, Event},
    dialogue::Dialogue,
    operate::explain,
};
use amends_protocol::{Outcome, Reason};
use amends_workflows::{
    Settings,
    order_fulfilment::{Line, OrderInput, definition},
};

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

/// An order whose stock is reserved, and which waits for its payment.
fn paying() -> Dialogue {
    let mut order = order();
    order.expect(&["reserve execute"]).succeeds("reserve execute").expect(&["pay execute"]);
    order
}

#[test]
fn each_situation_has_its_sentence() {
    let mut said = String::new();
    let mut note = |situation: &str, order: &Dialogue, known: bool| {
        let definition = definition(Settings::default());
        let explained = explain(&order.saga, known.then_some(&definition));
        let until = explained.until.map(|at| at.to_rfc3339()).unwrap_or_default();
        writeln!(said, "{situation}\n    {}\n    until {until}", explained.sentence).unwrap();
    };
    note("born", &order(), true);
    note("of a version that is not known", &order(), false);
    note("paying", &paying(), true);

    let mut backoff = paying();
    backoff.answers("pay execute", Outcome::FailedTransient);
    note("a payment that failed once", &backoff, true);

    let mut unknown = paying();
    unknown.answers("pay execute", Outcome::Unknown);
    note("a payment whose outcome is unknown", &unknown, true);
    for _ in 0..200 {
        if unknown.saga.parked {
            break;
        }
        unknown.passes(Duration::from_secs(60)).answers("pay probe", Outcome::Unknown);
    }
    note("a payment whose outcome stays unknown", &unknown, true);

    let mut declined = paying();
    declined.refuses("pay execute", "card_declined");
    note("a declined payment", &declined, true);
    declined.expect(&["reserve compensate"]).succeeds("reserve compensate");
    note("a declined payment, undone", &declined, true);

    let mut cancelled = paying();
    cancelled.happens(Event::CancelRequested(Actor::new("c-1", "")));
    note("cancelled while it is paid", &cancelled, true);
    cancelled.answers("pay compensate", Outcome::Refused);
    note("a refund that is refused", &cancelled, true);

    let mut shipped = paying();
    shipped.succeeds("pay execute").expect(&["ship execute"]).succeeds("ship execute");
    note("shipped", &shipped, true);
    shipped.expect(&["take execute"]).succeeds("take execute");
    note("taken", &shipped, true);

    let mut poisoned = paying();
    poisoned.happens(Event::Poisoned(Reason::new("poisoned", "")));
    note("poisoned", &poisoned, true);
    insta::assert_snapshot!(said);
}
