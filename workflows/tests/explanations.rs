//! Every situation in which an order's saga waits, explained to an operator in one sentence.

mod support;

use std::fmt::Write;

use amends_engine::{
    core::{Actor, Event},
    dialogue::Dialogue,
    operate::explain,
};
use amends_protocol::{Outcome, Reason};
use support::{order, unknown, waiting_for, workflow};

/// An order whose stock is reserved, and which waits for its payment.
fn paying() -> Dialogue {
    waiting_for("pay")
}

#[test]
fn each_situation_has_its_sentence() {
    let mut said = String::new();
    let mut note = |situation: &str, order: &Dialogue, known: bool| {
        let definition = workflow();
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

    let mut asked = paying();
    asked.answers("pay execute", Outcome::Unknown);
    note("a payment whose outcome is unknown", &asked, true);
    note("a payment whose outcome stays unknown", &unknown("pay"), true);

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
