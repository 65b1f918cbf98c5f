//! What any [`SagaStore`] must do. A test file of a store's says
//! `amends_postgres::conformance!(world);`, with `async fn world() -> impl World` that makes an empty store.

mod odd;

pub use odd::*;

use std::{collections::BTreeMap, time::Duration};

use amends_engine::{
    core::{
        CORE_VERSION, Call, Change, Definition, Did, Entry, Event, Known, Labels, Needs, NewSaga, Occurrence,
        Requires, RetryPolicy, STATE_VERSION, Saga, SagaOutcome, Step, StepKind, start,
    },
    port::{
        Committed, Deferral, DeferredReply, DeferredScan, DueScan, DueShare, Error, SagaStore, Stray, Wants,
        Write,
    },
};
use amends_protocol::{Json, Reason, transport::Inbound};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

use crate::odd_replies::OddRow;

/// A store, and what cannot be done or seen through its port.
pub trait World: Sync {
    /// The store.
    type Store: SagaStore;
    /// The store.
    fn store(&self) -> &Self::Store;
    /// Stores a new saga.
    fn create(&self, change: &Change, personal: &Json) -> impl Future<Output = ()>;
    /// A saga's entries, by revision.
    fn timeline(&self, saga_id: Uuid) -> impl Future<Output = Vec<Entry>>;
    /// How many strays are kept.
    fn strays(&self) -> impl Future<Output = usize>;
    /// What is noted of a saga's odd replies.
    fn odd_replies(&self, saga_id: Uuid) -> impl Future<Output = Vec<OddRow>>;
    /// Another transaction takes these rows, and keeps them until what it returns is dropped.
    fn hold(&self, sagas: &[Uuid]) -> impl Future<Output = Box<dyn Send>>;
}

/// Makes a test of each.
#[macro_export]
macro_rules! conformance {
    ($world:path) => {
        $crate::conformance!($world:
            what_was_born_is_read_back
            a_write_replaces_the_row_and_adds_its_entries
            what_is_written_has_an_outcome_a_reason_and_no_timer
            the_write_of_a_zombie_changes_nothing
            of_two_writers_of_one_revision_one_is_answered
            a_stale_write_does_not_stop_its_batch
            inputs_come_back_as_far_as_they_are_wanted
            what_cannot_be_stored_is_a_data_error_and_writes_nothing
            a_nul_within_json_is_stored_and_read_back
            the_longest_overdue_come_first_and_no_more_than_asked_for
            what_is_due_at_some_steps_is_found_apart_from_the_rest
            nothing_is_due_before_its_time_by_the_stores_clock
            only_live_sagas_of_the_slots_are_due
            only_what_the_program_knows_is_due_and_keeps_its_time_otherwise
            a_row_that_another_transaction_holds_is_passed_over_and_stops_nobody
            a_held_row_is_not_rescheduled_and_others_are
            a_deferred_reply_is_kept_once_and_read_by_programs_that_can_judge_it
            a_deferred_reply_of_another_slot_waits_for_its_owner_first
            a_program_hears_what_the_others_know_that_live
            rescheduling_changes_only_when_it_wakes
            rescheduling_a_saga_that_moved_on_changes_nothing
            those_that_changed_lately_are_in_flight
            those_that_sleep_beyond_are_found_page_by_page
            a_stray_is_kept_once
            odd_replies_are_counted_by_saga_and_reason_and_the_last_of_each_is_kept
            an_odd_reply_of_a_saga_that_is_not_here_leaves_nothing
            nothing_asked_is_nothing_answered
        );
    };
    ($world:path: $($name:ident)*) => {
        $(#[tokio::test]
        async fn $name() {
            $crate::conformance::$name(&$world().await).await;
        })*
    };
}

