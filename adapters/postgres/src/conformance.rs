//! The test suite for every [`SagaStore`]. A store's test file calls `amends_postgres::conformance!(world);`, with
//! `async fn world() -> impl World` that creates an empty store.

mod due;
mod odd;
mod replies;
mod writes;

pub use {due::*, odd::*, replies::*, writes::*};

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
use amends_protocol::{Json, Reason, id, transport::Inbound};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

use crate::odd_replies::OddRow;

/// A store, and operations that its port does not offer.
pub trait World: Sync {
    /// The store.
    type Store: SagaStore;
    /// The store.
    fn store(&self) -> &Self::Store;
    /// Stores a new saga.
    fn create(&self, change: &Change, personal: &Json) -> impl Future<Output = ()>;
    /// Returns a saga's entries, by revision.
    fn timeline(&self, saga_id: Uuid) -> impl Future<Output = Vec<Entry>>;
    /// Returns the number of stored strays.
    fn strays(&self) -> impl Future<Output = usize>;
    /// Returns what is stored about a saga's odd replies.
    fn odd_replies(&self, saga_id: Uuid) -> impl Future<Output = Vec<OddRow>>;
    /// Locks these rows in another transaction, until the returned value is dropped.
    fn hold(&self, sagas: &[Uuid]) -> impl Future<Output = Box<dyn Send>>;
}

/// Defines one test per function of the suite. The argument creates a world; after `optional` it returns an `Option`, and
/// without a world the tests do nothing.
#[macro_export]
macro_rules! conformance {
    (@run always $world:path, $name:ident) => {
        $crate::conformance::$name(&$world().await).await
    };
    (@run optional $world:path, $name:ident) => {
        if let Some(world) = $world().await {
            $crate::conformance::$name(&world).await
        }
    };
    (@tests $kind:ident $world:path: $($name:ident)*) => {
        $(#[tokio::test]
        async fn $name() {
            $crate::conformance!(@run $kind $world, $name);
        })*
    };
    (@suite $kind:ident $world:path) => {
        $crate::conformance!(@tests $kind $world:
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
    (optional: $world:path) => {
        $crate::conformance!(@suite optional $world);
    };
    ($world:path) => {
        $crate::conformance!(@suite always $world);
    };
}

/// A workflow of two steps, for tests.
pub fn errand() -> Definition {
    let step = |name, kind| Step {
        name,
        participant: "errands",
        signal: None,
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
        relabel: |_| Vec::new(),
        timeout: None,
        unknown_patience: amends_engine::core::UNKNOWN_PATIENCE,
        steps: vec![step("fetch", StepKind::Compensatable), step("carry", StepKind::Pivot)],
    }
}

/// Creates the birth of an errand.
pub fn birth(slot: u16, now: DateTime<Utc>) -> Change {
    birth_with(&Json::from(json!({"slot": slot})), slot, now)
}

/// Creates the birth of an errand with this input.
pub fn birth_with(input: &Json, slot: u16, now: DateTime<Utc>) -> Change {
    let id = id::at_slot(Uuid::now_v7(), slot);
    start(&errand(), NewSaga { id, business_key: format!("errand {id}"), trace: None }, input, now)
}

/// Creates a next row: the entries are wake-ups, the last of them at `at`.
pub fn moved(saga: &Saga, entries: u32, at: DateTime<Utc>) -> Write {
    let entry = |n| Entry {
        revision: saga.revision + n,
        core_version: saga.core_version,
        epoch: 0,
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

/// Creates a saga that was changed before it was stored.
async fn stored(world: &impl World, slot: u16, change: impl FnOnce(&mut Saga, DateTime<Utc>)) -> Saga {
    let now = now(world).await;
    let mut birth = birth(slot, now);
    change(&mut birth.saga, now);
    world.create(&birth, &Json::from(json!({"name": "Test"}))).await;
    birth.saga
}

/// Returns what a program that knows errands knows.
pub fn known() -> Known {
    let workflows = vec![("errand".to_owned(), 1)];
    Known { workflows, core_version: CORE_VERSION, state_version: STATE_VERSION }
}

/// Creates a scan for errands in these slots.
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
