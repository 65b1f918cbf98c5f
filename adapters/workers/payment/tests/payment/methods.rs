//! Each method of the built-in gateway, through the worker.

use std::time::Duration;

use amends_payment::settings;
use amends_protocol::{Kind, Outcome, Reply};
use amends_worker::Settings;
use serde_json::{Value, json};

use crate::{
    transport::{SOON, about, attempt, code, execute, undo},
    world::{Waited, World, deltas, pay, short},
};

const CAPTURED: [(&str, &str, i64); 1] = [("money_captured", "EUR", 2500)];
const GIVEN_BACK: [(&str, &str, i64); 1] = [("money_captured", "EUR", -2500)];

fn result(reply: &Reply, field: &str) -> Value {
    reply.result.as_ref().map_or(Value::Null, |result| result.read::<Value>().unwrap()[field].clone())
}

#[tokio::test]
async fn card_approved_is_charged_and_an_undo_refunds_it() {
    let world = World::new().await;
    let charge = pay("card_approved");
    let charged = world.settled(&charge).await;
    assert_eq!((charged.outcome, deltas(&charged)), (Outcome::Succeeded, CAPTURED.to_vec()));
    assert!(result(&charged, "chargeId").is_string(), "{charged:?}");
    assert_eq!((world.effects(&charge).await, world.captured().await), ((1, 0), 2500));

    let refunded = world.settled(&undo(&charge)).await;
    assert_eq!((refunded.outcome, deltas(&refunded)), (Outcome::Succeeded, GIVEN_BACK.to_vec()));
    assert!(result(&refunded, "refundId").is_string(), "{refunded:?}");
    assert_eq!((world.effects(&charge).await, world.captured().await), ((1, 1), 0));
}

#[tokio::test]
async fn card_declined_and_methods_that_nobody_knows_are_declined_and_stay_so() {
    let world = World::new().await;
    for (method, reason) in
        [("card_declined", "card_declined"), ("cheque", "unknown_method"), ("", "unknown_method")]
    {
        let charge = pay(method);
        for attempts in 1..3 {
            let reply = world.settled(&attempt(attempts, &charge)).await;
            assert_eq!((reply.outcome, code(&reply)), (Outcome::Refused, reason), "{method}");
            assert_eq!((reply.attempt, deltas(&reply)), (1, vec![]));
        }
        let undone = world.settled(&undo(&charge)).await;
        assert_eq!((undone.outcome, deltas(&undone)), (Outcome::Succeeded, vec![]), "nothing to undo");
        assert_eq!(world.effects(&charge).await, (0, 0));
    }
    assert_eq!(world.captured().await, 0);
}

#[tokio::test]
async fn card_slow_is_charged_and_answers_after_three_seconds() {
    let world = World::quiet().await;
    world.start(world.worker(settings()));
    let charge = pay("card_slow");
    let charged = world.settled(&charge).await;
    assert_eq!((charged.outcome, deltas(&charged)), (Outcome::Succeeded, CAPTURED.to_vec()));
    assert_eq!(*world.waited.pauses.lock().unwrap(), [Duration::from_secs(3)]);
    assert!(settings().call_timeout > Duration::from_secs(3), "so that its answer is waited for");
}

#[tokio::test]
async fn a_charge_slower_than_a_call_may_be_is_looked_up_and_charged_once() {
    let world = World::quiet().await;
    let slow = Waited::stopped();
    world.start(world.worker_of(slow.clone(), short()));
    let charge = pay("card_slow");
    let charged = world.settled(&charge).await;
    assert_eq!((charged.outcome, deltas(&charged)), (Outcome::Succeeded, CAPTURED.to_vec()));
    assert!(!slow.pauses.lock().unwrap().is_empty(), "it was slow");
    assert_eq!(world.effects(&charge).await, (1, 0));
}

#[tokio::test]
async fn card_lost_reply_is_charged_once_and_found_by_a_look_up() {
    let world = World::new().await;
    let charge = pay("card_lost_reply");
    let charged = world.settled(&charge).await;
    assert_eq!((charged.outcome, deltas(&charged)), (Outcome::Succeeded, CAPTURED.to_vec()));
    assert_eq!(world.settled(&attempt(2, &charge)).await.result, charged.result, "the recorded reply");
    assert_eq!(world.effects(&charge).await, (1, 0));
}