/// A workflow of two steps, for tests.
pub fn errand() -> Definition {
    let step = |name, kind| Step {
        name,
        participant: "errands",
        kind,
        retry: RetryPolicy::attempts(Some(5)),
        undo_retry: RetryPolicy::attempts(Some(5)),
        deadline: Duration::from_secs(10),
        label_done: None,
        label_undone: "UNDONE",
        needs: Needs::Personal,
        parts: |_| 1,
        payload: |call: &Call<'_>| call.input.data.clone(),
        may_hold: |_| Vec::new(),
    };
    Definition {
        name: "errand",
        version: 1,
        labels: Labels { initial: "NEW", undoing: "UNDOING", cancelled: "CANCELLED" },
        timeout: None,
        unknown_patience: amends_engine::core::UNKNOWN_PATIENCE,
        steps: vec![step("fetch", StepKind::Compensatable), step("carry", StepKind::Pivot)],
    }
}

/// The birth of an errand.
pub fn birth(slot: u16, now: DateTime<Utc>) -> Change {
    birth_with(&Json::from(json!({"slot": slot})), slot, now)
}

/// The birth of an errand with this input.
pub fn birth_with(input: &Json, slot: u16, now: DateTime<Utc>) -> Change {
    let id = Uuid::now_v7();
    start(&errand(), NewSaga { id, slot, business_key: format!("errand {id}") }, input, now)
}

/// A next row: the entries are wake-ups, the last of them at `at`.
pub fn moved(saga: &Saga, entries: u32, at: DateTime<Utc>) -> Write {
    let entry = |n| Entry {
        revision: saga.revision + n,
        core_version: saga.core_version,
        occurrence: Occurrence { event: Event::Woke, at, jitter: 7 },
        did: Did { sent: vec![format!("fetch execute {n}")], ..Did::default() },
    };
    let next = Saga { revision: saga.revision + entries, ..saga.clone() };
    Write {
        read_revision: saga.revision,
        saga: next,
        entries: (1..=entries).map(entry).collect(),
        wants: Wants::default(),
    }
}

const NONE: [Uuid; 0] = [];

async fn now(world: &impl World) -> DateTime<Utc> {
    world.store().load(&[]).await.expect("the store answers").now
}

async fn load(world: &impl World, id: Uuid) -> Saga {
    let mut sagas = world.store().load(&[id]).await.expect("the store answers").sagas;
    sagas.pop().expect("the saga is there")
}

async fn commit(world: &impl World, writes: &[Write]) -> Vec<Uuid> {
    let answered = world.store().commit(writes).await.expect("the store writes");
    let mut ids: Vec<Uuid> = answered.written.into_iter().map(|inputs| inputs.saga_id).collect();
    ids.sort();
    ids
}

/// A new saga in the store, changed before it got there.
async fn stored(world: &impl World, slot: u16, change: impl FnOnce(&mut Saga, DateTime<Utc>)) -> Saga {
    let now = now(world).await;
    let mut birth = birth(slot, now);
    change(&mut birth.saga, now);
    world.create(&birth, &Json::from(json!({"name": "Test"}))).await;
    birth.saga
}

/// What a program knows that does errands.
pub fn known() -> Known {
    let workflows = vec![("errand".to_owned(), 1)];
    Known { workflows, core_version: CORE_VERSION, state_version: STATE_VERSION }
}

/// A look for errands in these slots.
pub fn scan(slots: &[u16]) -> DueScan {
    DueScan {
        slots: slots.to_vec(),
        known: known(),
        passed_over: Vec::new(),
        not_before: None,
        overdue: Duration::ZERO,
        share: DueShare::All,
        limit: 100,
    }
}

async fn due(world: &impl World, scan: &DueScan) -> Vec<Uuid> {
    world.store().due(scan).await.expect("the store answers").sagas.iter().map(|saga| saga.id).collect()
}

/// Row, first entry and time come back as they went in.
pub async fn what_was_born_is_read_back(world: &impl World) {
    let birth = birth(7, now(world).await);
    world.create(&birth, &Json::null()).await;
    let loaded = world.store().load(&[Uuid::now_v7(), birth.saga.id]).await.unwrap();
    assert_eq!(loaded.sagas, std::slice::from_ref(&birth.saga));
    assert!(loaded.now >= birth.saga.born_at);
    assert_eq!(world.timeline(birth.saga.id).await, [birth.entry]);
}

