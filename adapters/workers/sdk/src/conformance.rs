//! The test suite for every [`Rows`]. A test file calls `amends_worker::conformance!(rows);`, with `async fn rows() ->
//! (impl Rows, _)` that creates an empty table and whatever must live as long.

use std::time::Duration;

use amends_protocol::{Command, Json, Kind, Outcome, SCHEMA_VERSION, id};
use chrono::{TimeDelta, Utc};
use uuid::Uuid;

use crate::{
    row::{AnswerDetails, CommandRow, Lease, Status},
    store::{Due, Locks, Rows},
};

/// Defines one test per function of the suite.
#[macro_export]
macro_rules! conformance {
    ($rows:path) => {
        $crate::conformance!($rows:
            only_what_is_not_known_is_inserted
            a_known_row_within_a_batch_of_new_ones_is_told
            who_inserts_last_waits_for_nobody_who_began_with_the_row
            what_is_due_is_locked_and_others_pass_it_over
            what_is_not_due_rests
            who_passes_over_leaves_what_others_hold_and_says_so
            what_is_unsure_is_due_apart_from_what_is_not
            what_is_written_in_a_transaction_that_is_dropped_was_never_written
            a_call_that_nobody_has_touched_is_settled
            an_outcome_is_not_written_where_a_compensation_is_remembered
            an_outcome_is_not_written_over_another_owners_attempt_or_doubt
        );
    };
    ($rows:path: $($name:ident)*) => {
        $(#[tokio::test]
        async fn $name() {
            let (rows, _kept) = $rows().await;
            $crate::conformance::$name(&rows).await;
        })*
    };
}

/// Creates the execute of a new saga, as an engine would send it.
pub fn execute() -> Command {
    let (saga_id, now) = (Uuid::now_v7(), Utc::now());
    Command {
        schema_version: SCHEMA_VERSION,
        command_id: id::execute(saga_id, "pay", 0, 1),
        kind: Kind::Execute,
        target: None,
        saga_id,
        slot: 7,
        business_key: "order".to_owned(),
        workflow: "order".to_owned(),
        workflow_version: 1,
        step: "pay".to_owned(),
        part: 0,
        generation: 1,
        attempt: 1,
        epoch: 0,
        issued_at: now,
        sent_at: Some(now),
        target_issued_at: None,
        resolved: None,
        deadline: now,
        reply_token: "token".to_owned(),
        payload: Json::null(),
    }
}

fn compensation(of: &Command) -> Command {
    let target = of.command_id;
    Command {
        command_id: id::of(Kind::Compensate, target),
        kind: Kind::Compensate,
        target: Some(target),
        target_issued_at: Some(of.issued_at),
        ..of.clone()
    }
}

/// Inserts a row that an owner is calling for; its lease ended one second ago, or ends in an hour.
async fn called(rows: &impl Rows, owner: Uuid, lapsed: bool) -> CommandRow {
    let command = execute();
    let now = rows.now().await.expect("the time");
    let until = now + if lapsed { TimeDelta::seconds(-1) } else { TimeDelta::hours(1) };
    CommandRow {
        status: Status::Started,
        lease: Some(Lease { owner: Some(owner), until }),
        started_at: Some(now),
        command: Some(command.clone()),
        ..CommandRow::new(&command)
    }
}

async fn insert(rows: &impl Rows, row: &CommandRow) {
    let inserted = rows.insert(std::slice::from_ref(row)).await.expect("it is inserted");
    assert!(inserted.contains(&row.key), "it was not known");
}

async fn read(rows: &impl Rows, key: Uuid) -> Option<CommandRow> {
    let mut tx = rows.begin().await.expect("a transaction");
    rows.get(&mut tx, &[key], Locks::Wait).await.expect("rows").rows.remove(&key)
}

/// Returns the row as it is once its call has succeeded.
fn succeeded(row: &CommandRow) -> CommandRow {
    let mut row = row.clone();
    row.settle(Status::settled(Outcome::Succeeded), AnswerDetails::default());
    row
}

/// A row inserted twice keeps its first content.
pub async fn only_what_is_not_known_is_inserted(rows: &impl Rows) {
    let (known, other) =
        (called(rows, Uuid::new_v4(), false).await, called(rows, Uuid::new_v4(), false).await);
    insert(rows, &known).await;
    let inserted = rows.insert(&[succeeded(&known), other.clone()]).await.expect("inserted");
    assert_eq!(inserted.into_iter().collect::<Vec<_>>(), [other.key]);
    assert_eq!(read(rows, known.key).await.map(|row| row.status), Some(Status::Started));
}

