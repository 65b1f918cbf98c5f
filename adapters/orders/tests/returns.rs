//! Returns and refunds: added under the lock of their order's row, however many ask at once. With
//! `AMENDS_TEST_CITUS` also on a Citus.

#[path = "../../postgres/tests/support/mod.rs"]
mod support;

use std::time::Duration;

use amends_engine::{
    core::{Change, Decision, Event, NewSaga, Occurrence, ReplyEvent, SagaOutcome, start, transition},
    port::{SagaStore, Wants, Write},
};
use amends_orders::{
    Added, Asked, Erasure, KeyedRequest, NewOrder, NewOrderSaga, OrderStore, OrderView, Placed,
    answers::REFUND_ANSWER_LIFETIME,
};
use amends_postgres::{
    conformance::World,
    retention::History,
    upkeep::{Upkeep, Walk},
};
use amends_protocol::{Json, Kind, Outcome, id};
use amends_workflows::{
    Settings, order_fulfilment,
    order_ledger::{RefundOf, Refusal, Standing},
    order_refund, order_return,
};
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use serde_json::json;
use sqlx::AssertSqlSafe;
use support::{Postgres, world, worlds};
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
        personal: Json::from(json!({ "contact": { "email": "a@example.org" } })),
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

/// A request of this key for a refund of this amount.
fn keyed(key: u8, amount: i64) -> KeyedRequest {
    let fingerprint = u8::try_from(amount % 251).unwrap();
    KeyedRequest {
        request: [key; 32],
        fingerprint: [fingerprint; 32],
        lifetime: REFUND_ANSWER_LIFETIME,
        asked: Asked { amount: Some(amount), pieces: None, reason: "late".into() },
    }
}

async fn refund(
    store: &OrderStore,
    order: Uuid,
    amount: i64,
    request: Option<&KeyedRequest>,
) -> Added<Refusal> {
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
        let request = keyed(7, 100);
        let added = join_all((0..6).map(|_| refund(&store, order, 100, Some(&request)))).await;
        assert_eq!(count(&added, |a| matches!(a, Added::Done(_))), 1, "{added:?}");
        assert_eq!(count(&added, |a| matches!(a, Added::Known)), 5, "{added:?}");
        assert!(matches!(refund(&store, order, 100, Some(&keyed(8, 100))).await, Added::Done(_)));
        let nobody = refund(&store, Uuid::now_v7(), 100, None).await;
        assert!(matches!(nobody, Added::NoOrder), "{nobody:?}");
        assert_eq!(store.get(order).await.unwrap().unwrap().ledger().remaining(), 2300);
    }
}

#[tokio::test]
async fn another_request_with_the_key_is_refused_and_the_key_is_free_again_once_its_time_is_over() {
    let world = world().await;
    let store = OrderStore::new(world.pool());
    let (order, _) = fulfilled(&world, &store).await;
    let (first, other) = (keyed(7, 100), keyed(7, 200));
    let again = async |request: &KeyedRequest| {
        refund(&store, order, request.asked.amount.unwrap(), Some(request)).await
    };
    assert!(matches!(again(&first).await, Added::Done(_)));
    let run = async |sql: &str| {
        sqlx::query(AssertSqlSafe(sql.to_owned())).execute(world.owner()).await.unwrap();
    };
    // As an older program has added it, and once its reason is erased.
    for change in ["reason = reason", "fingerprint = NULL", "reason = ''"] {
        run(&format!("UPDATE order_sagas SET {change} WHERE request IS NOT NULL")).await;
        let (known, reused) = (again(&first).await, again(&other).await);
        assert!(
            matches!((&known, &reused), (Added::Known, Added::KeyReused)),
            "{change}: {known:?}, {reused:?}"
        );
    }
    run("UPDATE order_sagas SET created_at = now() - interval '30 days' + interval '1 minute'").await;
    assert!(matches!(again(&first).await, Added::Known));
    run("UPDATE order_sagas SET created_at = now() - interval '30 days'").await;
    assert!(matches!(again(&other).await, Added::Done(_)));
    let (known, reused) = (again(&other).await, again(&first).await);
    assert!(matches!((&known, &reused), (Added::Known, Added::KeyReused)), "{known:?}, {reused:?}");
    assert_eq!(store.get(order).await.unwrap().unwrap().ledger().remaining(), 2200);
}