/// Several entries at once, without a gap.
pub async fn a_write_replaces_the_row_and_adds_its_entries(world: &impl World) {
    let saga = stored(world, 1, |_, _| {}).await;
    let first = moved(&saga, 3, now(world).await);
    assert_eq!(commit(world, std::slice::from_ref(&first)).await, [saga.id]);
    let second = moved(&first.saga, 2, now(world).await);
    assert_eq!(commit(world, std::slice::from_ref(&second)).await, [saga.id]);
    assert_eq!(load(world, saga.id).await, second.saga);
    let timeline = world.timeline(saga.id).await;
    assert_eq!(timeline.iter().map(|entry| entry.revision).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(timeline[1..4], first.entries);
    assert_eq!(timeline[4..], second.entries);
}

/// Everything that a row may say.
pub async fn what_is_written_has_an_outcome_a_reason_and_no_timer(world: &impl World) {
    let saga = stored(world, 1, |_, _| {}).await;
    let now = now(world).await;
    let mut write = moved(&saga, 1, now);
    write.saga = Saga {
        label: "CANCELLED".into(),
        heading_for: Some("CANCELLED".into()),
        reason: Some(Reason::new("changed_mind", "says “no” ✗")),
        outcome: Some(SagaOutcome::Undone),
        parked: true,
        live: false,
        wake_at: None,
        step: "carry".into(),
        since: now,
        ..write.saga
    };
    commit(world, std::slice::from_ref(&write)).await;
    assert_eq!(load(world, saga.id).await, write.saga);
    let again = moved(&write.saga, 1, now);
    let again = Write { saga: Saga { outcome: Some(SagaOutcome::Completed), ..again.saga }, ..again };
    commit(world, std::slice::from_ref(&again)).await;
    assert_eq!(load(world, saga.id).await.outcome, Some(SagaOutcome::Completed));
}

/// The revision is the fence.
pub async fn the_write_of_a_zombie_changes_nothing(world: &impl World) {
    let saga = stored(world, 1, |_, _| {}).await;
    let at = now(world).await;
    let (write, zombie) = (moved(&saga, 1, at), moved(&saga, 2, at));
    commit(world, std::slice::from_ref(&write)).await;
    assert_eq!(commit(world, &[zombie]).await, NONE);
    assert_eq!(load(world, saga.id).await, write.saga);
    assert_eq!(world.timeline(saga.id).await.len(), 2);
}

/// Whoever comes second, at the same time, changes nothing.
pub async fn of_two_writers_of_one_revision_one_is_answered(world: &impl World) {
    for _ in 0..20 {
        let saga = stored(world, 1, |_, _| {}).await;
        let at = now(world).await;
        let (one, two) = ([moved(&saga, 1, at)], [moved(&saga, 1, at)]);
        let (one, two) = tokio::join!(commit(world, &one), commit(world, &two));
        assert_eq!(one.len() + two.len(), 1);
        assert_eq!(world.timeline(saga.id).await.len(), 2);
    }
}

/// Those that still have the revision are written, and answered.
pub async fn a_stale_write_does_not_stop_its_batch(world: &impl World) {
    let at = now(world).await;
    let mut sagas = Vec::new();
    for slot in 0..5 {
        sagas.push(stored(world, slot, |_, _| {}).await);
    }
    commit(world, &[moved(&sagas[2], 1, at)]).await;
    let batch: Vec<Write> = sagas.iter().rev().map(|saga| moved(saga, 2, at)).collect();
    let mut fresh: Vec<Uuid> = sagas.iter().map(|saga| saga.id).filter(|id| *id != sagas[2].id).collect();
    fresh.sort();
    assert_eq!(commit(world, &batch).await, fresh);
    for saga in &sagas {
        let revision = if saga.id == sagas[2].id { 2 } else { 3 };
        assert_eq!(load(world, saga.id).await.revision, revision);
        assert_eq!(world.timeline(saga.id).await.len(), revision as usize);
    }
}

/// With a commit as far as wanted; by themselves, all.
pub async fn inputs_come_back_as_far_as_they_are_wanted(world: &impl World) {
    let (data, personal) = (Json::from(json!({"lines": [1, 2.5, "ü"]})), Json::from(json!({"name": "Test"})));
    for (wants, expected) in [
        (Wants { data: false, personal: false }, (Json::null(), None)),
        (Wants { data: true, personal: false }, (data.clone(), None)),
        (Wants { data: false, personal: true }, (Json::null(), Some(personal.clone()))),
        (Wants { data: true, personal: true }, (data.clone(), Some(personal.clone()))),
    ] {
        let birth = birth_with(&data, 1, now(world).await);
        world.create(&birth, &personal).await;
        let write = Write { wants, ..moved(&birth.saga, 1, birth.saga.born_at) };
        let answer = world.store().commit(&[write]).await.unwrap().written.pop().unwrap();
        assert_eq!((answer.data, answer.personal), expected, "{wants:?}");
        let all = world.store().inputs(&[birth.saga.id]).await.unwrap().pop().unwrap();
        assert_eq!(
            (all.saga_id, all.data, all.personal),
            (birth.saga.id, data.clone(), Some(personal.clone()))
        );
    }
    let impersonal = birth_with(&data, 1, now(world).await);
    world.create(&impersonal, &Json::null()).await;
    let all = world.store().inputs(&[impersonal.saga.id]).await.unwrap().pop().unwrap();
    assert_eq!((all.data, all.personal), (data, None));
}

/// A NUL in a column fails as data; the others of the batch can then be written without it.
pub async fn what_cannot_be_stored_is_a_data_error_and_writes_nothing(world: &impl World) {
    let (good, bad) = (stored(world, 1, |_, _| {}).await, stored(world, 1, |_, _| {}).await);
    let at = now(world).await;
    let sound = moved(&good, 1, at);
    let (mut label, mut heading) = (moved(&bad, 1, at), moved(&bad, 1, at));
    label.saga.label = "NUL \0".into();
    heading.saga.heading_for = Some("NUL \0".into());
    for poison in [label, heading] {
        let refused = world.store().commit(&[sound.clone(), poison]).await;
        assert!(matches!(refused, Err(Error::Data(_))), "{refused:?}");
        assert_eq!((load(world, good.id).await, load(world, bad.id).await), (good.clone(), bad.clone()));
    }
    assert_eq!(commit(world, &[sound]).await, [good.id]);
    assert_eq!((world.timeline(good.id).await.len(), world.timeline(bad.id).await.len()), (2, 1));
}

/// JSON can say what text cannot hold.
pub async fn a_nul_within_json_is_stored_and_read_back(world: &impl World) {
    let odd = birth(1, now(world).await);
    world.create(&odd, &Json::null()).await;
    let mut write = moved(&odd.saga, 1, odd.saga.born_at);
    write.saga.state.poisoned = Some(Reason::new("nul", "\0"));
    write.entries[0].did.parked = Some(Reason::new("nul", "\0"));
    assert_eq!(commit(world, std::slice::from_ref(&write)).await, [odd.saga.id]);
    assert_eq!(load(world, odd.saga.id).await, write.saga);
    assert_eq!(world.timeline(odd.saga.id).await[1], write.entries[0]);
}

/// By `wake_at`, across slots.
pub async fn the_longest_overdue_come_first_and_no_more_than_asked_for(world: &impl World) {
    let mut by_age = BTreeMap::new();
    for (slot, seconds) in [(1, 30), (2, 50), (1, 10), (3, 40), (2, 20)] {
        let saga =
            stored(world, slot, |saga, now| saga.wake_at = Some(now - TimeDelta::seconds(seconds))).await;
        by_age.insert(-seconds, saga.id);
    }
    let oldest_first: Vec<Uuid> = by_age.into_values().collect();
    assert_eq!(due(world, &scan(&[1, 2, 3])).await, oldest_first);
    assert_eq!(due(world, &DueScan { limit: 2, ..scan(&[1, 2, 3]) }).await, oldest_first[..2]);
    let lately = DueScan { not_before: Some(now(world).await - TimeDelta::seconds(35)), ..scan(&[1, 2, 3]) };
    assert_eq!(due(world, &lately).await, oldest_first[2..]);
    let long = DueScan { overdue: Duration::from_secs(35), ..scan(&[1, 2, 3]) };
    assert_eq!(due(world, &long).await, oldest_first[..2]);
}

/// Those that wait for somebody who is away are looked at by themselves.
pub async fn what_is_due_at_some_steps_is_found_apart_from_the_rest(world: &impl World) {
    let mut by_age = Vec::new();
    for (step, seconds) in [("pay", 30), ("ship", 20), ("pay", 10)] {
        let due = |saga: &mut Saga, now| {
            step.clone_into(&mut saga.step);
            saga.wake_at = Some(now - TimeDelta::seconds(seconds));
        };
        by_age.push(stored(world, 1, due).await.id);
    }
    let of = |share| DueScan { share, ..scan(&[1]) };
    assert_eq!(due(world, &of(DueShare::All)).await, by_age);
    assert_eq!(due(world, &of(DueShare::At(vec!["pay", "take"]))).await, [by_age[0], by_age[2]]);
    assert_eq!(due(world, &of(DueShare::NotAt(vec!["pay", "take"]))).await, [by_age[1]]);
    assert!(due(world, &of(DueShare::At(Vec::new()))).await.is_empty());
}

/// Asked again and again until it is due: not before `wake_at`.
pub async fn nothing_is_due_before_its_time_by_the_stores_clock(world: &impl World) {
    stored(world, 1, |saga, now| saga.wake_at = Some(now + TimeDelta::hours(1))).await;
    let saga = stored(world, 1, |saga, now| saga.wake_at = Some(now + TimeDelta::milliseconds(100))).await;
    let loaded = loop {
        let loaded = world.store().due(&scan(&[1])).await.unwrap();
        if !loaded.sagas.is_empty() {
            break loaded;
        }
    };
    assert_eq!(loaded.sagas, std::slice::from_ref(&saga));
    assert!(Some(loaded.now) >= saga.wake_at, "{} is before {:?}", loaded.now, saga.wake_at);
}

/// Neither what has ended, nor what has no timer, nor what lives elsewhere.
pub async fn only_live_sagas_of_the_slots_are_due(world: &impl World) {
    let overdue = |saga: &mut Saga, now| saga.wake_at = Some(now - TimeDelta::seconds(1));
    let here = stored(world, 1, overdue).await;
    let elsewhere = stored(world, 2, overdue).await;
    stored(world, 1, |saga, now| {
        overdue(saga, now);
        saga.live = false;
    })
    .await;
    stored(world, 1, |saga, _| saga.wake_at = None).await;
    assert_eq!(due(world, &scan(&[1])).await, [here.id]);
    assert_eq!(due(world, &scan(&[2, 900])).await, [elsewhere.id]);
    assert_eq!(due(world, &scan(&[])).await, NONE);
    // Live again, as an orphan makes it.
    let write = moved(&here, 1, here.born_at);
    commit(world, &[Write { saga: Saga { live: false, ..write.saga.clone() }, ..write.clone() }]).await;
    assert_eq!(due(world, &scan(&[1])).await, NONE);
    commit(world, &[moved(&write.saga, 1, here.born_at)]).await;
    assert_eq!(due(world, &scan(&[1])).await, [here.id]);
}

/// A newer program's sagas are that program's to wake: what this one does not know it does not see, nor move.
pub async fn only_what_the_program_knows_is_due_and_keeps_its_time_otherwise(world: &impl World) {
    let overdue = |saga: &mut Saga, now| saga.wake_at = Some(now - TimeDelta::seconds(9));
    let older = stored(world, 1, overdue).await;
    let newer = stored(world, 1, |saga, now| {
        overdue(saga, now);
        saga.workflow_version = 2;
    })
    .await;
    let knows = |version| ("errand".to_owned(), version);
    let all = Known { workflows: vec![knows(1), knows(2)], ..known() };
    let one_at_a_time = DueScan { limit: 1, ..scan(&[1]) };
    assert_eq!(due(world, &one_at_a_time).await, [older.id]);
    assert_eq!(due(world, &DueScan { passed_over: vec![older.id], ..one_at_a_time.clone() }).await, NONE);
    assert_eq!(due(world, &DueScan { known: Known::default(), ..scan(&[1]) }).await, NONE);
    let mut both = due(world, &DueScan { known: all, ..scan(&[1]) }).await;
    both.sort();
    assert_eq!(both, [older.id, newer.id]);
    assert_eq!(load(world, newer.id).await, newer);
}

/// Whatever else is in the batch is written, and what is held is said to be.
pub async fn a_row_that_another_transaction_holds_is_passed_over_and_stops_nobody(world: &impl World) {
    let at = now(world).await;
    let mut sagas = Vec::new();
    for slot in [1, 1, 2] {
        sagas.push(stored(world, slot, |_, _| {}).await);
    }
    commit(world, &[moved(&sagas[2], 1, at)]).await;
    let batch: Vec<Write> = sagas.iter().map(|saga| moved(saga, 1, at)).collect();
    let held = world.hold(&[sagas[0].id]).await;
    let Committed { written, locked } = world.store().commit(&batch).await.unwrap();
    assert_eq!(written.iter().map(|inputs| inputs.saga_id).collect::<Vec<_>>(), [sagas[1].id]);
    assert_eq!(locked, [sagas[0].id], "the third is stale, and not held");
    assert_eq!(load(world, sagas[0].id).await, sagas[0]);
    let again = world.store().commit(&batch[..1]).await.unwrap();
    assert_eq!((again.written.len(), again.locked), (0, vec![sagas[0].id]));
    drop(held);
    // The transaction ends a moment after it is dropped.
    while commit(world, &batch[..1]).await.is_empty() {}
    for saga in &sagas {
        assert_eq!(load(world, saga.id).await.revision, 2);
        assert_eq!(world.timeline(saga.id).await.len(), 2);
    }
}

/// Waking it later is worth no wait.
pub async fn a_held_row_is_not_rescheduled_and_others_are(world: &impl World) {
    let overdue = |saga: &mut Saga, now| saga.wake_at = Some(now - TimeDelta::seconds(1));
    let (one, two) = (stored(world, 1, overdue).await, stored(world, 1, overdue).await);
    let later = Some(one.born_at + TimeDelta::seconds(60));
    let _held = world.hold(&[one.id]).await;
    let passed_over = world.store().reschedule(&[(one.id, 1, later), (two.id, 1, later)]).await.unwrap();
    assert_eq!(passed_over, [one.id]);
    assert_eq!(due(world, &scan(&[1])).await, [one.id]);
}

fn deferred_reply(saga_id: Uuid, workflow_version: u32, core_version: u16, rest: Duration) -> DeferredReply {
    DeferredReply {
        message: Inbound {
            topic: "saga.replies".to_owned(),
            partition: 3,
            offset: 7,
            traceparent: None,
            signature: None,
            bytes: format!("{{\"version\":\"{workflow_version}\",\"text\":\"ü\"}}").into_bytes(),
        },
        saga_id,
        slot: 1,
        requires: Requires {
            workflow: "errand".to_owned(),
            workflow_version,
            core_version,
            state_version: STATE_VERSION,
        },
        why: Deferral::UnknownWorkflow,
        rest,
    }
}

fn deferred_scan(slots: &[u16]) -> DeferredScan {
    DeferredScan { known: known(), slots: slots.to_vec(), abroad: Duration::ZERO, limit: 10 }
}

/// However often it is received; it stays until it is forgotten.
pub async fn a_deferred_reply_is_kept_once_and_read_by_programs_that_can_judge_it(world: &impl World) {
    let (saga, store) = (Uuid::now_v7(), world.store());
    let mine = deferred_reply(saga, 1, CORE_VERSION, Duration::ZERO);
    let newer_workflow = deferred_reply(saga, 2, CORE_VERSION, Duration::ZERO);
    let newer_core = deferred_reply(Uuid::now_v7(), 1, 99, Duration::ZERO);
    store.defer(&[newer_workflow.clone(), mine.clone(), newer_core]).await.unwrap();
    store.defer(std::slice::from_ref(&mine)).await.unwrap();
    let found = store.deferred(&deferred_scan(&[1])).await.unwrap();
    assert_eq!(found, [(mine.id(), mine.message.clone())]);
    assert_eq!(
        store.deferred(&deferred_scan(&[1])).await.unwrap().len(),
        1,
        "it stays until it is forgotten"
    );
    // It waits for something else now, and is due later.
    store.defer(&[DeferredReply { rest: Duration::from_secs(60), ..mine.clone() }]).await.unwrap();
    assert_eq!(store.deferred(&deferred_scan(&[1])).await.unwrap(), []);
    let newer = Known { workflows: vec![("errand".to_owned(), 2)], ..known() };
    let newer = DeferredScan { known: newer, ..deferred_scan(&[1]) };
    assert_eq!(store.deferred(&newer).await.unwrap().len(), 1);
    store.forget_deferred(&[newer_workflow.id(), mine.id()]).await.unwrap();
    assert_eq!(store.deferred(&newer).await.unwrap(), []);
}

/// For so long as the look says.
pub async fn a_deferred_reply_of_another_slot_waits_for_its_owner_first(world: &impl World) {
    let reply = deferred_reply(Uuid::now_v7(), 1, CORE_VERSION, Duration::ZERO);
    world.store().defer(std::slice::from_ref(&reply)).await.unwrap();
    let abroad = DeferredScan { abroad: Duration::from_secs(60), ..deferred_scan(&[2]) };
    assert_eq!(world.store().deferred(&abroad).await.unwrap(), []);
    assert_eq!(world.store().deferred(&deferred_scan(&[2])).await.unwrap().len(), 1);
    let own = DeferredScan { slots: vec![1], ..abroad };
    assert_eq!(world.store().deferred(&own).await.unwrap().len(), 1);
}

/// Itself left out.
pub async fn a_program_hears_what_the_others_know_that_live(world: &impl World) {
    let (store, hour) = (world.store(), Duration::from_secs(3600));
    let (one, two) = (Uuid::now_v7(), Uuid::now_v7());
    let newer = Known { workflows: vec![("errand".to_owned(), 1), ("errand".to_owned(), 2)], ..known() };
    assert_eq!(store.announce(one, &known(), hour).await.unwrap(), []);
    assert_eq!(store.announce(two, &known(), hour).await.unwrap(), [known()]);
    assert_eq!(store.announce(two, &newer, hour).await.unwrap(), [known()]);
    assert_eq!(store.announce(one, &known(), hour).await.unwrap(), [newer]);
    assert_eq!(store.announce(one, &known(), Duration::ZERO).await.unwrap(), [], "it was seen before that");
}

/// Neither revision nor timeline.
pub async fn rescheduling_changes_only_when_it_wakes(world: &impl World) {
    let saga = stored(world, 1, |saga, now| saga.wake_at = Some(now - TimeDelta::seconds(1))).await;
    let later = saga.born_at + TimeDelta::seconds(60);
    world.store().reschedule(&[(saga.id, saga.revision, Some(later))]).await.unwrap();
    assert_eq!(due(world, &scan(&[1])).await, NONE);
    assert_eq!(load(world, saga.id).await, Saga { wake_at: Some(later), ..saga.clone() });
    assert_eq!(world.timeline(saga.id).await.len(), 1);
}

/// Whoever wrote meanwhile knows better when to wake.
pub async fn rescheduling_a_saga_that_moved_on_changes_nothing(world: &impl World) {
    let saga = stored(world, 1, |_, _| {}).await;
    let write = moved(&saga, 1, saga.born_at);
    commit(world, std::slice::from_ref(&write)).await;
    world.store().reschedule(&[(saga.id, saga.revision, None)]).await.unwrap();
    assert_eq!(load(world, saga.id).await, write.saga);
}

/// Live ones of the slots, in pages by id.
pub async fn those_that_changed_lately_are_in_flight(world: &impl World) {
    let now = now(world).await;
    let mut fresh = Vec::new();
    for _ in 0..3 {
        fresh.push(stored(world, 1, |_, _| {}).await.id);
    }
    stored(world, 2, |_, _| {}).await;
    stored(world, 1, |saga, _| saga.live = false).await;
    let old = birth(1, now - TimeDelta::seconds(60));
    world.create(&old, &Json::null()).await;
    fresh.sort();
    let within = Duration::from_secs(30);
    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let page = world.store().in_flight(&[1, 3], within, after, 2).await.unwrap();
        assert!(page.now >= now);
        let Some(last) = page.sagas.last() else { break };
        after = Some(last.id);
        pages.extend(page.sagas.iter().map(|saga| saga.id));
    }
    assert_eq!(pages, fresh);
    // What is old and has just changed may have issued a command.
    commit(world, &[moved(&old.saga, 1, now)]).await;
    let found = world.store().in_flight(&[1], within, None, 10).await.unwrap().sagas;
    assert!(found.iter().any(|saga| saga.id == old.saga.id));
}

