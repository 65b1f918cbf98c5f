//! Ordinary updates touch no index. This runs in a test binary of its own: transactions of other tests on the same
//! server would keep dead rows from being pruned.

mod support;

use amends_engine::{
    core::{Change, Decision, Definition, Event, NewSaga, Occurrence, ReplyEvent, Saga, start, transition},
    port::{SagaStore, Wants, Write},
};
use amends_postgres::{Birth, conformance::World};
use amends_protocol::{Exposure, Json, Kind, Outcome, id};
use amends_workflows::order_fulfilment;
use support::world;
use uuid::Uuid;

/// Returns the write of a saga whose present step succeeds, decided by the core.
fn succeeded(definition: &Definition, saga: &Saga, step: &str) -> Write {
    assert_eq!(saga.step, step);
    let command_id = id::execute(saga.id, step, 0, 1);
    let reply = ReplyEvent {
        echo: None,
        command_id,
        kind: Kind::Execute,
        target: None,
        step: step.to_owned(),
        attempt: 1,
        outcome: Outcome::Succeeded,
        result: None,
        reason: None,
        exposure: vec![Exposure::new("money_captured", "EUR", 2500)],
    };
    let occurrence = Occurrence { event: Event::Replied(reply), at: saga.born_at, jitter: 0 };
    let Decision::Changed(change) = transition(definition, saga, &occurrence) else {
        panic!("{step} changes nothing")
    };
    Write {
        read_revision: saga.revision,
        saga: change.saga,
        entries: vec![change.entry],
        wants: Wants::default(),
    }
}

#[tokio::test]
async fn the_updates_of_an_orders_life_are_heap_only_but_the_last() {
    let world = world().await;
    let definition = order_fulfilment::definition(amends_workflows::Settings::default());
    let now = world.store().load(&[]).await.unwrap().now;
    let births: Vec<Change> = (0..330)
        .map(|_| {
            let id = id::at_slot(Uuid::now_v7(), 1);
            start(&definition, NewSaga { id, business_key: id.to_string(), trace: None }, &Json::null(), now)
        })
        .collect();
    let rows: Vec<Birth<'_>> = births.iter().map(|change| Birth { change, personal: None }).collect();
    world.store.create(&rows).await.unwrap();
    let mut sagas: Vec<Saga> = births.into_iter().map(|birth| birth.saga).collect();
    for step in ["reserve", "pay", "ship", "take"] {
        let writes: Vec<Write> = sagas.iter().map(|saga| succeeded(&definition, saga, step)).collect();
        for batch in 0..10 {
            let batch: Vec<Write> = writes.iter().skip(batch).step_by(10).cloned().collect();
            assert_eq!(world.store().commit(&batch).await.unwrap().written.len(), 33);
        }
        sagas = writes.into_iter().map(|write| write.saga).collect();
    }
    assert_eq!(world.counted("n_tup_upd", "sagas_").await, 4 * 330);
    let heap_only = world.counted("n_tup_hot_upd", "sagas_").await;
    // The last step ends the saga and removes it from the index of live sagas. Other writers on this server, in any
    // database, may keep pages from being pruned in between; an index in the way would leave no heap-only update.
    assert!(heap_only > 600, "{heap_only} of {}", 3 * 330);
}
