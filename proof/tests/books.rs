//! The books must detect violations: every invariant is violated on purpose, and each violation is found.

use amends_proof::books::{self, Action, DeadLetter, Ledger, Poison, Sources};
use amends_testkit::TestDatabase;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

/// Violations on purpose; each comment names the invariant.
const ENGINE: &str = "
-- 3 and 8: it has ended, and its timeline is not there. 5: nothing of it took effect. 7: nobody was told of it.
INSERT INTO sagas (home, id, since, born_at, updated_at, revision, workflow_version, slot, core_version, state_version, live,
                   parked, outcome, workflow, business_key, step, label, state)
VALUES (0, '00000000-0000-7000-8000-000000000001', now(), now(), now(), 3, 1, 1, 1, 1, false, false, 'completed',
        'order_fulfilment', 'a', 'take', 'FULFILLED', '{\"direction\":\"ended\",\"commands\":[]}'),
-- 9: its payment has succeeded, and no worker knows of it. 11: it was undone, and nothing compensated the payment.
       (0, '00000000-0000-7000-8000-000000000002', now(), now(), now(), 1, 1, 1, 1, 1, false, false, 'undone',
        'order_fulfilment', 'b', 'pay', 'CANCELLED',
        '{\"direction\":\"ended\",\"commands\":[{\"step\":1,\"issuedAt\":1,\"status\":\"succeeded\"}]}'),
-- 13: neither ended nor parked.
       (0, '00000000-0000-7000-8000-000000000003', now(), now(), now(), 2, 1, 1, 1, 1, true, false, NULL,
        'order_fulfilment', 'c', 'reserve', 'PENDING', '{\"direction\":\"forward\",\"commands\":[]}');
INSERT INTO orders (home, id, saga_id, created_at, total, subject, customer_id, currency, lines)
VALUES (0, '00000000-0000-7000-8000-00000000000a', '00000000-0000-7000-8000-000000000001', now(), 100, 's', 'c', 'EUR',
        '[{\"quantity\":1}]');
-- 10: the clock moved it though nothing was due. 12: an incident.
INSERT INTO timeline (home, saga_id, at, batch, revision, slot, body)
VALUES (0, '00000000-0000-7000-8000-000000000003', now(), 1, 1, 1,
        '{\"event\":{\"started\":{\"lines\":[]}},\"did\":{\"label\":\"PENDING\"}}'),
       (0, '00000000-0000-7000-8000-000000000003', now(), 1, 2, 1, '{\"event\":\"woke\",\"did\":{\"incident\":\"late_success\"}}');
";
/// 1: stock on hand without a move. 6: moved twice by one command.
const INVENTORY: &str = "
INSERT INTO stock (product_id, adjusted, on_hand) VALUES ('mug', 5, 5);
INSERT INTO moves (product_id, kind, quantity, command_id)
VALUES ('cup', 'reserved', 1, '00000000-0000-7000-8000-0000000000ff'),
       ('cup', 'reserved', 1, '00000000-0000-7000-8000-0000000000ff');
";
/// 2 and 4: captured for no saga.
const PAYMENT: &str = "
INSERT INTO gateway_charges (key, charge_id, amount, currency, method)
VALUES ('00000000-0000-7000-8000-0000000000fe', '00000000-0000-7000-8000-0000000000fd', 100, 'EUR', 'card_approved');
";
/// 19: of an order that was paid for, only that is published, as its third event.
const PUBLISHED: &str = "
INSERT INTO webhook_deliveries (id, webhook_id, order_id, sequence, status, event_type, event_id, event)
VALUES (gen_random_uuid(), '00000000-0000-7000-8000-00000000b00c', '00000000-0000-7000-8000-00000000000a', 3, 'SKIPPED',
        'order.paid', '00000000-0000-7000-8000-000000000003/3/order.paid', '{}');
INSERT INTO timeline (home, saga_id, at, batch, revision, slot, body)
SELECT 0, '00000000-0000-7000-8000-000000000003', now(), 1, r, 1, format('{\"event\":\"woke\",\"did\":{\"label\":\"%s\"}}', label)
FROM (VALUES (3, 'PAID'), (4, 'CONFIRMED')) AS e (r, label);
";
/// 18: a customer was notified of something that never happened.
const NOTIFICATION: &str = "
INSERT INTO notifications (id, order_id, event_id, event_type, channel, status)
VALUES ('00000000-0000-7000-8000-0000000000fe', '00000000-0000-7000-8000-0000000000fd', 'x/1/order.created',
        'order.created', 'email', 'SKIPPED');
";

async fn databases() -> (Vec<TestDatabase>, Sources) {
    let databases = vec![
        amends_testkit::database(&amends_postgres::MIGRATOR, "engine").await,
        amends_testkit::database(&amends_inventory::MIGRATOR, "inventory").await,
        amends_testkit::database(&amends_payment::MIGRATOR, "payment").await,
        amends_testkit::database(&amends_shipment::MIGRATOR, "shipment").await,
        amends_testkit::database(&amends_notification::MIGRATOR, "notification").await,
    ];
    let url = |at: usize| databases[at].url.clone();
    let sources = Sources { workspace: url(0), databases: (0..databases.len()).map(url).collect() };
    (databases, sources)
}

