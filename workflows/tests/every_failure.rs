//! Every step and every compensation fails in turn, in every way, and every answer comes twice: the order ends with the
//! right label and reason, and nothing is written twice.

mod support;

use std::collections::BTreeMap;

use amends_engine::core::{Decision, Event};
use amends_engine::dialogue::Dialogue;
use amends_protocol::{Outcome, Reason};
use support::{ended, order, workflow};

/// Replies to every command until nothing is left to do, and retries what parks. `script` has the first answers to a
/// command; the rest succeed. Every answer comes twice, and the second changes nothing.
fn run(order: &mut Dialogue, script: &[(&str, Outcome, usize)]) -> usize {
    let mut left: BTreeMap<&str, (Outcome, usize)> = script.iter().map(|(c, o, n)| (*c, (*o, *n))).collect();
    let mut parked = 0;
    for _ in 0..1000 {
        for send in std::mem::take(&mut order.sent) {
            let command = format!("{} {}", workflow().steps[send.step].name, send.kind.as_str());
            let outcome = match left.get_mut(command.as_str()) {
                Some((outcome, times)) if *times > 0 => {
                    *times -= 1;
                    *outcome
                }
                _ => Outcome::Succeeded,
            };
            let mut reply = order.reply(&command, outcome);
            reply.attempt = send.attempt;
            reply.reason =
                (outcome == Outcome::Refused).then(|| Reason::new(format!("{command} refused"), ""));
            order.happens(Event::Replied(reply.clone()));
            let written = order.entries.len();
            order.happens(Event::Replied(reply));
            assert_eq!(
                order.entries.len(),
                written,
                "{command} {outcome:?} heard twice\n{}",
                order.timeline()
            );
            assert!(matches!(order.last, Some(Decision::Nothing(_))), "{:?}", order.last);
        }
        if order.saga.parked {
            parked += 1;
            order.retries();
        } else if let Some(at) = order.saga.wake_at.filter(|_| order.sent.is_empty()) {
            order.passes((at - order.now).to_std().unwrap_or_default());
        } else if order.sent.is_empty() {
            return parked;
        }
    }
    panic!("no end\n{}", order.timeline());
}

const FOR_GOOD: [Outcome; 4] = [Outcome::Refused, Outcome::FailedForGood, Outcome::Fenced, Outcome::Expired];

#[test]
fn an_order_in_which_everything_comes_twice_is_fulfilled_once() {
    let mut order = order();
    assert_eq!(run(&mut order, &[]), 0);
    ended(&order, "FULFILLED", None);
    assert_eq!(order.entries.len(), 5);
    // Every answer comes once more, after the end.
    for step in ["reserve", "pay", "ship", "take"] {
        order.succeeds(&format!("{step} execute")).changes_nothing();
    }
}

#[test]
fn a_step_that_fails_for_good_ends_the_order_under_its_label() {
    for (step, label) in [("reserve", "FAILED"), ("pay", "PAYMENT_FAILED"), ("ship", "SHIPMENT_FAILED")] {
        let command = format!("{step} execute");
        for outcome in FOR_GOOD {
            let mut order = order();
            assert_eq!(run(&mut order, &[(&command, outcome, 1)]), 0);
            let refused = format!("{command} refused");
            let reason = if outcome == Outcome::Refused { refused.as_str() } else { outcome.as_str() };
            ended(&order, label, Some(reason));
            // What may have happened was undone; what was refused was not.
            let undone = order.saga.state.commands.iter().filter(|c| c.is_undone()).count();
            assert_eq!(undone, order.saga.state.commands.len() - usize::from(outcome == Outcome::Refused));
        }
    }
}

#[test]
fn a_step_that_is_unavailable_is_given_up_after_five_attempts() {
    for (step, label) in [("pay", "PAYMENT_FAILED"), ("ship", "SHIPMENT_FAILED")] {
        let command = format!("{step} execute");
        let mut once = order();
        run(&mut once, &[(&command, Outcome::FailedTransient, 4)]);
        ended(&once, "FULFILLED", None);
        let mut order = order();
        assert_eq!(run(&mut order, &[(&command, Outcome::FailedTransient, 5)]), 0);
        ended(&order, label, Some("unavailable"));
    }
}

