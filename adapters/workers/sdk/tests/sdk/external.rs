//! The worker whose effect is an external call, while nothing fails.

use amends_protocol::{
    Command,
    Kind::{Compensate, Execute, Fence, Probe},
    Outcome::{self, FailedForGood, FailedTransient, Fenced, InFlight, Refused, Succeeded, Unsupported},
    SCHEMA_VERSION,
};
use amends_worker::Answer;
use chrono::TimeDelta;

use crate::{
    books::{books, status},
    gateway::{Act, GOOD, Gateway},
    instance::{Instance, soon},
    messages::{again, compensate, execute, fence, probe},
};

#[tokio::test]
async fn offsets_move_once_a_command_is_accepted_and_its_reply_follows_the_outcome() {
    let (books, gateway, order) = (books().await, Gateway::new(GOOD), execute("order"));
    let gate = gateway.hold(order.command_id);
    let mut worker = Instance::start(&books.pool, &gateway).await;
    worker.receive(&[&order]).await;
    worker.call();
    assert_eq!(status(&books.pool, order.command_id).await.unwrap(), "started");
    assert_eq!(worker.wire.log(), ["offsets"]);

    worker.receive(&[&again(&order, 2), &probe(&order), &fence(&order)]).await;
    assert_eq!(worker.outcomes(), [(Execute, InFlight, 1), (Probe, InFlight, 1), (Fence, InFlight, 1)]);
    gate.add_permits(1);
    worker.settle().await;
    let replies = worker.wire.replies();
    assert_eq!(replies.iter().map(|r| (r.kind, r.outcome)).collect::<Vec<_>>(), [(Execute, Succeeded)]);
    assert_eq!(replies[0].exposure[0].amount, 2500);
    assert_eq!((gateway.calls(order.command_id), gateway.effects(order.command_id)), (1, 1));

    worker.receive(&[&again(&order, 3)]).await;
    let recorded = worker.wire.replies().pop().unwrap();
    assert_eq!((recorded.outcome, recorded.attempt), (Succeeded, 1));
    assert_eq!(
        (recorded.result, recorded.exposure),
        (replies[0].result.clone(), replies[0].exposure.clone())
    );
}

#[tokio::test]
async fn a_reply_repeats_when_the_message_that_it_answers_was_sent() {
    let (books, gateway, order) = (books().await, Gateway::new(GOOD), execute("order"));
    let gate = gateway.hold(order.command_id);
    let later = |command: &Command, seconds| Command {
        sent_at: command.sent_at.map(|at| at + TimeDelta::seconds(seconds)),
        ..command.clone()
    };
    let mut worker = Instance::start(&books.pool, &gateway).await;
    worker.receive(&[&order]).await;
    worker.call();
    worker.receive(&[&later(&order, 5), &later(&probe(&order), 10)]).await;
    let replies =
        |worker: &Instance| worker.wire.replies().into_iter().map(|r| r.sent_at).collect::<Vec<_>>();
    let [sent, again, asked] = [0, 5, 10].map(|seconds| later(&order, seconds).sent_at);
    assert!(sent.is_some());
    assert_eq!(replies(&worker), [again, asked], "in flight: of the message that asks");
    gate.add_permits(1);
    worker.settle().await;
    assert_eq!(replies(&worker), [sent], "the outcome: of the message that was accepted");
    worker.receive(&[&later(&order, 5), &later(&probe(&order), 10)]).await;
    assert_eq!(replies(&worker), [again, asked], "recorded: of the message that asks");
}

#[tokio::test]
async fn one_slow_call_does_not_hold_up_other_commands() {
    let (books, gateway) = (books().await, Gateway::new(GOOD));
    let [slow, quick, next] = [execute("slow"), execute("quick"), execute("next")];
    let gate = gateway.hold(slow.command_id);
    let mut worker = Instance::start(&books.pool, &gateway).await;
    worker.receive(&[&slow, &quick]).await;
    worker.settle().await;
    assert_eq!(worker.outcomes(), [(Execute, Succeeded, 1)]);
    assert_eq!(worker.ask(&next).await, [(Execute, Succeeded, 1)]);
    assert_eq!(status(&books.pool, slow.command_id).await.unwrap(), "started");
    assert_eq!(worker.wire.uncommitted(), 0);
    gate.add_permits(1);
    worker.settle().await;
    assert_eq!(status(&books.pool, slow.command_id).await.unwrap(), "succeeded");
}

