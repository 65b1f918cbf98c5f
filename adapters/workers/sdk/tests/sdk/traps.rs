//! Traps that were found by exploring the protocol's states, for a worker whose effect is an external call.

use amends_protocol::{
    Kind::{Compensate, Execute, Fence},
    Outcome::{FailedTransient, Fenced, InFlight, Refused, Succeeded, Unknown},
};
use amends_worker::{Answer, Port};

use crate::{
    books::{books, state, status, time_passes},
    gateway::{Act, GOOD, Gateway},
    instance::{Instance, soon},
    messages::{again, compensate, execute, fence, probe},
};

/// A port that supports only look-ups.
const ASKED: Port = Port { idempotent: false, first_answer_binds: false, ..GOOD };
/// A port that supports only repeated calls.
const REPEATED: Port = Port { can_look_up: false, first_answer_binds: false, ..GOOD };

#[tokio::test]
async fn trap_1_a_look_up_that_finds_nothing_leaves_no_tombstone_for_the_paused_call_captures() {
    let (books, gateway, order) = (books().await, Gateway::new(ASKED), execute("order"));
    let (key, undo) = (order.command_id, compensate(&order));
    gateway.script(key, [Act::Lost]);
    let mut worker = Instance::start(&books.pool, &gateway).await;
    assert_eq!(worker.ask(&order).await, [(Execute, Unknown, 1)]);
    let replies = worker.ask(&undo).await;
    assert_eq!(replies, [(Compensate, Unknown, 1)], "nobody can promise that nothing happens");
    assert_eq!(state(&books.pool, key).await, ("started".to_owned(), true));

    gateway.lands();
    time_passes(&books.pool).await;
    worker.recover().await;
    worker.settle().await;
    assert_eq!(worker.outcomes(), [(Execute, Succeeded, 1)]);
    worker.settle().await;
    assert_eq!(worker.outcomes(), [(Compensate, Succeeded, 1)]);
    assert_eq!((gateway.effects(key), gateway.effects(undo.command_id)), (1, 1), "captured and refunded");
}

#[tokio::test]
async fn trap_2_a_call_without_an_answer_in_time_is_not_a_failure() {
    let (books, gateway, order) = (books().await, Gateway::new(ASKED), execute("order"));
    let _never = gateway.hold(order.command_id);
    let mut worker = Instance::start(&books.pool, &gateway).await;
    worker.receive(&[&order]).await;
    worker.call();
    worker.timer.strike();
    worker.settle().await;
    assert_eq!(worker.outcomes(), [(Execute, Unknown, 1)]);
    assert_eq!(state(&books.pool, order.command_id).await, ("started".to_owned(), true));
}

#[tokio::test]
async fn trap_3_a_failure_after_an_unanswered_call_is_not_recorded() {
    for failed in [Answer::failed_for_now("http_503", ""), Answer::failed_for_good("http_400", "")] {
        let (books, gateway, order) = (books().await, Gateway::new(REPEATED), execute("order"));
        gateway.script(order.command_id, [Act::Lost, Act::Says(failed.clone()), Act::Says(failed)]);
        let mut worker = Instance::start(&books.pool, &gateway).await;
        assert_eq!(worker.ask(&order).await, [(Execute, Unknown, 1)]);
        assert_eq!(worker.ask(&again(&order, 2)).await, [(Execute, Unknown, 1)]);
        assert_eq!(state(&books.pool, order.command_id).await, ("started".to_owned(), true));
        gateway.lands();
        time_passes(&books.pool).await;
        worker.recover().await;
        worker.settle().await;
        assert_eq!(worker.outcomes(), [(Execute, Succeeded, 1)]);
        assert_eq!(gateway.effects(order.command_id), 1);
    }
}

#[tokio::test]
async fn trap_4_a_decline_after_an_unanswered_call_counts_only_where_the_first_answer_binds() {
    let declined = Act::Says(Answer::refused("card_declined", ""));
    for (binds, outcome) in [(false, Unknown), (true, Refused)] {
        let port = Port { first_answer_binds: binds, ..REPEATED };
        let (books, gateway, order) = (books().await, Gateway::new(port), execute("order"));
        gateway.script(order.command_id, [Act::Lost, declined.clone()]);
        let mut worker = Instance::start(&books.pool, &gateway).await;
        assert_eq!(worker.ask(&order).await, [(Execute, outcome, 1)]);
        gateway.lands();
        let after = if binds { Refused } else { Succeeded };
        worker.receive(&[&order]).await;
        if !binds {
            worker.settle().await;
        }
        assert_eq!(worker.outcomes(), [(Execute, after, 1)]);
        assert_eq!(gateway.effects(order.command_id), usize::from(!binds));
    }
}

#[tokio::test]
async fn trap_5_a_port_without_idempotency_is_not_called_again_when_a_look_up_finds_nothing() {
    let (books, gateway, order) = (books().await, Gateway::new(ASKED), execute("order"));
    let key = order.command_id;
    gateway.script(key, [Act::Lost]);
    let mut lost = Instance::start(&books.pool, &gateway).await;
    lost.receive(&[&order]).await;
    lost.call();
    drop(lost);
    time_passes(&books.pool).await;
    let mut worker = Instance::start(&books.pool, &gateway).await;
    worker.settle().await;
    assert_eq!(worker.ask(&again(&order, 2)).await, [(Execute, Unknown, 1)]);
    assert_eq!(gateway.calls(key), 1);
    gateway.lands();
    let replies = worker.ask(&probe(&order)).await;
    assert_eq!(replies.iter().map(|s| s.1).collect::<Vec<_>>(), [Succeeded, Succeeded]);
    assert_eq!((gateway.calls(key), gateway.effects(key)), (1, 1));
}