#[tokio::test]
async fn a_charge_whose_reply_is_lost_is_refunded_once() {
    let world = World::new().await;
    let charge = pay("card_lost_reply");
    let refund = undo(&charge);
    world.topics.send(std::slice::from_ref(&charge));
    let is_charged = async || (world.effects(&charge).await == (1, 0)).then_some(());
    amends_testkit::eventually("a charge", SOON, is_charged).await;
    // Whether or not the worker has the charge's answer by now.
    world.topics.send(&[refund.clone(), attempt(2, &refund)]);
    let refunded = world.topics.reply_where(&refund, 0, |r| r.outcome == Outcome::Succeeded).await;
    assert_eq!(deltas(&refunded), GIVEN_BACK);
    assert_eq!(world.settled(&attempt(2, &charge)).await.outcome, Outcome::Fenced);
    assert_eq!((world.effects(&charge).await, world.captured().await, world.told()), ((1, 1), 0, 0));
}

#[tokio::test]
async fn a_refund_asked_for_while_the_charge_is_under_way_follows_it() {
    let world = World::quiet().await;
    let slow = Waited::stopped();
    // Longer than this test takes.
    let patient = Settings { call_timeout: SOON, lease: SOON * 3, ..settings() };
    world.start(world.worker_of(slow.clone(), patient));
    let charge = pay("card_slow");
    world.topics.send(std::slice::from_ref(&charge));
    slow.is_waited_for().await;
    let refund = undo(&charge);
    assert_eq!(world.topics.ask(&refund).await.outcome, Outcome::InFlight);
    assert_eq!(world.topics.ask(&attempt(2, &refund)).await.outcome, Outcome::InFlight);
    assert_eq!(world.effects(&charge).await, (1, 0), "not before it is known");
    slow.goes_on.notify_one();
    let refunded = world.topics.reply_where(&refund, 2, |r| r.outcome == Outcome::Succeeded).await;
    assert_eq!(deltas(&refunded), GIVEN_BACK);
    assert_eq!(deltas(&world.topics.replies_to(&charge)[0]), CAPTURED, "said before it was undone");
    assert_eq!((world.effects(&charge).await, world.captured().await, world.told()), ((1, 1), 0, 0));
}

#[tokio::test]
async fn card_error_twice_fails_for_two_attempts_and_the_third_charges() {
    let world = World::quiet().await;
    // Long enough that no answer is missed: the gateway counts its calls.
    world.start(world.worker(settings()));
    let charge = pay("card_error_twice");
    for attempts in [1, 2] {
        for _ in 0..2 {
            let failed = world.settled(&attempt(attempts, &charge)).await;
            assert_eq!((failed.outcome, code(&failed)), (Outcome::FailedTransient, "gateway_unavailable"));
            assert_eq!(
                (failed.attempt, deltas(&failed)),
                (attempts, vec![]),
                "the repetition is no new call"
            );
        }
        assert_eq!(world.effects(&charge).await, (0, 0));
    }
    let charged = world.settled(&attempt(3, &charge)).await;
    assert_eq!((charged.outcome, charged.attempt), (Outcome::Succeeded, 3));
    assert_eq!(deltas(&charged), CAPTURED);
    assert_eq!(world.effects(&charge).await, (1, 0));
}

#[tokio::test]
async fn an_undo_between_two_errors_leaves_a_tombstone() {
    let world = World::quiet().await;
    world.start(world.worker(settings()));
    let charge = pay("card_error_twice");
    assert_eq!(world.settled(&charge).await.outcome, Outcome::FailedTransient);
    assert_eq!(world.settled(&undo(&charge)).await.outcome, Outcome::Succeeded);
    for attempts in 2..5 {
        assert_eq!(world.settled(&attempt(attempts, &charge)).await.outcome, Outcome::Fenced);
    }
    assert_eq!(world.effects(&charge).await, (0, 0));
}

