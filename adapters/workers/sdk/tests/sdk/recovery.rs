//! The worker whose effect is an external call, when answers, instances or replies are lost.

use amends_protocol::{
    Kind::{Compensate, Execute, Fence, Probe},
    Outcome::{Fenced, Succeeded, Unknown},
};
use amends_worker::{Answer, Port};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    books::{books, state, status, time_passes},
    gateway::{Act, GOOD, Gateway},
    instance::{Instance, soon},
    messages::{again, compensate, execute, fence, probe},
};

fn unsure(status: &str) -> (String, bool) {
    (status.to_owned(), true)
}

async fn lease_lasts(pool: &PgPool, key: Uuid) -> bool {
    let lasts = "SELECT owner IS NOT NULL AND lease_until > now() FROM commands WHERE command_id = $1";
    sqlx::query_scalar(lasts).bind(key).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn after_a_crash_before_the_call_it_goes_on_from_its_rows() {
    let (books, gateway, order) = (books().await, Gateway::new(GOOD), execute("order"));
    let mut lost = Instance::start(&books.pool, &gateway).await;
    lost.receive(&[&order]).await;
    assert_eq!(lost.wire.uncommitted(), 0, "the transport will not say it again");
    drop(lost);
    time_passes(&books.pool).await;
    let mut worker = Instance::start(&books.pool, &gateway).await;
    worker.settle().await;
    assert_eq!(worker.outcomes(), [(Execute, Succeeded, 1)]);
    assert_eq!(gateway.effects(order.command_id), 1);
}

#[tokio::test]
async fn after_a_crash_during_the_call_a_look_up_finds_what_was_done() {
    let (books, gateway, order) = (books().await, Gateway::new(GOOD), execute("order"));
    gateway.script(order.command_id, [Act::Says(Answer::unknown("reset"))]);
    let mut lost = Instance::start(&books.pool, &gateway).await;
    lost.receive(&[&order]).await;
    lost.call();
    drop(lost);
    assert_eq!(gateway.effects(order.command_id), 1, "by the second call of the round");
    assert_eq!(status(&books.pool, order.command_id).await.unwrap(), "started", "nothing written down");
    time_passes(&books.pool).await;
    let mut worker = Instance::start(&books.pool, &gateway).await;
    worker.settle().await;
    assert_eq!(worker.outcomes(), [(Execute, Succeeded, 1)]);
    assert_eq!((gateway.calls(order.command_id), gateway.effects(order.command_id)), (2, 1));
}

#[tokio::test]
async fn a_crash_between_commit_and_reply_is_made_good_by_the_recorded_reply() {
    let (books, gateway, order) = (books().await, Gateway::new(GOOD), execute("order"));
    let mut lost = Instance::start(&books.pool, &gateway).await;
    lost.receive(&[&order]).await;
    lost.wire.set_broken(true);
    soon(lost.calls.run_once()).await.unwrap_err();
    assert_eq!(status(&books.pool, order.command_id).await.unwrap(), "succeeded");
    drop(lost);
    let mut worker = Instance::start(&books.pool, &gateway).await;
    worker.receive(&[&again(&order, 2)]).await;
    assert_eq!(worker.outcomes(), [(Execute, Succeeded, 1)]);
    assert_eq!(gateway.calls(order.command_id), 1);
}

#[tokio::test]
async fn replies_that_were_not_acknowledged_are_sent_again_without_another_call() {
    let (books, gateway, order) = (books().await, Gateway::new(GOOD), execute("order"));
    let mut worker = Instance::start(&books.pool, &gateway).await;
    worker.receive(&[&order]).await;
    worker.wire.set_broken(true);
    soon(worker.calls.run_once()).await.unwrap_err();
    worker.wire.set_broken(false);
    worker.settle().await;
    assert_eq!((worker.outcomes(), gateway.calls(order.command_id)), (vec![(Execute, Succeeded, 1)], 1));
}

#[tokio::test]
async fn a_lease_that_lapsed_is_taken_over_and_one_that_is_renewed_is_not() {
    let (books, gateway, order) = (books().await, Gateway::new(GOOD), execute("order"));
    let key = order.command_id;
    let gate = gateway.hold(key);
    let mut slow = Instance::start(&books.pool, &gateway).await;
    let mut other = Instance::start(&books.pool, &gateway).await;
    slow.receive(&[&order]).await;
    slow.call();
    other.recover().await;
    other.call();
    assert_eq!(gateway.calls(key), 1, "a lease that lasts");

    time_passes(&books.pool).await;
    slow.recovery.renew().await.unwrap();
    assert!(lease_lasts(&books.pool, key).await);
    other.recover().await;
    other.call();
    assert_eq!(gateway.calls(key), 1, "renewed");

    time_passes(&books.pool).await;
    other.recover().await;
    assert_eq!(state(&books.pool, key).await, unsure("started"), "its caller was lost");
    slow.recovery.renew().await.unwrap();
    other.settle().await;
    assert_eq!((other.outcomes(), gateway.calls(key)), (vec![(Execute, Succeeded, 1)], 2));
    gate.add_permits(1);
    slow.settle().await;
    assert_eq!(gateway.effects(key), 1);
}

#[tokio::test]
async fn two_instances_that_take_over_call_once() {
    let (books, gateway) = (books().await, Gateway::new(GOOD));
    let orders: Vec<_> = (0..20).map(|_| execute("order")).collect();
    let mut lost = Instance::start(&books.pool, &gateway).await;
    lost.receive(&orders.iter().collect::<Vec<_>>()).await;
    drop(lost);
    time_passes(&books.pool).await;
    let mut one = Instance::unstarted(&books.pool, &gateway, 100);
    let mut two = Instance::unstarted(&books.pool, &gateway, 100);
    let (first, second) =
        soon(async { tokio::join!(one.recovery.run_once(), two.recovery.run_once()) }).await;
    first.and(second).unwrap();
    one.call();
    two.call();
    assert!(orders.iter().all(|order| gateway.calls(order.command_id) == 1));
}

#[tokio::test]
async fn an_unknown_outcome_stays_started_and_is_looked_up_until_a_late_answer_moves_it_on() {
    let (books, gateway) = (books().await, Gateway::new(Port { idempotent: false, ..GOOD }));
    let order = execute("order");
    gateway.script(order.command_id, [Act::Lost]);
    let mut worker = Instance::start(&books.pool, &gateway).await;
    assert_eq!(worker.ask(&order).await, [(Execute, Unknown, 1)]);
    assert_eq!(worker.ask(&probe(&order)).await, [(Probe, Unknown, 1)]);
    assert_eq!(worker.ask(&fence(&order)).await, [(Fence, Unknown, 1)]);
    assert_eq!(worker.ask(&again(&order, 2)).await, [(Execute, Unknown, 1)]);
    assert_eq!(state(&books.pool, order.command_id).await, unsure("started"));
    worker.recover().await;
    worker.call();
    gateway.lands();
    assert_eq!(worker.ask(&probe(&order)).await, [(Execute, Succeeded, 1), (Probe, Succeeded, 1)]);
    assert_eq!(gateway.calls(order.command_id), 1);
    assert_eq!(state(&books.pool, order.command_id).await, ("succeeded".to_owned(), false));
}

#[tokio::test]
async fn an_effect_whose_answer_was_lost_is_found_and_not_repeated() {
    let (books, gateway) = (books().await, Gateway::new(Port { idempotent: false, ..GOOD }));
    let order = execute("order");
    gateway.script(order.command_id, [Act::DoneUnheard]);
    let mut worker = Instance::start(&books.pool, &gateway).await;
    assert_eq!(worker.ask(&order).await, [(Execute, Succeeded, 1)]);
    assert_eq!((gateway.calls(order.command_id), gateway.effects(order.command_id)), (1, 1));
}

#[tokio::test]
async fn with_a_compensation_remembered_an_unanswered_call_is_made_again_and_then_undone() {
    let port = Port { can_look_up: false, ..GOOD };
    let (books, gateway, order) = (books().await, Gateway::new(port), execute("order"));
    let (key, undo) = (order.command_id, compensate(&order));
    gateway.script(key, [Act::Lost, Act::Lost]);
    let mut worker = Instance::start(&books.pool, &gateway).await;
    worker.ask(&order).await;
    worker.receive(&[&undo]).await;
    worker.settle().await;
    assert_eq!(worker.outcomes(), [(Execute, Succeeded, 1)]);
    worker.settle().await;
    assert_eq!(worker.outcomes(), [(Compensate, Succeeded, 1)]);
    gateway.lands();
    assert_eq!((gateway.effects(key), gateway.effects(undo.command_id)), (1, 1));
    assert_eq!(status(&books.pool, key).await.unwrap(), "undone");
}

#[tokio::test]
async fn a_key_that_is_voided_never_takes_effect_and_needs_no_undo() {
    let port = Port { can_void: true, can_look_up: false, idempotent: false, ..GOOD };
    let (books, gateway, order) = (books().await, Gateway::new(port), execute("order"));
    let (key, undo) = (order.command_id, compensate(&order));
    gateway.script(key, [Act::Lost]);
    let mut worker = Instance::start(&books.pool, &gateway).await;
    assert_eq!(worker.ask(&order).await, [(Execute, Unknown, 1)]);
    assert_eq!(worker.ask(&undo).await, [(Execute, Fenced, 1), (Compensate, Succeeded, 1)]);
    assert_eq!(status(&books.pool, key).await.unwrap(), "tombstone");
    gateway.lands();
    assert_eq!((gateway.effects(key), gateway.calls(undo.command_id)), (0, 0));
}

#[tokio::test]
async fn past_the_keys_retention_or_without_any_way_to_ask_a_lost_call_is_unknown_and_not_repeated() {
    let blind = Port { idempotent: false, can_look_up: false, ..GOOD };
    let forgetful = Port { can_look_up: false, ..GOOD };
    for port in [blind, forgetful, Port { ..GOOD }] {
        let (books, gateway, order) = (books().await, Gateway::new(port), execute("order"));
        let _never = gateway.hold(order.command_id);
        let mut lost = Instance::start(&books.pool, &gateway).await;
        lost.receive(&[&order]).await;
        lost.call();
        drop(lost);
        time_passes(&books.pool).await;
        sqlx::query("UPDATE commands SET started_at = started_at - interval '2 hours'")
            .execute(&books.pool)
            .await
            .unwrap();
        let mut worker = Instance::start(&books.pool, &gateway).await;
        worker.settle().await;
        assert_eq!(worker.ask(&probe(&order)).await, [(Probe, Unknown, 1)], "{port:?}");
        assert_eq!(worker.ask(&compensate(&order)).await, [(Compensate, Unknown, 1)], "{port:?}");
        assert_eq!(gateway.calls(order.command_id), 1, "{port:?}");
        assert_eq!(state(&books.pool, order.command_id).await, unsure("started"));
    }
}

#[tokio::test]
async fn an_unanswered_undo_is_no_failure_and_goes_on_under_its_key() {
    let port = Port { can_look_up: false, first_answer_binds: false, ..GOOD };
    let (books, gateway, order) = (books().await, Gateway::new(port), execute("order"));
    let undo = compensate(&order);
    gateway.script(
        undo.command_id,
        [
            Act::Lost,
            Act::Says(Answer::failed_for_now("http_503", "")),
            Act::Says(Answer::refused("too_late", "")),
        ],
    );
    let mut worker = Instance::start(&books.pool, &gateway).await;
    worker.ask(&order).await;
    assert_eq!(worker.ask(&undo).await, [(Compensate, Unknown, 1)]);
    assert_eq!(worker.ask(&undo).await, [(Compensate, Unknown, 1)]);
    assert_eq!(state(&books.pool, order.command_id).await, unsure("undoing"));
    drop(worker);
    gateway.lands();
    time_passes(&books.pool).await;
    let mut other = Instance::start(&books.pool, &gateway).await;
    other.settle().await;
    assert_eq!(other.outcomes(), [(Compensate, Succeeded, 1)]);
    assert_eq!(gateway.effects(undo.command_id), 1);
    assert_eq!(state(&books.pool, order.command_id).await, ("undone".to_owned(), false));
}

#[tokio::test]
async fn a_compensation_that_was_remembered_survives_a_crash() {
    let (books, gateway, order) = (books().await, Gateway::new(GOOD), execute("order"));
    let undo = compensate(&order);
    let _never = gateway.hold(order.command_id);
    let mut lost = Instance::start(&books.pool, &gateway).await;
    lost.receive(&[&order, &undo]).await;
    lost.call();
    drop(lost);
    time_passes(&books.pool).await;
    let mut worker = Instance::start(&books.pool, &gateway).await;
    worker.settle().await;
    worker.settle().await;
    assert_eq!(worker.outcomes(), [(Execute, Succeeded, 1), (Compensate, Succeeded, 1)]);
    assert_eq!((gateway.effects(order.command_id), gateway.effects(undo.command_id)), (1, 1));
}
