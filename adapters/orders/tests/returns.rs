//! Returns and refunds: added under the lock of their order's row, however many ask at once. With
//! `AMENDS_TEST_CITUS` also on a Citus.

#[path = "../../postgres/tests/support/mod.rs"]
mod support;

use amends_engine::{
    core::{Change, Decision, Event, NewSaga, Occurrence, ReplyEvent, SagaOutcome, start, transition},
    port::{SagaStore, Wants, Write},
};
use amends_orders::{Added, NewOrder, NewOrderSaga, OrderStore, OrderView, Placed};
use amends_postgres::conformance::World;
use amends_protocol::{Json, Kind, Outcome, id};
use amends_workflows::{
    Settings, order_fulfilment,
    order_ledger::{RefundOf, Refusal, Standing},
    order_refund, order_return,
};
use chrono::{DateTime, Utc};
use futures::future::join_all;
use serde_json::json;
use support::{Postgres, worlds};
use uuid::Uuid;

/// Places an order of two mugs at 12.50 and fulfils it; returns its birth.
async fn fulfilled(world: &Postgres, store: &OrderStore) -> (Uuid, Change) {
    let now = store.now().await.unwrap();
    let line = json!({ "productId": "mug", "quantity": 2, "unitPrice": 1250 });
    let mut order = NewOrder {
        id: Uuid::now_v7(),
        saga: NewSaga { id: Uuid::now_v7(), business_key: String::new(), trace: None },
        subject: "storefront".into(),
        idempotency: None,
        customer_id: "c-1".into(),
        currency: "EUR".into(),
        total: 2500,
        lines: Json::from(json!([line])),
        data: Json::from(json!({
            "customerId": "c-1", "currency": "EUR", "total": 2500, "lines": [line], "paymentMethod": "card_approved",
        })),
        personal: Json::null(),
    };
    order.born(5, now);
    let definition = order_fulfilment::definition(Settings::default());
    let birth = |order: &NewOrder, now| start(&definition, order.saga.clone(), &order.data, now);
    let placed = store.place(now, std::slice::from_ref(&order), birth).await.unwrap();
    let [Placed::New { change, .. }] = placed.as_slice() else { panic!("{placed:?}") };
    let mut saga = change.saga.clone();
    for step in ["reserve", "pay", "ship", "take"] {
        let reply = ReplyEvent {
            echo: None,
            command_id: id::execute(saga.id, step, 0, 1),
            kind: Kind::Execute,
            target: None,
            step: step.to_owned(),
            attempt: 1,
            outcome: Outcome::Succeeded,
            result: None,
            reason: None,
            exposure: Vec::new(),
        };
        let occurrence = Occurrence { event: Event::Replied(reply), at: now, jitter: 0 };
        let Decision::Changed(next) = transition(&definition, &saga, &occurrence) else { panic!("{step}") };
        let write = Write {
            read_revision: saga.revision,
            saga: next.saga.clone(),
            entries: vec![next.entry],
            wants: Wants::default(),
        };
        assert_eq!(world.store().commit(&[write]).await.unwrap().written.len(), 1);
        saga = next.saga;
    }
    (order.id, *change.clone())
}

fn birth(order: Uuid, name: &str, input: &Json, now: DateTime<Utc>) -> Change {
    let definition = match name {
        order_return::NAME => order_return::definition(Settings::default()),
        _ => order_refund::definition(Settings::default()),
    };
    let id = id::dated(id::at_slot(Uuid::now_v7(), id::slot(order)), now);
    start(&definition, NewSaga { id, business_key: order.to_string(), trace: None }, input, now)
}

async fn give_back(store: &OrderStore, order: Uuid) -> Added<Refusal> {
    let plan = |view: &OrderView, now| {
        let input = view.ledger().plan_return(None, now)?;
        let change = birth(order, order_return::NAME, &Json::of(&input).unwrap(), now);
        let lines = Json::of(&input.lines).unwrap();
        Ok(NewOrderSaga {
            change,
            carries_status: true,
            amount: input.amount,
            lines,
            reason: "damaged".into(),
        })
    };
    store.add_saga(order, None, plan).await.unwrap()
}

async fn refund(store: &OrderStore, order: Uuid, amount: i64, request: Option<[u8; 32]>) -> Added<Refusal> {
    let plan = |view: &OrderView, now| {
        let input = view.ledger().plan_refund(&RefundOf::Amount(amount))?;
        let change = birth(order, order_refund::NAME, &Json::of(&input).unwrap(), now);
        let lines = Json::of(&input.lines).unwrap();
        Ok(NewOrderSaga { change, carries_status: false, amount, lines, reason: "late".into() })
    };
    store.add_saga(order, request, plan).await.unwrap()
}