#[test]
fn a_reservation_that_is_unavailable_goes_on_until_the_order_was_pending_for_too_long() {
    let mut order = order();
    run(&mut order, &[("reserve execute", Outcome::FailedTransient, 1000)]);
    ended(&order, "CANCELLED", Some("pending_timeout"));
    let cancelled = order.entries.iter().find(|e| e.did.heading_for.is_some()).unwrap();
    assert_eq!((cancelled.occurrence.at - order.saga.born_at).num_seconds(), 900, "not early");
}

#[test]
fn a_step_that_nobody_knows_of_parks_and_goes_on_when_it_is_known() {
    for step in ["reserve", "pay", "ship", "take"] {
        let (execute, probe) = (format!("{step} execute"), format!("{step} probe"));
        let mut order = order();
        let script = [(execute.as_str(), Outcome::Unknown, 1000), (probe.as_str(), Outcome::Unknown, 5)];
        assert_eq!(run(&mut order, &script), 1, "{step}");
        ended(&order, "FULFILLED", None);
    }
}

#[test]
fn a_command_that_never_arrived_is_sent_again() {
    for step in ["reserve", "pay", "ship", "take"] {
        let (execute, probe) = (format!("{step} execute"), format!("{step} probe"));
        for outcome in [Outcome::InFlight, Outcome::Unsupported, Outcome::Unknown] {
            let mut order = order();
            let script = [(execute.as_str(), outcome, 2), (probe.as_str(), Outcome::NotSeen, 1)];
            assert_eq!(run(&mut order, &script), 0, "{step}");
            ended(&order, "FULFILLED", None);
        }
    }
}

#[test]
fn a_step_after_the_pivot_parks_and_is_never_undone() {
    for outcome in FOR_GOOD {
        let mut order = order();
        assert_eq!(run(&mut order, &[("take execute", outcome, 1)]), 1, "{outcome:?}");
        ended(&order, "FULFILLED", None);
        assert!(order.saga.state.commands.iter().all(|c| c.undo.is_none()));
    }
    let mut order = order();
    assert_eq!(run(&mut order, &[("take execute", Outcome::FailedTransient, 50)]), 0, "without limit");
    ended(&order, "FULFILLED", None);
}

#[test]
fn a_compensation_that_fails_is_tried_again_or_parks_until_it_is_retried() {
    let refused = ("ship execute", Outcome::Refused, 1);
    for step in ["reserve", "pay"] {
        let command = format!("{step} compensate");
        // Number of such answers, number of times the order parks, and number of additional attempts.
        for (outcome, times, parked, attempts_more) in [
            (Outcome::FailedTransient, 9, 0, 9),
            (Outcome::FailedTransient, 10, 1, 10),
            (Outcome::Unsupported, 3, 0, 0),
            (Outcome::InFlight, 3, 0, 0),
            (Outcome::Refused, 2, 2, 2),
            (Outcome::FailedForGood, 1, 1, 1),
            (Outcome::Unknown, 4, 0, 0),
            (Outcome::Unknown, 6, 1, 1),
            (Outcome::Expired, 1, 1, 1),
        ] {
            let mut order = order();
            assert_eq!(
                run(&mut order, &[refused, (&command, outcome, times)]),
                parked,
                "{command} {outcome:?}"
            );
            ended(&order, "SHIPMENT_FAILED", Some("ship execute refused"));
            let attempts: Vec<u32> =
                order.saga.state.commands.iter().filter_map(|c| c.undo.as_ref()).map(|u| u.attempt).collect();
            assert_eq!(attempts.iter().sum::<u32>(), 2 + attempts_more, "attempts rise and never start over");
        }
    }
}

#[test]
fn an_order_cancelled_at_any_step_is_cancelled_whatever_its_compensations_do() {
    for outcome in [Outcome::Succeeded, Outcome::FailedTransient, Outcome::Refused, Outcome::Unknown] {
        for step in ["reserve", "pay", "ship"] {
            for undone in ["reserve", "pay", "ship"] {
                let mut order = support::waiting_for(step);
                order.cancels();
                run(&mut order, &[(&format!("{undone} compensate"), outcome, 2)]);
                ended(&order, "CANCELLED", None);
            }
        }
    }
}
