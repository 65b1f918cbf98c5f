//! Rows that cannot be settled: how they rest, what room they have, and what an operator's resolution does to them.

use amends_protocol::{
    Command,
    Kind::{Compensate, Execute, Fence},
    Outcome::{InFlight, Succeeded, Unknown},
    Resolved,
};
use amends_worker::{Answer, Port};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    books::{books, impatient, state, status, time_passes},
    gateway::{Act, GOOD, Gateway},
    instance::Instance,
    messages::{compensate, execute, fence, probe},
};

fn silence() -> Act {
    Act::Says(Answer::unknown("reset"))
}

fn by_hand(command: Command, resolved: Resolved) -> Command {
    Command { resolved: Some(resolved), ..command }
}

async fn resolution(pool: &PgPool, key: Uuid) -> Option<String> {
    let sql = "SELECT resolved FROM commands WHERE command_id = $1";
    sqlx::query_scalar(sql).bind(key).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn trap_29_rows_that_nobody_can_settle_take_no_room_from_calls_that_can_be_made() {
    let (books, gateway) = (books().await, Gateway::new(GOOD));
    let [first, second, new] = [execute("order"), execute("order"), execute("order")];
    // Three calls for each row: two of them in its first round.
    for order in [&first, &second] {
        gateway.script(order.command_id, [silence(), silence()]);
        gateway.hold(order.command_id);
    }
    let mut worker = Instance::with(&books.pool, &gateway, 2).await;
    for order in [&first, &second] {
        worker.ask(order).await;
        assert_eq!(state(&books.pool, order.command_id).await, ("started".to_owned(), true));
    }
    // Both are looked up once more, and the look-ups do not end: one begins because of a probe, one because the row is
    // due.
    time_passes(&books.pool).await;
    worker.receive(&[&probe(&first)]).await;
    worker.recover().await;
    worker.call();
    assert_eq!((gateway.calls(first.command_id), gateway.calls(second.command_id)), (3, 3));
    assert_eq!(worker.ask(&new).await, [(Execute, Succeeded, 1)]);
}

#[tokio::test]
async fn a_crowd_of_rows_that_nobody_can_settle_does_not_keep_what_was_accepted_waiting() {
    let (books, gateway) = (books().await, Gateway::new(GOOD));
    let mut worker = Instance::with(&books.pool, &gateway, 1).await;
    for _ in 0..5 {
        let order = execute("order");
        gateway.script(order.command_id, [silence(), silence()]);
        gateway.hold(order.command_id);
        worker.ask(&order).await;
    }
    let [called, waiting] = [execute("order"), execute("order")];
    let gate = gateway.hold(called.command_id);
    worker.receive(&[&called, &waiting]).await;
    assert_eq!(status(&books.pool, waiting.command_id).await.unwrap(), "accepted", "there is room for one");
    time_passes(&books.pool).await;
    gate.add_permits(1);
    worker.settle().await;
    worker.recover().await;
    worker.settle().await;
    assert_eq!(status(&books.pool, waiting.command_id).await.unwrap(), "succeeded");
}

#[tokio::test]
async fn what_a_person_has_called_not_done_is_not_called_for_again_and_a_late_effect_is_undone() {
    let (books, gateway, order) = (books().await, Gateway::new(GOOD), execute("order"));
    gateway.script(order.command_id, [Act::Lost, silence()]);
    let mut worker = Instance::start(&books.pool, &gateway).await;
    assert_eq!(worker.ask(&order).await, [(Execute, Unknown, 1)]);
    let undo = by_hand(compensate(&order), Resolved::NotDone);
    assert_eq!(worker.ask(&undo).await, [(Compensate, Unknown, 1)]);
    assert_eq!(resolution(&books.pool, order.command_id).await.as_deref(), Some("notDone"));
    for _ in 0..3 {
        time_passes(&books.pool).await;
        worker.recover().await;
        worker.settle().await;
    }
    assert_eq!(gateway.calls(order.command_id), 2, "it is only looked up");
    // The first call was still on its way.
    gateway.lands();
    time_passes(&books.pool).await;
    worker.recover().await;
    worker.settle().await;
    worker.settle().await;
    assert_eq!(worker.outcomes(), [(Execute, Succeeded, 1), (Compensate, Succeeded, 1)]);
    assert_eq!((gateway.effects(order.command_id), gateway.effects(undo.command_id)), (1, 1));
    assert_eq!(resolution(&books.pool, order.command_id).await, None);
}

#[tokio::test]
async fn what_a_person_has_done_elsewhere_is_not_done_again() {
    let (books, gateway, order) = (books().await, Gateway::new(GOOD), execute("order"));
    gateway.script(order.command_id, [silence(), silence()]);
    let mut worker = Instance::start(&books.pool, &gateway).await;
    assert_eq!(worker.ask(&order).await, [(Execute, Unknown, 1)]);
    let settled = by_hand(fence(&order), Resolved::Done);
    assert_eq!(worker.ask(&settled).await, [(Fence, Unknown, 1)]);
    time_passes(&books.pool).await;
    worker.recover().await;
    worker.settle().await;
    assert_eq!((gateway.calls(order.command_id), gateway.effects(order.command_id)), (2, 0));
    // A later compensation finds the outcome unknown too.
    assert_eq!(worker.ask(&compensate(&order)).await, [(Compensate, Unknown, 1)]);
    assert_eq!(gateway.calls(order.command_id), 2);
}

#[tokio::test]
async fn where_the_port_can_promise_it_a_persons_not_done_ends_in_a_tombstone() {
    let port = Port { can_void: true, ..GOOD };
    let (books, gateway, order) = (books().await, Gateway::new(port), execute("order"));
    gateway.script(order.command_id, [Act::Lost, silence()]);
    let mut worker = Instance::start(&books.pool, &gateway).await;
    worker.ask(&order).await;
    worker.ask(&by_hand(fence(&order), Resolved::NotDone)).await;
    assert_eq!(status(&books.pool, order.command_id).await.unwrap(), "tombstone");
    gateway.lands();
    assert_eq!(gateway.effects(order.command_id), 0, "its key is void");
}

#[tokio::test]
async fn an_outcome_whose_row_another_transaction_holds_holds_up_no_other_and_is_asked_for_again() {
    let (books, gateway) = (books().await, Gateway::new(GOOD));
    let [locked, free] = [execute("order"), execute("order")];
    let mut worker = Instance::start(&impatient(&books), &gateway).await;
    worker.receive(&[&locked, &free]).await;
    let mut forgotten = books.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM commands WHERE command_id = $1 FOR UPDATE")
        .bind(locked.command_id)
        .execute(&mut *forgotten)
        .await
        .unwrap();
    // The two calls may end one after the other.
    let replies = loop {
        worker.settle().await;
        let replies = worker.outcomes();
        if !replies.is_empty() {
            break replies;
        }
    };
    assert_eq!(replies, [(Execute, Succeeded, 1)]);
    assert_eq!(status(&books.pool, free.command_id).await.unwrap(), "succeeded");
    assert_eq!(status(&books.pool, locked.command_id).await.unwrap(), "started");
    forgotten.rollback().await.unwrap();
    time_passes(&books.pool).await;
    worker.recover().await;
    worker.settle().await;
    assert_eq!(worker.outcomes(), [(Execute, Succeeded, 1)]);
    assert_eq!((gateway.calls(locked.command_id), gateway.effects(locked.command_id)), (1, 1));
}

#[tokio::test]
async fn a_question_that_finds_no_room_is_answered_later_and_holds_nothing_up() {
    let (books, gateway) = (books().await, Gateway::new(GOOD));
    let orders: Vec<Command> = (0..65).map(|_| execute("order")).collect();
    let mut worker = Instance::start(&books.pool, &gateway).await;
    for order in &orders {
        gateway.script(order.command_id, [silence(), silence()]);
        gateway.hold(order.command_id);
        worker.ask(order).await;
    }
    let probes: Vec<Command> = orders.iter().map(probe).collect();
    worker.receive(&probes.iter().collect::<Vec<_>>()).await;
    worker.call();
    assert_eq!(
        worker.outcomes().into_iter().filter(|said| said.1 == InFlight).count(),
        1,
        "of 64 there is room"
    );
    assert_eq!(worker.ask(&execute("order")).await, [(Execute, Succeeded, 1)]);
}