/// However often its reply comes.
pub async fn a_stray_is_kept_once(world: &impl World) {
    let stray = |command_id| Stray {
        saga_id: Uuid::nil(),
        command_id,
        reply: Json::from(json!({"outcome": "succeeded"})),
    };
    let (one, two) = (stray(Uuid::now_v7()), stray(Uuid::now_v7()));
    world.store().keep_strays(std::slice::from_ref(&one)).await.unwrap();
    world.store().keep_strays(&[two, one]).await.unwrap();
    assert_eq!(world.strays().await, 2);
}

/// Empty batches are no errors.
pub async fn nothing_asked_is_nothing_answered(world: &impl World) {
    let store = world.store();
    assert_eq!(store.load(&[]).await.unwrap().sagas, []);
    assert_eq!(store.load(&[Uuid::now_v7()]).await.unwrap().sagas, []);
    assert_eq!(store.commit(&[]).await.unwrap(), Committed::default());
    assert_eq!(store.inputs(&[Uuid::now_v7()]).await.unwrap(), []);
    store.reschedule(&[]).await.unwrap();
    store.keep_strays(&[]).await.unwrap();
    store.note_odd(&[]).await.unwrap();
    store.defer(&[]).await.unwrap();
    store.forget_deferred(&[]).await.unwrap();
}

/// By `wake_at`, each once; neither ended ones nor those of other slots.
pub async fn those_that_sleep_beyond_are_found_page_by_page(world: &impl World) {
    let (hour, minute) = (TimeDelta::hours(1), Duration::from_secs(60));
    let sleeping = |slot, live, after: TimeDelta| {
        stored(world, slot, move |saga, now| (saga.live, saga.wake_at) = (live, Some(now + after)))
    };
    let mut expected = Vec::new();
    for n in 0..3 {
        expected.push(sleeping(n, true, hour * (3 - i32::from(n))).await.id);
    }
    expected.reverse();
    sleeping(1, true, TimeDelta::seconds(30)).await;
    sleeping(1, false, hour).await;
    sleeping(9, true, hour).await;
    let (mut found, mut after) = (Vec::new(), None);
    while let Some(saga) =
        world.store().sleeping_beyond(&[0, 1, 2], minute, after, 1).await.unwrap().sagas.pop()
    {
        after = saga.wake_at.map(|at| (at, saga.id));
        found.push(saga.id);
    }
    assert_eq!(found, expected);
}