/// A trial must learn that one of its rows was known.
pub async fn a_known_row_within_a_batch_of_new_ones_is_told(rows: &impl Rows) {
    let (known, new) = (called(rows, Uuid::new_v4(), false).await, called(rows, Uuid::new_v4(), false).await);
    insert(rows, &known).await;
    let mut tx = rows.begin().await.expect("a transaction");
    assert!(!rows.insert_in(&mut tx, &[known, new.clone()]).await.expect("an answer"));
    drop(tx);
    assert_eq!(read(rows, new.key).await, None);
    let mut tx = rows.begin().await.expect("a transaction");
    assert!(rows.insert_in(&mut tx, std::slice::from_ref(&new)).await.expect("an answer"));
    rows.commit(tx).await.expect("a commit");
    assert_eq!(read(rows, new.key).await.map(|row| row.key), Some(new.key));
}

/// A transaction that began with its rows may be waiting for what a trial holds, so the trial must not wait for the
/// rows.
pub async fn who_inserts_last_waits_for_nobody_who_began_with_the_row(rows: &impl Rows) {
    let command = execute();
    let mut row = called(rows, Uuid::new_v4(), false).await;
    row.key = command.command_id;
    let mut first = rows.begin().await.expect("a transaction");
    rows.lock(&mut first, &[&command], Locks::Wait).await.expect("its row");
    let mut second = rows.begin().await.expect("a transaction");
    let inserted = rows.insert_in(&mut second, std::slice::from_ref(&row));
    let inserted = tokio::time::timeout(Duration::from_secs(60), inserted).await.expect("it waits");
    assert!(!inserted.expect("an answer"), "it is not new");
}

/// Two instances look for due rows: only one gets each row, until its transaction ends.
pub async fn what_is_due_is_locked_and_others_pass_it_over(rows: &impl Rows) {
    let row = called(rows, Uuid::new_v4(), true).await;
    insert(rows, &row).await;
    let mut first = rows.begin().await.expect("a transaction");
    let due = rows.due(&mut first, Due::Sure, 10).await.expect("what is due");
    assert!(due.rows.contains_key(&row.key));
    let mut second = rows.begin().await.expect("a transaction");
    let passed = rows.due(&mut second, Due::Sure, 10).await.expect("what is due");
    assert!(passed.rows.is_empty(), "another transaction holds it");
    drop((first, second));
    // The lock is released with the transaction, shortly after the drop.
    for _ in 0..1_000 {
        let mut third = rows.begin().await.expect("a transaction");
        if rows.due(&mut third, Due::Sure, 10).await.expect("what is due").rows.contains_key(&row.key) {
            return;
        }
    }
    panic!("nobody gets it after its transaction was dropped");
}

/// A lease that has not lapsed is respected.
pub async fn what_is_not_due_rests(rows: &impl Rows) {
    insert(rows, &called(rows, Uuid::new_v4(), false).await).await;
    let mut tx = rows.begin().await.expect("a transaction");
    assert!(rows.due(&mut tx, Due::Sure, 10).await.expect("what is due").rows.is_empty());
}

/// Nothing may be concluded about a row that another transaction holds, least of all that it does not exist.
pub async fn who_passes_over_leaves_what_others_hold_and_says_so(rows: &impl Rows) {
    let [held, free, new] = [execute(), execute(), execute()];
    for command in [&held, &free] {
        insert(rows, &CommandRow { status: Status::Succeeded, ..CommandRow::new(command) }).await;
    }
    let mut first = rows.begin().await.expect("a transaction");
    rows.get(&mut first, &[held.command_id], Locks::Wait).await.expect("the row");
    let mut second = rows.begin().await.expect("a transaction");
    let commands = [&held, &free, &new];
    let locked = rows.lock(&mut second, &commands, Locks::PassOver);
    let locked = tokio::time::timeout(Duration::from_secs(60), locked).await.expect("it waits");
    let locked = locked.expect("what is free");
    assert_eq!(locked.passed_over.into_iter().collect::<Vec<_>>(), [held.command_id]);
    assert_eq!(locked.rows.into_keys().collect::<Vec<_>>(), [free.command_id]);
    let passed = rows.get(&mut second, &[held.command_id], Locks::PassOver).await.expect("an answer");
    assert_eq!((passed.rows.len(), passed.passed_over.len()), (0, 1));
}

