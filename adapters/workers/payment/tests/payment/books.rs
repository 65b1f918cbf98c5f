//! One effect per key, whatever happens meanwhile; and the books of worker and gateway agree.

use std::{collections::HashMap, sync::Arc};

use amends_payment::{Charge, Error, PaymentGateway, Refund, SandboxGateway, settings};
use amends_protocol::{Command, Kind, Outcome, id};
use amends_worker::Settings;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{
    transport::{SOON, about, attempt, undo},
    world::{Waited, World, pay, short},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn duplicates_heard_by_two_instances_charge_and_refund_once() {
    let world = World::quiet().await;
    world.start(world.worker(Settings { batch_max: 5, ..short() }));
    world.start(world.worker(Settings { batch_max: 5, ..short() }));
    let charges: Vec<Command> =
        (0..20).map(|n| pay(["card_approved", "card_lost_reply", "card_slow"][n % 3])).collect();
    for _ in 0..4 {
        world.topics.send(&charges);
    }
    for charge in &charges {
        world.topics.reply_where(charge, 0, |r| r.outcome == Outcome::Succeeded).await;
        assert_eq!(world.effects(charge).await, (1, 0));
    }
    let refunds: Vec<Command> = charges.iter().map(undo).collect();
    for attempts in 1..4 {
        world.topics.send(&refunds.iter().map(|r| attempt(attempts, r)).collect::<Vec<_>>());
    }
    for (charge, refund) in charges.iter().zip(&refunds) {
        world.topics.reply_where(refund, 0, |r| r.outcome == Outcome::Succeeded).await;
        assert_eq!(world.effects(charge).await, (1, 1));
    }
    assert_eq!((world.captured().await, world.recorded().await, world.told()), (0, 0, 0));
}

#[tokio::test]
async fn a_charge_whose_worker_was_lost_is_taken_over_and_not_made_again() {
    let world = World::quiet().await;
    let slow = Waited::stopped();
    let lost = world.start(world.worker_of(slow.clone(), Settings { call_timeout: SOON, ..short() }));
    let charge = pay("card_slow");
    world.topics.send(std::slice::from_ref(&charge));
    slow.is_waited_for().await;
    lost.abort();
    assert!(lost.await.unwrap_err().is_cancelled());
    assert_eq!(world.topics.replies(), [], "it has said nothing");

    world.start(world.worker(short()));
    let charged = world.topics.reply_where(&charge, 0, |r| r.outcome == Outcome::Succeeded).await;
    assert_eq!(charged.attempt, 1);
    assert_eq!((world.effects(&charge).await, world.captured().await), ((1, 0), 2500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_books_balance_after_any_mix_of_commands() {
    const METHODS: [&str; 7] = [
        "card_approved",
        "card_declined",
        "card_slow",
        "card_lost_reply",
        "card_error_twice",
        "card_refund_refused",
        "cheque",
    ];
    let seed = rand::random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::quiet().await;
    world.start(world.worker(Settings { batch_max: 7, ..short() }));
    world.start(world.worker(Settings { batch_max: 13, ..short() }));
    let charges: Vec<Command> = (0..70).map(|n| pay(METHODS[n % METHODS.len()])).collect();
    for round in 1..7 {
        let mut command = || {
            let charge = &charges[random.random_range(0..charges.len())];
            match random.random_range(0..10) {
                0..6 => attempt(round, charge),
                6..8 => attempt(round, &undo(charge)),
                8 => about(Kind::Probe, charge),
                _ => about(Kind::Fence, charge),
            }
        };
        let batch: Vec<Command> = (0..60).map(|_| command()).collect();
        world.topics.send(&batch);
    }
    let is_quiet = async || {
        // Not every message is answered: a compensation writes a tombstone for an execute that has not begun.
        let settled = world.topics.is_settled();
        (settled && world.count("SELECT count(*) FROM commands WHERE live").await == 0).then_some(())
    };
    amends_testkit::eventually("rest", SOON, is_quiet).await;
    let agree = async || {
        let (captured, recorded) = (world.captured().await, world.recorded().await);
        assert_eq!(captured, recorded, "gateway and worker");
        // The last replies are sent after the commit.
        (world.told() == captured).then_some(())
    };
    amends_testkit::eventually("what was told is what is held", SOON, agree).await;
    assert!(world.count("SELECT count(*) FROM gateway_refunds").await > 0, "the mix has refunds");

    let rows: HashMap<Uuid, String> = sqlx::query_as("SELECT command_id, status FROM commands")
        .fetch_all(&world.database.pool)
        .await
        .unwrap()
        .into_iter()
        .collect();
    for charge in &charges {
        let expected = match rows.get(&charge.command_id).map(String::as_str) {
            Some("succeeded") => (1, 0),
            Some("undone") => (1, 1),
            Some("refused" | "failed_transient" | "tombstone") | None => (0, 0),
            other => panic!("{other:?}"),
        };
        assert_eq!(world.effects(charge).await, expected, "{:?}", rows.get(&charge.command_id));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn five_hundred_charges_at_once_share_a_few_transactions() {
    let world = World::quiet().await;
    let gateway = Arc::new(SandboxGateway::new(world.pool.clone()));
    let keys: Vec<Uuid> = (0..500).map(|_| Uuid::now_v7()).collect();
    let mut calls = JoinSet::new();
    for key in keys.clone() {
        let (gateway, method) = (gateway.clone(), "card_approved".to_owned());
        calls.spawn(async move {
            gateway.charge(Charge { key, amount: 1, currency: "EUR".into(), method }).await
        });
    }
    let receipts = calls.join_all().await;
    assert!(receipts.iter().all(Result::is_ok));
    let wrote = "SELECT count(DISTINCT xmin::text) FROM gateway_charges";
    assert_eq!(world.captured().await, 500);
    assert!(world.count(wrote).await <= 50, "{} transactions", world.count(wrote).await);

    let mut calls = JoinSet::new();
    for charge in keys {
        let (gateway, key) = (gateway.clone(), id::undo(charge));
        calls.spawn(async move { gateway.refund(Refund { key, charge, amount: None }).await });
    }
    assert!(calls.join_all().await.iter().all(Result::is_ok));
    let wrote = "SELECT count(DISTINCT xmin::text) FROM gateway_refunds";
    assert_eq!(world.captured().await, 0);
    assert!(world.count(wrote).await <= 50, "{} transactions", world.count(wrote).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn five_hundred_commands_share_transactions_of_worker_and_gateway() {
    let world = World::quiet().await;
    let charges: Vec<Command> = (0..500).map(|_| pay("card_approved")).collect();
    world.topics.send(&charges);
    world.start(world.worker(settings()));
    let replies = world.topics.replied(500).await;
    assert!(replies.iter().all(|r| r.outcome == Outcome::Succeeded));
    assert_eq!((world.captured().await, world.recorded().await), (500 * 2500, 500 * 2500));
    for wrote in [
        "SELECT count(DISTINCT xmin::text) FROM gateway_charges",
        "SELECT count(DISTINCT xmin::text) FROM commands",
    ] {
        assert!(world.count(wrote).await <= 100, "{} transactions", world.count(wrote).await);
    }
}

#[tokio::test]
async fn a_key_charges_once_within_one_transaction_and_its_first_answer_binds() {
    let world = World::quiet().await;
    let gateway = Arc::new(SandboxGateway::new(world.pool.clone()));
    let key = Uuid::now_v7();
    let charge = |method: &str, amount| Charge { key, amount, currency: "EUR".into(), method: method.into() };
    let mut calls = JoinSet::new();
    for _ in 0..10 {
        let (gateway, charge) = (gateway.clone(), charge("card_approved", 7));
        calls.spawn(async move { gateway.charge(charge).await });
    }
    let receipts = calls.join_all().await;
    assert!(receipts.iter().all(|r| r.is_ok() && *r == receipts[0]), "{receipts:?}");
    assert_eq!(gateway.charge(charge("card_declined", 8)).await, receipts[0]);
    assert_eq!(gateway.look_up(key).await, receipts[0].clone().map(Some));
    assert_eq!(world.captured().await, 7);

    let declined = Uuid::now_v7();
    let no = gateway.charge(Charge { key: declined, ..charge("card_declined", 7) }).await;
    let code = "card_declined".to_owned();
    assert_eq!(no, Err(Error::Declined { code: code.clone() }));
    assert_eq!(gateway.charge(Charge { key: declined, ..charge("card_approved", 7) }).await, no);
    assert_eq!(gateway.look_up(declined).await, Err(Error::Declined { code }));
    assert_eq!(gateway.look_up(Uuid::now_v7()).await, Ok(None));
}

#[tokio::test]
async fn a_charge_lives_as_long_as_its_row() {
    let world = World::quiet().await;
    sqlx::raw_sql(
        "INSERT INTO gateway_charges (key, charge_id, amount, currency, method)
         SELECT least_id(now() - days * interval '1 day'), gen_random_uuid(), 1, 'EUR', 'card_approved'
         FROM (VALUES (401), (402), (403), (399)) AS c (days);
         INSERT INTO gateway_refunds (key, refund_id, charge_key, amount, currency)
         SELECT gen_random_uuid(), gen_random_uuid(), key, 1, 'EUR' FROM gateway_charges ORDER BY key LIMIT 2;
         INSERT INTO gateway_faults SELECT key, 1 FROM gateway_charges;
         INSERT INTO commands (command_id, saga_id, status, attempt, epoch, issued_at, unsure, live, lease_until)
         SELECT min(key::text)::uuid, gen_random_uuid(), 'started', 1, 0, now(), true, true, now() FROM gateway_charges",
    )
    .execute(&world.database.pool)
    .await
    .unwrap();
    let retention = std::time::Duration::from_hours(400 * 24);
    // Of the sagas of 401, 402 and 403 days ago the last still has a row.
    assert_eq!(amends_payment::expire_books(&world.pool.clone().into(), retention).await.unwrap(), 1 + 3 + 2);
    let left: (i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM gateway_charges), (SELECT count(*) FROM gateway_refunds),
                (SELECT count(*) FROM gateway_faults)",
    )
    .fetch_one(&world.database.pool)
    .await
    .unwrap();
    assert_eq!(left, (2, 1, 1));
}