#[tokio::test]
async fn card_refund_refused_is_charged_and_its_refund_refused_at_each_attempt() {
    let world = World::new().await;
    let charge = pay("card_refund_refused");
    assert_eq!(world.settled(&charge).await.outcome, Outcome::Succeeded);
    for attempts in [1, 2, 3] {
        let refund = attempt(attempts, &undo(&charge));
        let refused = world.settled(&refund).await;
        assert_eq!((refused.outcome, code(&refused)), (Outcome::Refused, "refund_refused"));
        assert_eq!((refused.attempt, deltas(&refused)), (attempts, vec![]));
    }
    assert_eq!((world.effects(&charge).await, world.captured().await), ((1, 0), 2500));
    assert_eq!((world.recorded().await, world.told()), (2500, 2500), "it is still held");
}

#[tokio::test]
async fn an_order_that_costs_nothing_is_charged_and_holds_nothing() {
    let world = World::new().await;
    let charge = execute("pay", json!({ "amount": 0, "currency": "EUR", "method": "card_approved" }));
    let charged = world.settled(&charge).await;
    assert_eq!((charged.outcome, deltas(&charged)), (Outcome::Succeeded, vec![]));
    let refunded = world.settled(&undo(&charge)).await;
    assert_eq!((refunded.outcome, deltas(&refunded)), (Outcome::Succeeded, vec![]));
}

#[tokio::test]
async fn a_payload_that_makes_no_sense_fails_for_good_and_stops_nobody() {
    let world = World::quiet().await;
    world.start(world.worker(settings()));
    let with = |amount: Value, currency: &str| json!({ "amount": amount, "currency": currency, "method": "card_approved" });
    let senseless = [
        json!(null),
        json!([]),
        json!({ "amount": 1, "currency": "EUR" }),
        json!({ "amount": 1, "method": "card_approved" }),
        with(json!(-1), "EUR"),
        with(json!(1.5), "EUR"),
        with(json!(u64::MAX), "EUR"),
        with(json!("1"), "EUR"),
        with(json!(1), "eur"),
        with(json!(1), "EURO"),
        with(json!(1), "ÄÖ"),
    ];
    let mut batch: Vec<_> = senseless.into_iter().map(|payload| execute("pay", payload)).collect();
    let good = pay("card_approved");
    batch.insert(3, good.clone());
    let unknown_step = execute("dance", with(json!(1), "EUR"));
    batch.push(unknown_step.clone());
    world.topics.send(&batch);
    world.topics.replied(batch.len()).await;
    for command in &batch {
        let reply = &world.topics.replies_to(command)[0];
        let (outcome, reason) = match command.command_id {
            id if id == good.command_id => (Outcome::Succeeded, ""),
            id if id == unknown_step.command_id => (Outcome::FailedForGood, "unknown_step"),
            _ => (Outcome::FailedForGood, "bad_payload"),
        };
        assert_eq!((reply.outcome, code(reply)), (outcome, reason), "{}", command.payload.get());
    }
    assert!(world.topics.dead_letters().is_empty());
    assert_eq!(
        (world.count("SELECT count(*) FROM gateway_charges").await, world.captured().await),
        (1, 2500)
    );
}

#[tokio::test]
async fn a_probe_tells_what_became_of_a_charge_and_a_fence_stops_one_that_was_not_seen() {
    let world = World::new().await;
    let charge = pay("card_approved");
    let probe = about(Kind::Probe, &charge);
    assert_eq!(world.settled(&probe).await.outcome, Outcome::NotSeen);
    world.settled(&charge).await;
    let found = world.settled(&probe).await;
    assert_eq!((found.outcome, deltas(&found)), (Outcome::Succeeded, CAPTURED.to_vec()));

    let fenced = pay("card_approved");
    assert_eq!(world.settled(&about(Kind::Fence, &fenced)).await.outcome, Outcome::Fenced);
    assert_eq!(world.settled(&fenced).await.outcome, Outcome::Fenced);
    assert_eq!(world.effects(&fenced).await, (0, 0));
}
