//! The simulated store and rows pass the conformance suites that Postgres passes.

use std::sync::Arc;

use amends_engine::core::{Change, Entry};
use amends_protocol::Json;
use amends_sim::{
    executor::World,
    rows::SimRows,
    store::SimStore,
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