fn count<E>(added: &[Added<E>], is: impl Fn(&Added<E>) -> bool) -> usize {
    added.iter().filter(|added| is(added)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_returns_at_once_one_is_added_and_its_label_is_the_order_s_status() {
    for world in worlds().await {
        let store = OrderStore::new(world.store.database().clone());
        let (order, first) = fulfilled(&world, &store).await;
        let view = store.get(order).await.unwrap().unwrap();
        assert_eq!((view.label.as_str(), view.sagas.is_none()), ("FULFILLED", true), "one saga, no ledger");
        assert!(view.fulfilled_at.is_some());
        let added = join_all((0..12).map(|_| give_back(&store, order))).await;
        assert_eq!(count(&added, |a| matches!(a, Added::Done(_))), 1, "{added:?}");
        assert_eq!(count(&added, |a| matches!(a, Added::Refused(Refusal::Status(_)))), 11, "{added:?}");

        let view = store.get(order).await.unwrap().unwrap();
        assert_eq!((view.label.as_str(), view.workflow.as_str()), ("RETURN_REQUESTED", order_return::NAME));
        assert_eq!((view.fulfilment(), view.fulfilled_at), (first.saga.id, view.fulfilled_at));
        let sagas = view.sagas.clone().unwrap();
        assert_eq!(
            sagas.iter().map(|saga| saga.workflow.as_str()).collect::<Vec<_>>(),
            ["order_fulfilment", "order_return"]
        );
        assert_eq!(
            (sagas[1].standing(), sagas[1].amount, sagas[1].reason.as_str()),
            (Standing::Requested, 2500, "damaged")
        );
        assert_eq!(id::slot(sagas[1].saga_id), id::slot(order), "an order's sagas share its slot");
        assert_eq!(store.sagas_of(order).await.unwrap(), [first.saga.id, sagas[1].saga_id]);
        // The history is that of both, in the order of their commits.
        let timeline = store.timeline(order).await.unwrap().unwrap();
        let view = store.get(order).await.unwrap().unwrap();
        assert_eq!(store.timeline_of(&view).await.unwrap(), timeline);
        assert_eq!(timeline.iter().map(|of| of.entry.revision).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 1]);
        assert_eq!(timeline[5].saga_id, sagas[1].saga_id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_refunds_at_once_no_more_are_added_than_was_captured() {
    for world in worlds().await {
        let store = OrderStore::new(world.store.database().clone());
        let (order, first) = fulfilled(&world, &store).await;
        let added = join_all((0..10).map(|_| refund(&store, order, 800, None))).await;
        assert_eq!(count(&added, |a| matches!(a, Added::Done(_))), 3, "{added:?}");
        let refused =
            |a: &Added<Refusal>| matches!(a, Added::Refused(Refusal::MoreThanCaptured { remaining: 100 }));
        assert!(count(&added, refused) >= 1, "{added:?}");
        let view = store.get(order).await.unwrap().unwrap();
        assert_eq!(
            (view.label.as_str(), view.order.saga_id),
            ("FULFILLED", first.saga.id),
            "no status of the order"
        );
        assert_eq!((view.ledger().remaining(), view.ledger().refunded()), (100, 0));
        let newest = store.newest(&[order]).await.unwrap()[&order];
        assert_eq!((newest, newest.others), (view.newest(), 3), "who waits for a change sees them");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_sent_again_adds_nothing() {
    for world in worlds().await {
        let store = OrderStore::new(world.store.database().clone());
        let (order, _) = fulfilled(&world, &store).await;
        let added = join_all((0..6).map(|_| refund(&store, order, 100, Some([7; 32])))).await;
        assert_eq!(count(&added, |a| matches!(a, Added::Done(_))), 1, "{added:?}");
        assert_eq!(count(&added, |a| matches!(a, Added::Known)), 5, "{added:?}");
        assert!(matches!(refund(&store, order, 100, Some([8; 32])).await, Added::Done(_)));
        let nobody = refund(&store, Uuid::now_v7(), 100, None).await;
        assert!(matches!(nobody, Added::NoOrder), "{nobody:?}");
        assert_eq!(store.get(order).await.unwrap().unwrap().ledger().remaining(), 2300);
    }
}

#[tokio::test]
async fn what_happened_to_an_order_before_some_place_is_that_of_all_its_sagas() {
    for world in worlds().await {
        let store = OrderStore::new(world.store.database().clone());
        let (order, _) = fulfilled(&world, &store).await;
        let Added::Done(back) = give_back(&store, order).await else { panic!("no return") };
        assert_eq!(back.saga.outcome, None::<SagaOutcome>);
        let positions: Vec<i64> = sqlx::query_scalar("SELECT position FROM timeline ORDER BY position")
            .fetch_all(world.owner())
            .await
            .unwrap();
        let before = async |position: i64| {
            let found = store.entries_before(&[(order, position)]).await.unwrap();
            found.get(&order).map(|entries| {
                entries.iter().map(|of| (of.workflow.clone(), of.entry.revision)).collect::<Vec<_>>()
            })
        };
        assert_eq!(before(positions[0]).await, None);
        let whole = before(positions[5] + 1).await.unwrap();
        assert_eq!(whole.len(), 6);
        assert_eq!(whole[5], ("order_return".to_owned(), 1));
        assert_eq!(before(positions[5]).await.unwrap().len(), 5);
    }
}
