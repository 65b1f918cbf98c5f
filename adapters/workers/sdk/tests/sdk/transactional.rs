//! The worker whose effects are stored in its own database.

use std::{sync::atomic::Ordering, time::Duration};

use amends_protocol::{Command, Json, Kind, Outcome, SCHEMA_VERSION};
use futures::future::join_all;
use serde_json::json;
use sqlx::PgPool;

use crate::{
    books::{books, effects, impatient, status},
    ledger::{Ledger, rows, settle, worker},
    messages::{about, again, compensate, execute, fence, probe},
    wire::Wire,
};

#[tokio::test]
async fn commands_for_one_row_in_one_batch_take_turns() {
    let (books, wire, order) = (books().await, Wire::default(), execute("order"));
    let undo = compensate(&order);
    let replies = settle(&books.pool, &wire, &[&order, &order, &undo, &order, &undo]).await;
    let expected = [
        (Kind::Execute, Outcome::Succeeded, 1),
        (Kind::Execute, Outcome::Succeeded, 1),
        (Kind::Compensate, Outcome::Succeeded, 1),
        (Kind::Execute, Outcome::Fenced, 1),
        (Kind::Compensate, Outcome::Succeeded, 1),
    ];
    assert_eq!(replies, expected);
    assert_eq!(effects(&books.pool, order.command_id).await, 1);
    assert_eq!(effects(&books.pool, undo.command_id).await, 1);
    assert_eq!(status(&books.pool, order.command_id).await.unwrap(), "undone");
}

#[tokio::test]
async fn a_compensation_that_comes_first_leaves_a_tombstone() {
    let (books, wire, order) = (books().await, Wire::default(), execute("order"));
    let replies = settle(&books.pool, &wire, &[&compensate(&order), &order]).await;
    let expected = [(Kind::Compensate, Outcome::Succeeded, 1), (Kind::Execute, Outcome::Fenced, 1)];
    assert_eq!(replies, expected);
    assert_eq!(effects(&books.pool, order.command_id).await, 0);
    assert_eq!(status(&books.pool, order.command_id).await.unwrap(), "tombstone");
}

#[tokio::test]
async fn a_poisonous_command_is_dead_lettered_alone() {
    let (books, wire, poison) = (books().await, Wire::default(), execute("poison"));
    let good: Vec<Command> = (0..6).map(|_| execute("order")).collect();
    let mut batch: Vec<&Command> = good.iter().collect();
    batch.insert(3, &poison);
    let replies = settle(&books.pool, &wire, &batch).await;
    assert_eq!(replies, [(Kind::Execute, Outcome::Succeeded, 1); 6]);
    for order in &good {
        assert_eq!(effects(&books.pool, order.command_id).await, 1);
    }
    assert_eq!(status(&books.pool, poison.command_id).await, None);
    let dead_letters = wire.dead_letters();
    assert!(
        dead_letters.len() == 1 && dead_letters[0].0 == 4 && dead_letters[0].1.contains("23514"),
        "{dead_letters:?}"
    );
    assert_eq!(wire.uncommitted(), 0, "the partition flows on");
}

