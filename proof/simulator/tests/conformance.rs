//! The simulated store and rows pass the conformance suites that Postgres passes.

use std::sync::Arc;

use amends_engine::{
    core::{Change, Entry},
    port::OddReason,
};
use amends_postgres::odd_replies::OddRow;
use amends_protocol::Json;
use amends_sim::{
    executor::World,
    rows::SimRows,
    store::{OddNote, SimStore},
    world::{Handle, OUTSIDE, WorldState},
};
use uuid::Uuid;

struct Instant(SimStore);

/// Rows are held until this is dropped.
struct Held(Handle);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.state().store.held.clear();
    }
}

async fn world() -> Instant {
    let mut state = WorldState::new(1, &[], 0);
    state.instant = true;
    Instant(SimStore(Handle { world: World::new(state) as Arc<World>, process: OUTSIDE }))
}

impl amends_postgres::conformance::World for Instant {
    type Store = SimStore;

    fn store(&self) -> &SimStore {
        &self.0
    }

    async fn create(&self, change: &Change, personal: &Json) {
        self.0.0.state().store.create(change, personal);
    }

    async fn timeline(&self, saga_id: Uuid) -> Vec<Entry> {
        self.0.0.state().store.sagas[&saga_id].timeline()
    }

    async fn strays(&self) -> usize {
        self.0.0.state().store.strays.len()
    }

    async fn odd_replies(&self, saga_id: Uuid) -> Vec<OddRow> {
        let state = self.0.0.state();
        let of_saga = state.store.odd.iter().filter(|((id, _), _)| *id == saga_id);
        let row = |((_, reason), note): (&(Uuid, OddReason), &OddNote)| OddRow {
            reason: reason.as_str().to_owned(),
            dead_lettered: reason.is_dead_lettered(),
            count: note.count.cast_signed(),
            first_at: note.first_at,
            last_at: note.last_at,
            topic: note.last.topic.clone(),
            partition: note.last.partition,
            offset: note.last.offset,
            command_id: note.last.says.as_ref().map(|says| says.command_id),
            step: note.last.says.as_ref().and_then(|says| says.step.clone()),
            kind: note.last.says.as_ref().map(|says| says.kind.as_str().to_owned()),
            outcome: note.last.says.as_ref().map(|says| says.outcome.as_str().to_owned()),
            attempt: note.last.says.as_ref().map(|says| says.attempt.cast_signed()),
        };
        of_saga.map(row).collect()
    }

    async fn hold(&self, sagas: &[Uuid]) -> Box<dyn Send> {
        let handle = self.0.0.clone();
        handle.state().store.held.extend(sagas.iter().map(|saga| (*saga, u64::MAX)));
        Box::new(Held(handle))
    }
}

amends_postgres::conformance!(world);

mod rows {
    use super::*;

    async fn rows() -> (SimRows, ()) {
        (SimRows { handle: world().await.0.0, database: 0 }, ())
    }

    amends_worker::conformance!(rows);
}