#[tokio::test]
async fn beyond_its_room_a_worker_accepts_and_begins_when_there_is_room_again() {
    let (books, gateway) = (books().await, Gateway::new(GOOD));
    let [first, second] = [execute("first"), execute("second")];
    let gate = gateway.hold(first.command_id);
    let mut worker = Instance::with(&books.pool, &gateway, 1).await;
    worker.receive(&[&first, &second]).await;
    worker.call();
    worker.recover().await;
    assert_eq!(status(&books.pool, second.command_id).await.unwrap(), "accepted");
    worker.receive(&[&second, &probe(&second)]).await;
    assert_eq!(worker.outcomes(), [(Execute, InFlight, 1), (Probe, InFlight, 1)]);
    gate.add_permits(1);
    worker.settle().await;
    worker.recover().await;
    worker.settle().await;
    assert_eq!(worker.outcomes(), [(Execute, Succeeded, 1), (Execute, Succeeded, 1)]);
    assert_eq!(gateway.calls(second.command_id), 1);
}

#[tokio::test]
async fn what_is_undone_before_it_begins_is_never_called() {
    let (books, gateway, order) = (books().await, Gateway::new(GOOD), execute("order"));
    let mut full = Instance::with(&books.pool, &gateway, 0).await;
    full.receive(&[&order]).await;
    full.receive(&[&compensate(&order), &order]).await;
    assert_eq!(full.outcomes(), [(Compensate, Succeeded, 1), (Execute, Fenced, 1)]);
    let mut worker = Instance::start(&books.pool, &gateway).await;
    worker.call();
    assert_eq!(gateway.calls(order.command_id), 0);
    assert_eq!(status(&books.pool, order.command_id).await.unwrap(), "tombstone");
}

#[tokio::test]
async fn a_compensation_during_the_call_is_remembered_and_runs_after_it() {
    let (books, gateway, order) = (books().await, Gateway::new(GOOD), execute("order"));
    let (key, undo) = (order.command_id, compensate(&order));
    let gate = gateway.hold(key);
    let mut worker = Instance::start(&books.pool, &gateway).await;
    worker.receive(&[&order]).await;
    worker.call();
    worker.receive(&[&undo]).await;
    worker.call();
    assert_eq!((worker.outcomes(), gateway.calls(undo.command_id)), (vec![(Compensate, InFlight, 1)], 0));

    let undo_gate = gateway.hold(undo.command_id);
    gate.add_permits(1);
    worker.settle().await;
    worker.call();
    assert_eq!(worker.outcomes(), [(Execute, Succeeded, 1)]);
    worker.receive(&[&undo, &order, &probe(&order), &fence(&order)]).await;
    let expected = [(Compensate, InFlight, 1), (Execute, Fenced, 1), (Probe, Fenced, 1), (Fence, Fenced, 1)];
    assert_eq!(
        (worker.outcomes(), status(&books.pool, key).await.unwrap().as_str()),
        (expected.to_vec(), "undoing")
    );

    undo_gate.add_permits(1);
    worker.settle().await;
    let done = worker.wire.replies().pop().unwrap();
    assert_eq!((done.kind, done.outcome, done.exposure[0].amount), (Compensate, Succeeded, -2500));
    worker.receive(&[&again(&undo, 2)]).await;
    let recorded = worker.wire.replies().pop().unwrap();
    assert_eq!((recorded.outcome, recorded.attempt, recorded.result), (Succeeded, 1, done.result));
    assert_eq!((gateway.effects(key), gateway.effects(undo.command_id)), (1, 1));
}

