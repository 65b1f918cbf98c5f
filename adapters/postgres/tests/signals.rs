//! A saga that waits for a signal: neither live nor parked, and not ended.

mod support;

use std::time::Duration;

use amends_engine::{
    core::{Catalog, Definition, SagaState, SignalStep, Step, StepKind},
    port::SagaStore,
};
use amends_postgres::{
    admin::{Admin, Filter},
    conformance::{World, errand, moved},
    upkeep::{Count, Survey, Upkeep, Walk},
};
use chrono::TimeDelta;
use support::world;
use uuid::Uuid;

/// The errand's workflow, with a step that waits for a signal.
fn asking() -> Catalog {
    let mut definition: Definition = errand();
    let deadline = Some(Duration::from_secs(86_400));
    let signal = Step::signal("ask", StepKind::Compensatable);
    let signal = Step { signal: signal.signal.map(|signal| SignalStep { deadline, ..signal }), ..signal };
    definition.steps.insert(0, signal);
    Catalog::new(vec![definition]).unwrap()
}

#[tokio::test]
async fn who_waits_for_a_signal_is_running_counted_and_never_stuck() {
    let world = world().await;
    let upkeep = Upkeep::new(world.pool()).of_workflows(&asking());
    let mut waiting = Vec::new();
    // Without a deadline it has no timer; with one it has, and is live.
    for live in [false, true] {
        let saga = world.errand(1).await;
        let mut write = moved(&saga, 1, saga.born_at);
        (write.saga.step, write.saga.live) = ("ask".to_owned(), live);
        write.saga.wake_at = live.then(|| saga.born_at + TimeDelta::days(1));
        write.saga.since -= TimeDelta::hours(1);
        assert_eq!(world.store().commit(&[write]).await.unwrap().written.len(), 1);
        waiting.push(saga.id);
    }
    let admin = Admin::new(world.pool());
    let listed = async |filter: Filter| {
        let page = admin.list(&Filter { limit: 10, ..filter }).await.unwrap();
        let mut ids: Vec<Uuid> = page.items.into_iter().map(|item| item.id).collect();
        ids.sort();
        ids
    };
    let running = Filter { states: vec![SagaState::Running], ..Filter::default() };
    assert_eq!(listed(running).await, waiting);
    assert_eq!(listed(Filter { steps: vec!["ask".into()], ..Filter::default() }).await, waiting);
    let aged = Filter { older_than: Some(Duration::from_secs(60)), ..Filter::default() };
    assert_eq!(listed(aged).await, waiting);

    let minutes = Duration::from_secs(300);
    assert_eq!(upkeep.mark_stuck(minutes, &mut Walk::default()).await.unwrap(), [] as [Uuid; 0]);
    assert_eq!(upkeep.sweep_missed().await.unwrap(), [] as [Uuid; 0]);
    let counts = upkeep.count_some(&mut Survey::default()).await.unwrap().unwrap();
    let expected = Count { workflow: "errand".into(), state: SagaState::Running, sagas: 2, stuck: 0 };
    assert_eq!(counts.sagas, [expected]);
    // A saga at any other step that has stood still for as long is stuck.
    let other = Upkeep::new(world.pool());
    assert_eq!(other.mark_stuck(minutes, &mut Walk::default()).await.unwrap(), waiting[1..]);
}
