//! Partial refunds: many of one charge, and together never more than was captured.

use std::time::Duration;

use amends_protocol::{Command, Kind, Outcome, Reply, id};
use amends_worker::{PgRows, expire_rows};
use chrono::{TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

use crate::{
    transport::{about, attempt, code, execute, undo},
    world::{World, deltas, pay},
};

fn refund(charge: &Command, amount: i64) -> Command {
    let lines = json!([{ "lineId": "1", "productId": "mug", "quantity": 1, "amount": amount }]);
    let payload = json!({ "charge": charge.command_id, "amount": amount, "currency": "EUR", "lines": lines });
    execute("refund", payload)
}

/// Creates a payment of a saga that was born so long ago.
fn paid_long_ago(age: TimeDelta) -> Command {
    let born = (Utc::now() - age).timestamp_millis().unsigned_abs();
    let saga_id = Uuid::from_u128(u128::from(born) << 80 | (Uuid::now_v7().as_u128() & ((1 << 80) - 1)));
    Command { saga_id, command_id: id::execute(saga_id, "pay", 0, 1), ..pay("card_approved") }
}

fn said(reply: &Reply) -> (Outcome, Vec<(&str, &str, i64)>) {
    (reply.outcome, deltas(reply))
}

#[tokio::test]
async fn a_charge_is_paid_back_in_parts_each_once() {
    let world = World::new().await;
    let charge = pay("card_approved");
    world.settled(&charge).await;
    let first = refund(&charge, 1000);
    for repeated in [first.clone(), first.clone(), attempt(2, &first)] {
        let reply = world.settled(&repeated).await;
        assert_eq!(said(&reply), (Outcome::Succeeded, vec![("money_refunded", "EUR", 1000)]));
    }
    assert_eq!(world.captured().await, 1500);
    assert_eq!(world.settled(&refund(&charge, 1500)).await.outcome, Outcome::Succeeded);
    let probed = world.settled(&about(Kind::Probe, &first)).await;
    assert_eq!(said(&probed), (Outcome::Succeeded, vec![("money_refunded", "EUR", 1000)]));
    let too_much = world.settled(&refund(&charge, 1)).await;
    assert_eq!((too_much.outcome, code(&too_much)), (Outcome::Refused, "refund_refused"));
    assert_eq!((world.captured().await, world.effects(&charge).await), (0, (1, 2)));
    let nothing = world.settled(&refund(&charge, 0)).await;
    assert_eq!(said(&nothing), (Outcome::Succeeded, vec![]), "nothing costs nothing");
}

/// The worker's horizon is 14 days; it is about executes without a row, and ends no charge.
#[tokio::test]
async fn a_charge_is_paid_back_for_a_return_or_undone_long_after_the_horizon() {
    let world = World::new().await;
    let retention = Duration::from_hours(400 * 24);
    for days in [31, 390] {
        let age = TimeDelta::days(days);
        let [returned, cancelled] = [(); 2].map(|()| paid_long_ago(age));
        for charge in [&returned, &cancelled] {
            assert_eq!(world.settled(charge).await.outcome, Outcome::Succeeded);
        }
        for aged in [
            "UPDATE commands SET issued_at = issued_at - $1::interval, created_at = created_at - $1::interval,
                                 updated_at = updated_at - $1::interval
             WHERE issued_at > now() - interval '1 day'",
            "UPDATE gateway_charges SET created_at = created_at - $1::interval WHERE created_at > now() - interval '1 day'",
        ] {
            sqlx::query(aged).bind(age).execute(&world.database.pool).await.unwrap();
        }
        let pool = amends_pool::Pool::from(world.pool.clone());
        expire_rows(&PgRows::new(pool.clone()), retention).await.unwrap();
        amends_payment::expire_books(&pool, retention).await.unwrap();

        let reply = world.settled(&refund(&returned, 1000)).await;
        assert_eq!(said(&reply), (Outcome::Succeeded, vec![("money_refunded", "EUR", 1000)]), "{days} days");
        let undone = Command { target_issued_at: Some(Utc::now() - age), ..undo(&cancelled) };
        let reply = world.settled(&undone).await;
        assert_eq!(said(&reply), (Outcome::Succeeded, vec![("money_captured", "EUR", -2500)]), "{days} days");
    }
    assert_eq!(world.captured().await, 2 * 1500);
}

#[tokio::test]
async fn refunds_that_come_at_once_pay_back_no_more_than_was_captured() {
    let world = World::new().await;
    let charge = pay("card_approved");
    world.settled(&charge).await;
    let refunds: Vec<Command> = (0..8).map(|_| refund(&charge, 1000)).collect();
    world.topics.send(&refunds);
    let mut paid = 0;
    for command in &refunds {
        paid += usize::from(world.settled(command).await.outcome == Outcome::Succeeded);
    }
    assert_eq!((paid, world.captured().await), (2, 500));
}

#[tokio::test]
async fn a_refund_of_what_was_declined_or_never_charged_is_refused_and_none_is_undone() {
    let world = World::new().await;
    for method in ["card_declined", "card_refund_refused"] {
        let charge = pay(method);
        world.settled(&charge).await;
        let reply = world.settled(&refund(&charge, 1)).await;
        assert_eq!((reply.outcome, code(&reply)), (Outcome::Refused, "refund_refused"), "{method}");
    }
    let unheard = world.settled(&refund(&pay("card_approved"), 1)).await;
    assert_eq!((unheard.outcome, code(&unheard)), (Outcome::Refused, "refund_refused"));
    let charge = pay("card_approved");
    world.settled(&charge).await;
    let command = refund(&charge, 5);
    world.settled(&command).await;
    let undone = world.settled(&undo(&command)).await;
    assert_eq!((undone.outcome, code(&undone)), (Outcome::FailedForGood, "no_compensation"));
    for payload in [
        json!({}),
        json!({ "charge": charge.command_id, "amount": -1, "currency": "EUR" }),
        json!({ "charge": charge.command_id, "amount": 1, "currency": "euro" }),
        json!({ "charge": "x", "amount": 1, "currency": "EUR" }),
    ] {
        let reply = world.settled(&execute("refund", payload.clone())).await;
        assert_eq!((reply.outcome, code(&reply)), (Outcome::FailedForGood, "bad_payload"), "{payload}");
    }
    assert_eq!(world.captured().await, 2500 + 2500 - 5);
}