#[tokio::test]
async fn trap_6_what_was_accepted_begins_once_whoever_begins_it() {
    let (books, gateway) = (books().await, Gateway::new(Port { idempotent: false, ..GOOD }));
    let orders: Vec<_> = (0..30).map(|_| execute("order")).collect();
    let mut full = Instance::with(&books.pool, &gateway, 0).await;
    full.receive(&orders.iter().collect::<Vec<_>>()).await;
    assert_eq!(status(&books.pool, orders[0].command_id).await.unwrap(), "accepted");
    let mut first = Instance::unstarted(&books.pool, &gateway, 100);
    let mut second = Instance::unstarted(&books.pool, &gateway, 100);
    let (one, other) =
        soon(async { tokio::join!(first.recovery.run_once(), second.recovery.run_once()) }).await;
    one.and(other).unwrap();
    first.call();
    second.call();
    for order in &orders {
        assert_eq!(gateway.calls(order.command_id), 1);
    }
}

#[tokio::test]
async fn trap_6_what_was_buried_meanwhile_does_not_begin() {
    let (books, gateway, order) = (books().await, Gateway::new(GOOD), execute("order"));
    let key = order.command_id;
    Instance::with(&books.pool, &gateway, 0).await.receive(&[&order]).await;
    let mut burial = books.pool.begin().await.unwrap();
    sqlx::query("UPDATE commands SET status = 'tombstone', live = false WHERE command_id = $1")
        .bind(key)
        .execute(&mut *burial)
        .await
        .unwrap();
    let mut worker = Instance::start(&books.pool, &gateway).await;
    burial.commit().await.unwrap();
    worker.recover().await;
    worker.call();
    assert_eq!((gateway.calls(key), status(&books.pool, key).await.unwrap().as_str()), (0, "tombstone"));
}

#[tokio::test]
async fn trap_7_an_outcome_is_written_only_where_the_row_is_still_started() {
    let (books, gateway, order) = (books().await, Gateway::new(GOOD), execute("order"));
    let key = order.command_id;
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    gateway.script(key, [Act::HeldThenSays(gate.clone(), Answer::failed_for_now("http_503", ""))]);
    let mut slow = Instance::start(&books.pool, &gateway).await;
    slow.receive(&[&order]).await;
    slow.call();
    time_passes(&books.pool).await;
    let mut other = Instance::start(&books.pool, &gateway).await;
    other.settle().await;
    assert_eq!(other.outcomes(), [(Execute, Succeeded, 1)]);

    gate.add_permits(1);
    slow.settle().await;
    assert_eq!(slow.outcomes(), [(Execute, Succeeded, 1)], "what stands is told");
    assert_eq!(status(&books.pool, key).await.unwrap(), "succeeded");
    assert_eq!(gateway.effects(key), 1);
}

#[tokio::test]
async fn trap_11_a_fence_on_a_failed_row_leaves_a_tombstone() {
    let (books, gateway, order) = (books().await, Gateway::new(GOOD), execute("order"));
    gateway.script(order.command_id, [Act::Says(Answer::failed_for_now("http_503", ""))]);
    let mut worker = Instance::start(&books.pool, &gateway).await;
    assert_eq!(worker.ask(&order).await, [(Execute, FailedTransient, 1)]);
    worker.receive(&[&fence(&order), &again(&order, 2)]).await;
    assert_eq!(worker.outcomes(), [(Fence, Fenced, 1), (Execute, Fenced, 1)]);
    worker.call();
    assert_eq!(gateway.calls(order.command_id), 1);
}

#[tokio::test]
async fn trap_17_a_failed_undo_is_undone_by_a_later_attempt() {
    let (books, gateway, order) = (books().await, Gateway::new(GOOD), execute("order"));
    let undo = compensate(&order);
    gateway.script(undo.command_id, [Act::Says(Answer::failed_for_now("http_503", ""))]);
    let mut worker = Instance::start(&books.pool, &gateway).await;
    worker.ask(&order).await;
    assert_eq!(worker.ask(&undo).await, [(Compensate, FailedTransient, 1)]);
    worker.receive(&[&undo]).await;
    assert_eq!(worker.outcomes(), [(Compensate, FailedTransient, 1)], "the same attempt is not made twice");
    assert_eq!(worker.ask(&again(&undo, 2)).await, [(Compensate, Succeeded, 2)]);
    assert_eq!((gateway.calls(undo.command_id), gateway.effects(undo.command_id)), (2, 1));
    assert_eq!(status(&books.pool, order.command_id).await.unwrap(), "undone");
}

#[tokio::test]
async fn trap_18_a_compensation_on_a_fences_tombstone_succeeds() {
    let (books, gateway, order) = (books().await, Gateway::new(GOOD), execute("order"));
    let mut full = Instance::with(&books.pool, &gateway, 0).await;
    full.receive(&[&order, &order, &fence(&order), &compensate(&order), &order]).await;
    let expected =
        [(Execute, InFlight, 1), (Fence, Fenced, 1), (Compensate, Succeeded, 1), (Execute, Fenced, 1)];
    assert_eq!(full.outcomes(), expected);
    Instance::start(&books.pool, &gateway).await.call();
    assert_eq!(gateway.calls(order.command_id), 0);
}