#[tokio::test]
async fn of_nothing_nothing_is_wrong() {
    let (_databases, sources) = databases().await;
    let report = books::report(&sources, &Ledger::default()).await.unwrap();
    assert_eq!(report.violations(), 0, "{report}");
}

#[tokio::test]
async fn every_invariant_can_be_violated_and_is_found() {
    let (databases, sources) = databases().await;
    for (at, sql) in [(0, ENGINE), (0, PUBLISHED), (1, INVENTORY), (2, PAYMENT), (4, NOTIFICATION)] {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&databases[at].pool).await.unwrap();
    }
    let nobody = Uuid::nil();
    let ledger = Ledger {
        told: vec![(Some("key".into()), nobody)],
        actions: vec![Action { saga: nobody, action: "resolved", why: "because".into(), sure: true }],
        poison: vec![Poison { topic: "saga.replies".into(), mark: "poison-1".into(), sure: true }],
        dead_letters: vec![DeadLetter { topic: "saga.replies".into(), mark: "a reply".into() }],
        ..Ledger::default()
    };
    let report = books::report(&sources, &ledger).await.unwrap();
    let blind: Vec<i32> = report.lines.iter().filter(|l| l.violations == 0).map(|l| l.number).collect();
    assert!(blind.is_empty(), "not found: {blind:?}\n{report}");
}

/// A shipment that was resolved as not done, and undone by that evidence; its worker does not know its outcome.
fn resolved_as_not_done(saga: Uuid) -> String {
    format!(
        "INSERT INTO sagas (home, id, since, born_at, updated_at, revision, workflow_version, slot, core_version, state_version,
                            live, parked, outcome, workflow, business_key, step, label, state)
         VALUES (0, '{saga}', now(), now(), now(), 1, 1, 1, 1, 1, false, false, 'undone', 'order_fulfilment', '{saga}',
                 'ship', 'SHIPMENT_FAILED', '{{\"direction\":\"ended\",\"commands\":[
                 {{\"step\":2,\"issuedAt\":1,\"status\":\"not_done\",\"undo\":{{\"done\":true}}}}]}}');
         INSERT INTO timeline (home, saga_id, at, batch, revision, slot, body)
         VALUES (0, '{saga}', now(), 1, 1, 1,
                 '{{\"event\":\"woke\",\"did\":{{\"sent\":[\"ship execute\",\"ship compensate\"]}}}}');"
    )
}

#[tokio::test]
async fn what_was_resolved_as_not_done_may_be_open_only_while_its_worker_remembers_to_undo_it() {
    let (databases, sources) = databases().await;
    let [remembered, forgotten] = [1, 2].map(Uuid::from_u128);
    for (saga, undo) in [(remembered, "'{}'"), (forgotten, "NULL")] {
        // As in docs/PROTOCOL.md.
        let hashed = Uuid::new_v5(&saga, b"ship/0/1").to_string();
        let command_id = format!("{}8{}", &saga.to_string()[..14], &hashed[15..]);
        let row = format!(
            "INSERT INTO commands (command_id, saga_id, status, attempt, epoch, issued_at, unsure, undo)
             VALUES ('{command_id}', '{saga}', 'started', 1, 0, now(), true, {undo})"
        );
        for (at, sql) in [(0, resolved_as_not_done(saga)), (3, row)] {
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&databases[at].pool).await.unwrap();
        }
    }
    let report = books::report(&sources, &Ledger::default()).await.unwrap();
    let rows = report.lines.iter().find(|line| line.number == 9).unwrap();
    assert_eq!(rows.violations, 1, "{report}");
    assert!(report.to_string().contains(&forgotten.to_string()), "{report}");
}

#[tokio::test]
async fn where_events_are_noted_each_that_is_missing_of_any_kind_is_found_by_its_name() {
    let (databases, sources) = databases().await;
    let published = |report: &books::Report| {
        let line = report.lines.iter().find(|line| line.number == 19).unwrap();
        (line.looked_at, line.violations, line.examples.clone())
    };
    sqlx::raw_sql(AssertSqlSafe(ENGINE)).execute(&databases[0].pool).await.unwrap();
    let report = books::report(&sources, &Ledger::default()).await.unwrap();
    assert_eq!(published(&report), (None, 0, Vec::new()), "not checked: none are noted");
    assert!(books::are_events_published(&databases[0].pool).await.unwrap());

    books::note_events(&databases[0].pool).await.unwrap();
    books::note_events(&databases[0].pool).await.unwrap();
    assert!(!books::are_events_published(&databases[0].pool).await.unwrap(), "there are older ones");
    sqlx::raw_sql(AssertSqlSafe(PUBLISHED)).execute(&databases[0].pool).await.unwrap();
    let report = books::report(&sources, &Ledger::default()).await.unwrap();
    let saga = "00000000-0000-7000-8000-000000000003";
    let (looked_at, violations, examples) = published(&report);
    assert_eq!((looked_at, violations), (Some(3), 3), "{report}");
    for missing in [
        format!("event {saga}/1/order.created was not published"),
        format!("event {saga}/4/order.confirmed was not published"),
        "order 00000000-0000-7000-8000-00000000000a: 1 events, numbered from 3 to 3".to_owned(),
    ] {
        assert!(examples.contains(&missing), "{missing}: {examples:?}");
    }
}