#[tokio::test]
async fn bytes_that_are_no_command_are_dead_lettered_and_the_partition_flows() {
    let (books, wire, order) = (books().await, Wire::default(), execute("order"));
    wire.put_bytes(b"\xff\xfe not JSON");
    wire.put_bytes("[".repeat(1000).as_bytes());
    let untargeted = Command { target: None, ..probe(&order) };
    let replies = settle(&books.pool, &wire, &[&untargeted, &order]).await;
    assert_eq!(replies, [(Kind::Execute, Outcome::Succeeded, 1)]);
    assert_eq!(wire.dead_letters().iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(wire.uncommitted(), 0);
}

#[tokio::test]
async fn a_command_of_a_newer_format_is_answered_unsupported_and_leaves_nothing() {
    let (books, wire, order) = (books().await, Wire::default(), execute("order"));
    let newer = Command { schema_version: SCHEMA_VERSION + 1, ..order.clone() };
    assert_eq!(settle(&books.pool, &wire, &[&newer]).await, [(Kind::Execute, Outcome::Unsupported, 1)]);
    assert_eq!((rows(&books.pool).await, wire.dead_letters().len()), (0, 0));
    assert_eq!(settle(&books.pool, &wire, &[&order]).await, [(Kind::Execute, Outcome::Succeeded, 1)]);
}

#[tokio::test]
async fn instances_racing_on_the_same_commands_have_one_effect_and_one_undo() {
    let books = books().await;
    let orders: Vec<Command> = (0..40).map(|_| execute("order")).collect();
    let undos: Vec<Command> = orders.iter().map(compensate).collect();
    for commands in [&orders, &undos] {
        let wires: Vec<Wire> = (0..6).map(|_| Wire::default()).collect();
        let races = wires.iter().enumerate().map(|(n, wire)| {
            let mut batch: Vec<&Command> = commands.iter().collect();
            if n % 2 == 1 {
                batch.reverse();
            }
            wire.put(&batch);
            let mut worker = worker(&books.pool, wire, Ledger::default());
            tokio::spawn(async move { worker.run_once().await })
        });
        for done in join_all(races).await {
            done.unwrap().unwrap();
        }
        for command in commands {
            assert_eq!(effects(&books.pool, command.command_id).await, 1, "{:?}", command.kind);
        }
        for wire in wires {
            assert_eq!(wire.outcomes(), [(commands[0].kind, Outcome::Succeeded, 1); 40]);
        }
    }
}

#[tokio::test]
async fn a_crash_between_commit_and_reply_is_made_good_by_the_recorded_reply() {
    let (books, wire, order) = (books().await, Wire::default(), execute("order"));
    wire.put(&[&order]);
    wire.set_broken(true);
    worker(&books.pool, &wire, Ledger::default()).run_once().await.unwrap_err();
    assert_eq!(status(&books.pool, order.command_id).await.unwrap(), "succeeded", "committed");
    assert_eq!(wire.log(), ["rewind"], "no offset moves before the replies are acknowledged");

    wire.set_broken(false);
    let mut after = worker(&books.pool, &wire, Ledger::default());
    after.run_once().await.unwrap();
    let first = wire.replies().pop().unwrap();
    wire.put(&[&again(&order, 4)]);
    after.run_once().await.unwrap();
    let second = wire.replies().pop().unwrap();
    assert_eq!(first.outcome, Outcome::Succeeded);
    assert_eq!(first.result, Some(Json::from(json!({ "effect": order.command_id }))));
    assert_eq!((second.outcome, second.attempt, &second.result), (first.outcome, 1, &first.result));
    assert_eq!(effects(&books.pool, order.command_id).await, 1);
}

#[tokio::test]
async fn a_crash_before_the_commit_leaves_nothing_and_the_command_is_done_once() {
    let (books, wire, order) = (books().await, Wire::default(), execute("order"));
    wire.put(&[&order]);
    let stuck = Ledger { stuck: true, ..Ledger::default() };
    let mut crashing = worker(&books.pool, &wire, stuck.clone());
    let mut run = Box::pin(crashing.run_once());
    let begun = amends_testkit::eventually("it is at work", Duration::from_secs(60), || {
        let ended = futures::FutureExt::now_or_never(&mut run).is_some();
        let begun = ended || stuck.work.load(Ordering::Relaxed) == 1;
        async move { begun.then_some(!ended) }
    });
    assert!(begun.await, "it was to be in the middle");
    drop(run);
    drop(crashing);

    wire.restart();
    worker(&books.pool, &wire, Ledger::default()).run_once().await.unwrap();
    assert_eq!(wire.outcomes(), [(Kind::Execute, Outcome::Succeeded, 1)]);
    assert_eq!(effects(&books.pool, order.command_id).await, 1);
}

#[tokio::test]
async fn offsets_move_only_after_letters_and_replies_are_acknowledged() {
    let (books, wire, order) = (books().await, Wire::default(), execute("order"));
    wire.put_bytes(b"{");
    settle(&books.pool, &wire, &[&order]).await;
    assert_eq!(wire.log(), ["dead letter", "replies", "offsets"]);
}

#[tokio::test]
async fn without_its_database_no_offset_moves_and_nothing_is_a_dead_letter() {
    let (books, wire, order) = (books().await, Wire::default(), execute("order"));
    let pool = PgPool::connect(&books.url).await.unwrap();
    let mut worker = worker(&pool, &wire, Ledger::default());
    worker.run_once().await.unwrap();
    pool.close().await;
    wire.put(&[&order]);
    worker.run_once().await.unwrap_err();
    assert_eq!((wire.uncommitted(), wire.dead_letters().len(), wire.log().last()), (1, 0, Some(&"rewind")));
    assert!(!worker.health().readiness().is_ready());
}

#[tokio::test]
async fn a_refusal_stands_and_its_compensation_has_nothing_to_undo() {
    let (books, wire, order) = (books().await, Wire::default(), execute("refused"));
    wire.put(&[&order, &again(&order, 2), &probe(&order), &compensate(&order), &fence(&order)]);
    worker(&books.pool, &wire, Ledger::default()).run_once().await.unwrap();
    let replies = wire.replies();
    let outcomes: Vec<_> = replies.iter().map(|r| (r.kind, r.outcome)).collect();
    let expected = [
        (Kind::Execute, Outcome::Refused),
        (Kind::Execute, Outcome::Refused),
        (Kind::Probe, Outcome::Refused),
        (Kind::Compensate, Outcome::Succeeded),
        (Kind::Fence, Outcome::Refused),
    ];
    assert_eq!(outcomes, expected);
    assert_eq!(replies[2].reason.as_ref().unwrap().code, "out_of_stock", "the recorded reply");
    assert_eq!(status(&books.pool, order.command_id).await.unwrap(), "refused");
}

#[tokio::test]
async fn a_transient_failure_is_done_again_by_a_higher_attempt_only() {
    let (books, wire, order) = (books().await, Wire::default(), execute("fails once"));
    let failed = (Kind::Execute, Outcome::FailedTransient, 1);
    assert_eq!(settle(&books.pool, &wire, &[&order, &order]).await, [failed, failed]);
    let done = (Kind::Execute, Outcome::Succeeded, 2);
    assert_eq!(settle(&books.pool, &wire, &[&again(&order, 2), &order]).await, [done, done]);
    assert_eq!(effects(&books.pool, order.command_id).await, 1);
}

#[tokio::test]
async fn a_failure_for_good_is_answered_from_the_record_whatever_the_attempt() {
    let (books, wire, order) = (books().await, Wire::default(), execute("fails for good"));
    let replies = settle(&books.pool, &wire, &[&order, &again(&order, 7), &compensate(&order), &order]).await;
    let expected = [
        (Kind::Execute, Outcome::FailedForGood, 1),
        (Kind::Execute, Outcome::FailedForGood, 1),
        (Kind::Compensate, Outcome::Succeeded, 1),
        (Kind::Execute, Outcome::Fenced, 1),
    ];
    assert_eq!(replies, expected);
}

#[tokio::test]
async fn an_answer_that_nobody_knows_is_not_recorded() {
    let (books, wire, order) = (books().await, Wire::default(), execute("nobody knows"));
    assert_eq!(settle(&books.pool, &wire, &[&order]).await, [(Kind::Execute, Outcome::Unknown, 1)]);
    assert_eq!(rows(&books.pool).await, 0);
}

#[tokio::test]
async fn a_probe_or_an_expired_command_leaves_no_row() {
    let (books, wire, order) = (books().await, Wire::default(), execute("order"));
    let long_ago = chrono::Utc::now() - chrono::TimeDelta::days(15);
    let old = Command { issued_at: long_ago, ..execute("order") };
    let replies = settle(&books.pool, &wire, &[&probe(&order), &old, &compensate(&old), &fence(&old)]).await;
    let expected = [
        (Kind::Probe, Outcome::NotSeen, 1),
        (Kind::Execute, Outcome::Expired, 1),
        (Kind::Compensate, Outcome::Unknown, 1),
        (Kind::Fence, Outcome::Unknown, 1),
    ];
    assert_eq!(replies, expected);
    assert_eq!(rows(&books.pool).await, 0);
    assert_eq!(effects(&books.pool, old.command_id).await, 0);
}

#[tokio::test]
async fn a_row_that_has_seen_a_newer_epoch_is_silent_to_older_commands() {
    let (books, wire, order) = (books().await, Wire::default(), execute("order"));
    let newer = Command { epoch: 1, ..probe(&order) };
    let replies = settle(&books.pool, &wire, &[&order, &newer, &order, &compensate(&order)]).await;
    let expected = [(Kind::Execute, Outcome::Succeeded, 1), (Kind::Probe, Outcome::Succeeded, 1)];
    assert_eq!(replies, expected, "the older compensation has no effect and no answer");
    let stale = settle(&books.pool, &wire, &[&compensate(&order)]).await;
    assert_eq!(stale, [], "the epoch is written down");
    assert_eq!(status(&books.pool, order.command_id).await.unwrap(), "succeeded");
}

#[tokio::test]
async fn a_row_that_another_transaction_holds_holds_up_only_its_own_command() {
    let (books, wire) = (books().await, Wire::default());
    let pool = impatient(&books);
    let orders: Vec<Command> = (0..6).map(|_| execute("order")).collect();
    settle(&pool, &wire, &orders.iter().collect::<Vec<_>>()).await;
    let mut forgotten = books.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM commands WHERE command_id = $1 FOR UPDATE")
        .bind(orders[2].command_id)
        .execute(&mut *forgotten)
        .await
        .unwrap();
    let undos: Vec<Command> = orders.iter().map(compensate).collect();
    let replies = settle(&pool, &wire, &undos.iter().collect::<Vec<_>>()).await;
    assert_eq!(replies, [(Kind::Compensate, Outcome::Succeeded, 1); 5]);
    assert_eq!(status(&books.pool, orders[2].command_id).await.unwrap(), "succeeded", "it was passed over");
    assert_eq!(wire.uncommitted(), 0, "and left");
    forgotten.rollback().await.unwrap();
    // The engine sends it again.
    assert_eq!(settle(&pool, &wire, &[&undos[2]]).await, [(Kind::Compensate, Outcome::Succeeded, 1)]);
}

/// A row that another transaction is inserting is invisible, and so cannot be passed over.
#[tokio::test]
async fn a_row_that_another_transaction_is_inserting_holds_up_only_its_own_command() {
    let (books, wire) = (books().await, Wire::default());
    let pool = impatient(&books);
    let orders: Vec<Command> = (0..4).map(|_| execute("order")).collect();
    let mut forgotten = books.pool.begin().await.unwrap();
    sqlx::query("INSERT INTO commands (command_id, saga_id, status, attempt, epoch, issued_at) VALUES ($1, $1, 'accepted', 1, 0, now())")
        .bind(orders[1].command_id)
        .execute(&mut *forgotten)
        .await
        .unwrap();
    let undos: Vec<Command> = orders.iter().map(compensate).collect();
    let replies = settle(&pool, &wire, &undos.iter().collect::<Vec<_>>()).await;
    assert_eq!(replies, [(Kind::Compensate, Outcome::Succeeded, 1); 3], "tombstones");
    assert_eq!(wire.dead_letters(), []);
}

#[tokio::test]
async fn trap_11_a_fence_on_a_failed_row_leaves_a_tombstone() {
    let (books, wire, order) = (books().await, Wire::default(), execute("fails once"));
    let later = again(&order, 2);
    let replies = settle(&books.pool, &wire, &[&order, &fence(&order), &later]).await;
    let expected = [
        (Kind::Execute, Outcome::FailedTransient, 1),
        (Kind::Fence, Outcome::Fenced, 1),
        (Kind::Execute, Outcome::Fenced, 1),
    ];
    assert_eq!(replies, expected);
    assert_eq!(effects(&books.pool, order.command_id).await, 0);
}

#[tokio::test]
async fn trap_17_a_failed_undo_is_undone_by_a_later_attempt() {
    let (books, wire, order) = (books().await, Wire::default(), execute("undo fails once"));
    let undo = compensate(&order);
    let replies =
        settle(&books.pool, &wire, &[&order, &undo, &undo, &again(&undo, 2), &again(&undo, 3)]).await;
    let expected = [
        (Kind::Execute, Outcome::Succeeded, 1),
        (Kind::Compensate, Outcome::FailedTransient, 1),
        (Kind::Compensate, Outcome::FailedTransient, 1),
        (Kind::Compensate, Outcome::Succeeded, 2),
        (Kind::Compensate, Outcome::Succeeded, 2),
    ];
    assert_eq!(replies, expected);
    assert_eq!(effects(&books.pool, undo.command_id).await, 1);
}

#[tokio::test]
async fn trap_18_a_compensation_on_a_fences_tombstone_succeeds() {
    let (books, wire, order) = (books().await, Wire::default(), execute("order"));
    let replies =
        settle(&books.pool, &wire, &[&fence(&order), &about(Kind::Compensate, &order), &order]).await;
    let expected = [
        (Kind::Fence, Outcome::Fenced, 1),
        (Kind::Compensate, Outcome::Succeeded, 1),
        (Kind::Execute, Outcome::Fenced, 1),
    ];
    assert_eq!(replies, expected);
}