#[tokio::test]
async fn a_remembered_compensation_of_a_call_without_effect_has_nothing_to_undo() {
    let answers = [
        (Answer::refused("card_declined", ""), Refused, "refused"),
        (Answer::failed_for_now("http_503", ""), FailedTransient, "tombstone"),
        (Answer::failed_for_good("http_400", ""), FailedForGood, "tombstone"),
    ];
    for (answer, outcome, after) in answers {
        let (books, gateway, order) = (books().await, Gateway::new(GOOD), execute("order"));
        let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
        gateway.script(order.command_id, [Act::HeldThenSays(gate.clone(), answer)]);
        let mut worker = Instance::start(&books.pool, &gateway).await;
        worker.receive(&[&order, &compensate(&order)]).await;
        worker.call();
        gate.add_permits(1);
        worker.settle().await;
        let expected = [(Compensate, InFlight, 1), (Execute, outcome, 1), (Compensate, Succeeded, 1)];
        assert_eq!(worker.outcomes(), expected);
        worker.call();
        assert_eq!(gateway.calls(compensate(&order).command_id), 0);
        assert_eq!(status(&books.pool, order.command_id).await.unwrap(), after);
    }
}

#[tokio::test]
async fn a_transient_failure_is_called_for_again_by_a_higher_attempt_only() {
    let (books, gateway, order) = (books().await, Gateway::new(GOOD), execute("order"));
    gateway.script(order.command_id, [Act::Says(Answer::failed_for_now("http_503", ""))]);
    let mut worker = Instance::start(&books.pool, &gateway).await;
    assert_eq!(worker.ask(&order).await, [(Execute, FailedTransient, 1)]);
    worker.receive(&[&order, &probe(&order)]).await;
    assert_eq!(worker.outcomes(), [(Execute, FailedTransient, 1), (Probe, FailedTransient, 1)]);
    assert_eq!(worker.ask(&again(&order, 2)).await, [(Execute, Succeeded, 2)]);
    assert_eq!((gateway.calls(order.command_id), gateway.effects(order.command_id)), (2, 1));
}

#[tokio::test]
async fn what_cannot_be_read_stored_or_understood_holds_up_nobody() {
    let (books, gateway) = (books().await, Gateway::new(GOOD));
    let [good, newer, poison] = [execute("good"), execute("newer"), execute("poison")];
    let newer = Command { schema_version: SCHEMA_VERSION + 1, ..newer };
    let poison = Command { epoch: u32::MAX, ..poison };
    let mut worker = Instance::start(&books.pool, &gateway).await;
    worker.wire.put_bytes(b"\xff");
    worker.receive(&[&poison, &newer, &good]).await;
    worker.settle().await;
    assert_eq!(worker.outcomes(), [(Execute, Unsupported, 1), (Execute, Succeeded, 1)]);
    let dead_letters: Vec<i64> = worker.wire.dead_letters().iter().map(|(offset, _)| *offset).collect();
    assert_eq!((dead_letters, worker.wire.uncommitted()), (vec![1, 2], 0));
    assert_eq!(status(&books.pool, newer.command_id).await, None);
    assert_eq!(gateway.calls(poison.command_id), 0);
}

#[tokio::test]
async fn no_offset_moves_before_the_replies_are_acknowledged() {
    let (books, gateway, order) = (books().await, Gateway::new(GOOD), execute("order"));
    let mut worker = Instance::start(&books.pool, &gateway).await;
    worker.wire.set_broken(true);
    worker.wire.put(&[&order, &probe(&order)]);
    soon(worker.intake.run_once()).await.unwrap_err();
    assert_eq!(worker.wire.log(), ["rewind"]);
    worker.wire.set_broken(false);
    worker.receive(&[]).await;
    let replies = worker.outcomes();
    assert_eq!(replies, [(Execute, InFlight, 1), (Probe, InFlight, 1)], "the row is there already");
    worker.settle().await;
    assert_eq!((worker.outcomes(), gateway.calls(order.command_id)), (vec![(Execute, Succeeded, 1)], 1));
}

#[tokio::test]
async fn a_row_that_has_seen_a_newer_epoch_is_silent_to_older_commands() {
    let (books, gateway, order) = (books().await, Gateway::new(GOOD), execute("order"));
    let mut worker = Instance::start(&books.pool, &gateway).await;
    worker.ask(&order).await;
    let newer = Command { epoch: 1, ..order.clone() };
    worker.receive(&[&newer, &compensate(&order), &order]).await;
    let replies = worker.wire.replies();
    let replies: Vec<(Outcome, u32)> = replies.iter().map(|r| (r.outcome, r.epoch)).collect();
    assert_eq!(replies, [(Succeeded, 1)]);
    worker.call();
    assert_eq!(gateway.calls(compensate(&order).command_id), 0);
}