#[tokio::test]
async fn the_saga_that_fulfils_an_order_is_known_by_its_workflow_also_if_a_return_has_the_lesser_id() {
    let world = world().await;
    let store = OrderStore::new(world.pool());
    let (order, first) = fulfilled(&world, &store).await;
    let before = store.get(order).await.unwrap().unwrap();
    let Added::Done(back) = give_back(&store, order).await else { panic!("no return") };
    // As after the clock was set back by an hour.
    let id = id::dated(back.saga.id, back.saga.born_at - TimeDelta::hours(1));
    for (table, column) in
        [("sagas", "id"), ("timeline", "saga_id"), ("orders", "saga_id"), ("order_sagas", "saga_id")]
    {
        let sql = format!("UPDATE {table} SET {column} = $1 WHERE {column} = $2");
        sqlx::query(AssertSqlSafe(sql)).bind(id).bind(back.saga.id).execute(world.owner()).await.unwrap();
    }
    let view = store.get(order).await.unwrap().unwrap();
    assert_eq!((view.fulfilment(), view.order.saga_id), (first.saga.id, id));
    assert_eq!(view.fulfilled_at, before.fulfilled_at);
    assert!(store.personal_data_of(order).await.unwrap().is_some());
    let erased = store.erase_personal_data("c-1", "eve", &["RETURN_REQUESTED"]).await.unwrap();
    assert!(matches!(erased, Erasure::Erased { orders: 1, .. }), "{erased:?}");
    assert_eq!(store.personal_data_of(order).await.unwrap(), None);
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

const RETENTION: Duration = Duration::from_secs(400 * 24 * 3600);

/// Drops the months, and then the leftovers, that are past their retention; returns how many leftovers.
async fn retire_all(world: &Postgres) -> u64 {
    let upkeep = Upkeep::new(world.pool());
    let mut gone = 0;
    for what in History::ALL {
        while upkeep.retire_month(what, RETENTION).await.unwrap().is_some() {}
        gone += upkeep.forget_leftovers(what, RETENTION, &mut Walk::default()).await.unwrap();
    }
    gone
}

/// Moves the birth of an order and the saga that fulfils it, and that of its return, into the past; returns the order's id.
async fn move_back(world: &Postgres, order: Uuid, months: i32, back: Uuid, months_of_return: i32) -> Uuid {
    let sql = format!(
        "CREATE OR REPLACE FUNCTION moved(id uuid, months integer) RETURNS uuid LANGUAGE sql AS $$
             SELECT (left(least_id(date_trunc('month', now()) - make_interval(months => months) + interval '10 days')::text, 13)
                     || right(id::text, 23))::uuid $$;
         SELECT ensure_month(now() - make_interval(months => m)) FROM UNNEST(ARRAY[{months}, {months_of_return}]) AS m;
         CREATE TEMP TABLE moves ON COMMIT DROP AS
             SELECT saga_id AS id, moved(saga_id, m) AS new, m FROM order_sagas,
                    LATERAL (SELECT CASE saga_id WHEN '{back}' THEN {months_of_return} ELSE {months} END AS m) AS of
             WHERE order_id = '{order}';
         UPDATE timeline AS t SET saga_id = new, at = t.at - make_interval(months => m) FROM moves WHERE t.saga_id = moves.id;
         UPDATE personal AS p SET saga_id = new FROM moves WHERE p.saga_id = moves.id;
         UPDATE order_sagas AS x SET saga_id = new, order_id = moved('{order}', {months}) FROM moves WHERE x.saga_id = moves.id;
         UPDATE orders SET id = moved('{order}', {months}), created_at = created_at - make_interval(months => {months}),
                saga_id = (SELECT new FROM moves WHERE moves.id = saga_id) WHERE id = '{order}';
         UPDATE sagas AS s SET id = new, business_key = moved('{order}', {months}), born_at = born_at - make_interval(months => m),
                updated_at = updated_at - make_interval(months => m) FROM moves WHERE s.id = moves.id"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(world.owner()).await.unwrap();
    sqlx::query_scalar("SELECT moved($1, $2)")
        .bind(order)
        .bind(months)
        .fetch_one(world.owner())
        .await
        .unwrap()
}

#[tokio::test]
async fn an_order_s_history_is_kept_while_a_return_of_it_is_so_that_its_money_and_its_numbers_stay_right() {
    let world = world().await;
    let store = OrderStore::new(world.pool());
    let end = async |updated: &str| {
        let sql = format!(
            "UPDATE sagas SET outcome = 'completed', label = 'RETURNED', step = 'restock', updated_at = {updated}
             WHERE workflow = 'order_return'"
        );
        sqlx::query(AssertSqlSafe(sql)).execute(world.owner()).await.unwrap();
    };
    // Its return waits for a decision, or has ended two months ago.
    for (months_of_return, has_ended) in [(15, false), (2, true)] {
        let (order, _) = fulfilled(&world, &store).await;
        let Added::Done(back) = give_back(&store, order).await else { panic!("no return") };
        let order = move_back(&world, order, 17, back.saga.id, months_of_return).await;
        if has_ended {
            end("updated_at").await;
        }
        assert_eq!(retire_all(&world).await, 0);
        let view = store.get(order).await.unwrap().unwrap();
        assert!(view.fulfilled_at.is_some());
        assert_eq!((view.ledger().captured(), view.ledger().entries.len()), (2500, 1));
        let earlier = store.entries_before(&[(order, i64::MAX)]).await.unwrap();
        assert_eq!(earlier[&order].len(), 6, "none is numbered twice");
        assert_eq!(store.timeline_of(&view).await.unwrap().len(), 6);

        // Once it has ended and rested for as long, all of it goes.
        end("now() - interval '399 days'").await;
        assert_eq!(retire_all(&world).await, 0);
        assert!(store.get(order).await.unwrap().is_some());
        if has_ended {
            break;
        }
        end("now() - interval '401 days'").await;
        assert_eq!(retire_all(&world).await, 3, "its two sagas, and it");
        assert_eq!(store.get(order).await.unwrap(), None);
    }
}

#[tokio::test]
async fn nothing_is_added_to_an_order_once_the_saga_that_fulfilled_it_is_gone_and_its_money_is_shown_still() {
    let world = world().await;
    let store = OrderStore::new(world.pool());
    let (order, first) = fulfilled(&world, &store).await;
    assert!(matches!(give_back(&store, order).await, Added::Done(_)));
    for (table, column) in [("timeline", "saga_id"), ("sagas", "id")] {
        let sql = format!("DELETE FROM {table} WHERE {column} = $1");
        sqlx::query(AssertSqlSafe(sql)).bind(first.saga.id).execute(world.owner()).await.unwrap();
    }
    let view = store.get(order).await.unwrap().unwrap();
    assert_eq!((view.fulfilled_at, view.ledger().captured(), view.fulfilment()), (None, 2500, first.saga.id));
    let added = refund(&store, order, 100, None).await;
    assert!(matches!(added, Added::NoOrder), "{added:?}");
}