/// A search for rows that can be begun does not return rows that cannot be settled, however long they have been due.
pub async fn what_is_unsure_is_due_apart_from_what_is_not(rows: &impl Rows) {
    let (sure, unsure) = (called(rows, Uuid::new_v4(), true).await, called(rows, Uuid::new_v4(), true).await);
    for row in [&sure, &unsure] {
        insert(rows, row).await;
    }
    let mut tx = rows.begin().await.expect("a transaction");
    rows.get(&mut tx, &[unsure.key], Locks::Wait).await.expect("the row");
    rows.write(&mut tx, &[CommandRow { unsure: true, ..unsure.clone() }]).await.expect("written");
    rows.commit(tx).await.expect("a commit");
    for (which, row) in [(Due::Sure, &sure), (Due::Unsure, &unsure)] {
        let mut tx = rows.begin().await.expect("a transaction");
        let due = rows.due(&mut tx, which, 10).await.expect("what is due");
        assert_eq!(due.rows.into_keys().collect::<Vec<_>>(), [row.key], "{which:?}");
    }
}

/// A crash before the commit.
pub async fn what_is_written_in_a_transaction_that_is_dropped_was_never_written(rows: &impl Rows) {
    let row = called(rows, Uuid::new_v4(), false).await;
    insert(rows, &row).await;
    let mut tx = rows.begin().await.expect("a transaction");
    rows.get(&mut tx, &[row.key], Locks::Wait).await.expect("the row");
    rows.write(&mut tx, &[succeeded(&row)]).await.expect("written");
    drop(tx);
    assert_eq!(read(rows, row.key).await.map(|row| row.status), Some(Status::Started));
}

/// The plain case: nothing has happened to the row since its call began.
pub async fn a_call_that_nobody_has_touched_is_settled(rows: &impl Rows) {
    let owner = Uuid::new_v4();
    let row = called(rows, owner, false).await;
    insert(rows, &row).await;
    let settled = rows.settle(owner, &[succeeded(&row)]).await.expect("settled");
    assert!(settled.contains(&row.key));
    let after = read(rows, row.key).await.expect("the row");
    assert_eq!((after.status, after.lease, after.command), (Status::Succeeded, None, None));
}

/// A remembered compensation must be done; an outcome that does not know of it must not overwrite it.
pub async fn an_outcome_is_not_written_where_a_compensation_is_remembered(rows: &impl Rows) {
    let owner = Uuid::new_v4();
    let row = called(rows, owner, false).await;
    insert(rows, &row).await;
    let command = row.command.as_ref().expect("it has its command");
    let mut remembered = CommandRow { undo: Some(compensation(command)), ..row.clone() };
    let mut tx = rows.begin().await.expect("a transaction");
    rows.get(&mut tx, &[row.key], Locks::Wait).await.expect("the row");
    rows.write(&mut tx, std::slice::from_ref(&remembered)).await.expect("written");
    rows.commit(tx).await.expect("a commit");
    assert!(rows.settle(owner, &[succeeded(&row)]).await.expect("an answer").is_empty());
    let after = read(rows, row.key).await.expect("the row");
    remembered.lease = after.lease;
    assert_eq!((after.status, after.undo), (Status::Started, remembered.undo));
}

/// An instance that took the row over, tried again, or is unsure is not overruled by the previous caller.
pub async fn an_outcome_is_not_written_over_another_owners_attempt_or_doubt(rows: &impl Rows) {
    let owner = Uuid::new_v4();
    let row = called(rows, owner, false).await;
    let others = [
        called(rows, Uuid::new_v4(), false).await,
        CommandRow { attempt: 2, ..called(rows, owner, false).await },
        CommandRow { unsure: true, ..called(rows, owner, false).await },
    ];
    for other in others {
        // As in production, a row becomes unsure only after its insertion.
        insert(rows, &CommandRow { unsure: false, ..other.clone() }).await;
        let mut tx = rows.begin().await.expect("a transaction");
        rows.get(&mut tx, &[other.key], Locks::Wait).await.expect("the row");
        rows.write(&mut tx, std::slice::from_ref(&other)).await.expect("written");
        rows.commit(tx).await.expect("a commit");
        let mine = CommandRow { attempt: row.attempt, ..succeeded(&other) };
        assert!(rows.settle(owner, &[mine]).await.expect("an answer").is_empty());
        assert_eq!(read(rows, other.key).await.map(|row| row.status), Some(Status::Started));
    }
}
