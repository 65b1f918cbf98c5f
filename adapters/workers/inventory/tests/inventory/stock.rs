//! Reserve, release, take.

use std::sync::atomic::Ordering;

use amends_protocol::{Command, Exposure, Kind, Outcome, wire};
use amends_testkit::eventually;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;

use crate::{
    transport::{SOON, about, attempt, code, execute, undo},
    world::{World, deltas, held, reserve, take},
};

#[tokio::test]
async fn several_lines_are_reserved_all_or_none() {
    let world = World::new().await;
    world.put("mug", 5).await;
    world.put("pen", 1).await;
    let too_much = world.ask(&reserve(&[("mug", 2), ("pen", 2)])).await;
    assert_eq!((too_much.outcome, code(&too_much)), (Outcome::Refused, "out_of_stock"));
    assert!(too_much.exposure.is_empty());
    assert_eq!(world.stock("mug").await, (5, 0, 0));
    assert_eq!(world.count("SELECT count(*) FROM reservations").await, 0);

    let all_there = world.ask(&reserve(&[("mug", 2), ("pen", 1)])).await;
    assert_eq!(all_there.outcome, Outcome::Succeeded);
    assert_eq!(deltas(&all_there), [("mug", 2), ("pen", 1)]);
    assert_eq!(world.stock("mug").await, (5, 2, 0));
    assert_eq!(world.stock("pen").await, (1, 1, 0));
    world.assert_books_balance().await;
}

#[tokio::test]
async fn lines_of_one_product_count_together() {
    let world = World::new().await;
    world.put("mug", 5).await;
    let too_much = world.ask(&reserve(&[("mug", 3), ("mug", 3)])).await;
    assert_eq!((too_much.outcome, code(&too_much)), (Outcome::Refused, "out_of_stock"));
    let enough = world.ask(&reserve(&[("mug", 3), ("mug", 2)])).await;
    assert_eq!(enough.outcome, Outcome::Succeeded);
    assert_eq!(deltas(&enough), [("mug", 5)]);
    assert_eq!(world.stock("mug").await, (5, 5, 0));
}

#[tokio::test]
async fn a_product_that_is_not_known_is_refused_and_not_made() {
    let world = World::new().await;
    world.put("mug", 5).await;
    let reply = world.ask(&reserve(&[("mug", 1), ("unheard-of", 1)])).await;
    assert_eq!((reply.outcome, code(&reply)), (Outcome::Refused, "unknown_product"));
    assert_eq!(world.count("SELECT count(*) FROM stock").await, 1);
    assert_eq!(world.stock("mug").await, (5, 0, 0));
}

#[tokio::test]
async fn a_repeated_reserve_reserves_once() {
    let world = World::new().await;
    world.put("mug", 5).await;
    let command = reserve(&[("mug", 2)]);
    world.topics.send(&[command.clone(), command.clone(), attempt(2, &command)]);
    world.topics.replied(3).await;
    world.ask(&attempt(3, &command)).await;
    let replies = world.topics.replies_to(&command);
    assert!(replies.iter().all(|r| r.outcome == Outcome::Succeeded && r.attempt == 1), "{replies:?}");
    assert!(replies.iter().all(|r| deltas(r) == [("mug", 2)]), "{replies:?}");
    assert_eq!(world.stock("mug").await, (5, 2, 0));
    world.assert_books_balance().await;
}

#[tokio::test]
async fn a_release_gives_back_exactly_once() {
    let world = World::new().await;
    world.put("mug", 5).await;
    world.put("pen", 5).await;
    let command = reserve(&[("mug", 2), ("pen", 3)]);
    let release = undo(&command);
    // All in one batch, where each command must see what the previous one did.
    world.topics.send(&[command.clone(), release.clone(), release.clone(), attempt(2, &release)]);
    world.topics.replied(4).await;
    let again = world.ask(&attempt(3, &release)).await;
    assert_eq!(again.outcome, Outcome::Succeeded);
    for reply in world.topics.replies_to(&release) {
        assert_eq!((reply.outcome, deltas(&reply)), (Outcome::Succeeded, vec![("mug", -2), ("pen", -3)]));
    }
    assert_eq!(world.ask(&attempt(2, &command)).await.outcome, Outcome::Fenced);
    assert_eq!(world.stock("mug").await, (5, 0, 0));
    assert_eq!(world.stock("pen").await, (5, 0, 0));
    assert_eq!(held(&world.topics.replies()), []);
    assert_eq!(world.count("SELECT count(*) FROM moves WHERE kind = 'released'").await, 2);
    world.assert_books_balance().await;
}

#[tokio::test]
async fn a_reserve_that_its_release_overtook_reserves_nothing() {
    let world = World::new().await;
    world.put("mug", 5).await;
    let command = reserve(&[("mug", 2)]);
    let release = world.ask(&undo(&command)).await;
    assert_eq!((release.outcome, deltas(&release)), (Outcome::Succeeded, vec![]));
    assert_eq!(world.ask(&command).await.outcome, Outcome::Fenced);
    assert_eq!(world.stock("mug").await, (5, 0, 0));
}

#[tokio::test]
async fn taking_turns_reserved_into_shipped_exactly_once() {
    let world = World::new().await;
    world.put("mug", 5).await;
    let reserved = reserve(&[("mug", 2)]);
    let taken = take(&reserved);
    world.topics.send(&[reserved.clone(), taken.clone(), taken.clone()]);
    world.topics.replied(3).await;
    world.ask(&attempt(2, &taken)).await;
    for reply in world.topics.replies_to(&taken) {
        assert_eq!((reply.outcome, deltas(&reply)), (Outcome::Succeeded, vec![("mug", -2)]));
    }
    let another = execute("take", json!({ "reservation": reserved.command_id }));
    let reply = world.ask(&another).await;
    assert_eq!((reply.outcome, code(&reply)), (Outcome::Refused, "already_taken"));
    assert_eq!(world.stock("mug").await, (3, 0, 2));
    assert_eq!(held(&world.topics.replies()), []);
    world.assert_books_balance().await;
}

#[tokio::test]
async fn what_was_taken_is_not_given_back() {
    let world = World::new().await;
    world.put("mug", 5).await;
    let reserved = reserve(&[("mug", 2)]);
    let taken = take(&reserved);
    world.ask(&reserved).await;
    world.ask(&taken).await;
    let release = world.ask(&undo(&reserved)).await;
    assert_eq!((release.outcome, code(&release)), (Outcome::Refused, "already_taken"));
    let untake = world.ask(&undo(&taken)).await;
    assert_eq!((untake.outcome, code(&untake)), (Outcome::FailedForGood, "no_compensation"));
    assert_eq!(world.stock("mug").await, (3, 0, 2));
    world.assert_books_balance().await;
}

#[tokio::test]
async fn what_was_released_or_never_reserved_is_not_taken() {
    let world = World::new().await;
    world.put("mug", 5).await;
    let released = reserve(&[("mug", 2)]);
    world.ask(&released).await;
    world.ask(&undo(&released)).await;
    for reserved in [released, reserve(&[("mug", 2)])] {
        let reply = world.ask(&take(&reserved)).await;
        assert_eq!((reply.outcome, code(&reply)), (Outcome::Refused, "not_reserved"));
    }
    assert_eq!(world.stock("mug").await, (5, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_reservations_for_thirty_pieces_sell_thirty() {
    let world = World::quiet().await;
    world.put("mug", 30).await;
    world.put("pen", 30).await;
    // Lines in either order, and everything twice.
    let orders: Vec<Command> = (0..50)
        .map(|n| reserve(if n % 2 == 0 { &[("mug", 1), ("pen", 1)] } else { &[("pen", 1), ("mug", 1)] }))
        .collect();
    world.topics.send(&orders);
    world.topics.send(&orders);
    let (one, other) = (world.start(4), world.start(4));
    world.topics.replied(100).await;
    let sold = orders.iter().filter(|order| {
        let replies = world.topics.replies_to(order);
        assert!(replies.iter().all(|r| r.outcome == replies[0].outcome), "one answer a command: {replies:?}");
        assert!(
            replies[0].outcome == Outcome::Succeeded || code(&replies[0]) == "out_of_stock",
            "{replies:?}"
        );
        replies[0].outcome == Outcome::Succeeded
    });
    assert_eq!(sold.count(), 30);
    assert_eq!(world.stock("mug").await, (30, 30, 0));
    assert_eq!(world.stock("pen").await, (30, 30, 0));
    world.assert_books_balance().await;
    // One may have been quicker than the other began.
    eventually("both work", SOON, async || {
        let both_work = one.load(Ordering::Relaxed) > 0 && other.load(Ordering::Relaxed) > 0;
        if !both_work {
            world.topics.send(&orders);
        }
        both_work.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_books_balance_after_any_mix_of_commands() {
    const PRODUCTS: [&str; 4] = ["mug", "pen", "cup", "hat"];
    let seed = std::env::var("SEED").map_or_else(|_| rand::random(), |s| s.parse().unwrap());
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::quiet().await;
    for product in PRODUCTS {
        world.put(product, 60).await;
    }
    world.start(7);
    world.start(13);
    let orders: Vec<Command> = (0..60)
        .map(|_| {
            let mut line = || (PRODUCTS[random.random_range(0..4)], random.random_range(1..8));
            reserve(&[line(), line(), line()])
        })
        .collect();
    let mut sent = 0;
    for _ in 0..40 {
        let batch: Vec<Command> = (0..20)
            .map(|_| {
                let order = &orders[random.random_range(0..orders.len())];
                let command = match random.random_range(0..10) {
                    0..4 => order.clone(),
                    4..6 => undo(order),
                    6..8 => take(order),
                    8 => about(Kind::Probe, order),
                    _ if random.random_bool(0.1) => about(Kind::Fence, order),
                    _ => about(Kind::Probe, &take(order)),
                };
                attempt(random.random_range(1..4), &command)
            })
            .collect();
        world.topics.send(&batch);
        sent += batch.len();
        // Stock is added and removed meanwhile; reserved stock stays.
        let (product, on_hand) = (PRODUCTS[random.random_range(0..4)], random.random_range(0..120));
        let path = format!("/api/inventory/{product}/stock");
        // While the workers hold the product's row for long, it is 503.
        let status = eventually("an answer", SOON, || async {
            let (status, ..) = world.http("PUT", &path, json!({ "onHand": on_hand }).to_string()).await;
            (status != 503).then_some(status)
        })
        .await;
        assert!(status == 200 || status == 409, "{status}");
    }
    let replies = world.topics.replied(sent).await;
    world.assert_books_balance().await;

    let mut reserved = Vec::new();
    for product in PRODUCTS {
        let (_, amount, _) = world.stock(product).await;
        reserved.push(Exposure::new("stock_reserved", product, amount));
    }
    reserved.retain(|e| e.amount != 0);
    reserved.sort_by(|a, b| a.unit.cmp(&b.unit));
    assert_eq!(held(&replies), reserved, "what was answered is what is held");
    for kind in ["reserved", "released", "taken"] {
        let of_kind = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM moves WHERE kind = $1").bind(kind);
        assert!(of_kind.fetch_one(&world.database.pool).await.unwrap() > 0, "the mix has some {kind}");
    }
}

#[tokio::test]
async fn a_payload_that_makes_no_sense_fails_for_good_and_stops_nobody() {
    let world = World::new().await;
    world.put("mug", 5).await;
    let line = |quantity| json!({ "lines": [{ "productId": "mug", "quantity": quantity }] });
    let senseless = [
        json!(null),
        json!([1]),
        json!({}),
        json!({ "lines": [] }),
        json!({ "lines": "mug" }),
        json!({ "lines": [{ "productId": "mug" }] }),
        json!({ "lines": [{ "productId": 7, "quantity": 1 }] }),
        json!({ "lines": [{ "productId": "mug", "quantity": 1 }, { "productId": "mug", "quantity": i64::MAX }] }),
        line(json!(0)),
        line(json!(-1)),
        line(json!(1.5)),
        line(json!("1")),
        line(json!(u64::MAX)),
    ];
    let mut batch: Vec<Command> = senseless.into_iter().map(|payload| execute("reserve", payload)).collect();
    batch.push(execute("take", json!({ "reservation": "none" })));
    batch.push(execute("take", json!(null)));
    let good = reserve(&[("mug", 1)]);
    let unknown_step = execute("dance", json!({ "lines": [{ "productId": "mug", "quantity": 1 }] }));
    let most = reserve(&[("mug", i64::MAX)]);
    let mut all = batch.clone();
    all.extend([good.clone(), unknown_step.clone(), most.clone()]);
    world.topics.send(&all);
    world.topics.replied(all.len()).await;
    for command in &batch {
        let reply = &world.topics.replies_to(command)[0];
        let payload = command.payload.get();
        assert_eq!((reply.outcome, code(reply)), (Outcome::FailedForGood, "bad_payload"), "{payload}");
        assert_eq!(world.ask(&attempt(2, command)).await.outcome, Outcome::FailedForGood, "{payload}");
    }
    assert_eq!(world.topics.replies_to(&good)[0].outcome, Outcome::Succeeded);
    assert_eq!(code(&world.topics.replies_to(&unknown_step)[0]), "unknown_step");
    assert_eq!(code(&world.topics.replies_to(&most)[0]), "out_of_stock");
    assert_eq!(world.stock("mug").await, (5, 1, 0));
    assert!(world.topics.dead_letters().is_empty(), "commands, all of them");
}

#[tokio::test]
async fn what_is_no_command_is_a_dead_letter_and_the_rest_of_its_batch_is_done() {
    let world = World::new().await;
    world.put("mug", 5).await;
    let good = reserve(&[("mug", 1)]);
    let nul = execute("reserve", json!({ "lines": [{ "productId": "m\0g", "quantity": 1 }] }));
    world.topics.send_bytes(vec![b"{".to_vec(), wire::write(&nul), wire::write(&good)]);
    world.topics.replied(1).await;
    assert_eq!(world.topics.replies_to(&good)[0].outcome, Outcome::Succeeded);
    assert_eq!(world.topics.dead_letters().len(), 2);
    assert_eq!(world.topics.replies().len(), 1);
}

/// Case "locked stock": a transaction was left open.
#[tokio::test]
async fn a_locked_product_holds_up_only_the_commands_that_need_it() {
    let world = World::new().await;
    world.start(500);
    for product in ["mug", "pen"] {
        world.put(product, 50).await;
    }
    let reserved: Vec<Command> = (0..4).map(|_| reserve(&[("pen", 1)])).collect();
    world.topics.send(&reserved);
    let held_mug = reserve(&[("mug", 1)]);
    world.ask(&held_mug).await;
    world.topics.replied(5).await;

    let mut forgotten = world.database.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM stock WHERE product_id = 'mug' FOR UPDATE")
        .execute(&mut *forgotten)
        .await
        .unwrap();
    let (mug, both) = (reserve(&[("mug", 1)]), reserve(&[("mug", 1), ("pen", 1)]));
    let pens: Vec<Command> = (0..10).map(|_| reserve(&[("pen", 1)])).collect();
    let releases: Vec<Command> = reserved.iter().map(undo).collect();
    let mut batch = vec![mug.clone(), both.clone(), undo(&held_mug)];
    batch.extend(pens.clone());
    batch.extend(releases);
    world.topics.send(&batch);
    world.topics.replied(5 + 14).await;
    assert!(
        pens.iter().all(|pen| world.topics.replies_to(pen).iter().all(|r| r.outcome == Outcome::Succeeded))
    );
    let settled = async || world.topics.is_settled().then_some(());
    amends_testkit::eventually("all offsets", SOON, settled).await;
    for left in [&mug, &both, &undo(&held_mug)] {
        assert!(world.topics.replies_to(left).is_empty(), "{left:?}");
    }
    assert_eq!(world.stock("pen").await, (50, 10, 0));
    forgotten.rollback().await.unwrap();

    // The engine sends them again.
    for left in [&mug, &both, &undo(&held_mug)] {
        assert_eq!(world.ask(left).await.outcome, Outcome::Succeeded);
    }
    assert_eq!((world.stock("mug").await, world.stock("pen").await), ((50, 2, 0), (50, 11, 0)));
    world.assert_books_balance().await;
}

#[tokio::test]
async fn old_reservations_and_moves_go_unless_they_hold_stock_or_are_yet_to_be_published() {
    let world = World::quiet().await;
    sqlx::raw_sql(
        "INSERT INTO reservations (command_id, product_id, saga_id, quantity, status)
         SELECT least_id(now() - days * interval '1 day'), product, gen_random_uuid(), 1, status
         FROM (VALUES (401, 'mug', 'taken'), (401, 'pen', 'taken'), (402, 'mug', 'released'), (403, 'mug', 'held'),
                      (399, 'mug', 'taken')) AS r (days, product, status);
         INSERT INTO moves (product_id, kind, quantity, at)
         SELECT 'mug', 'adjusted', 1, now() - days * interval '1 day'
         FROM (VALUES (402), (401), (399), (401)) AS m (days);
         UPDATE published SET move_id = 3",
    )
    .execute(&world.database.pool)
    .await
    .unwrap();
    let retention = std::time::Duration::from_hours(400 * 24);
    assert_eq!(amends_inventory::expire_books(&world.pool.clone().into(), retention).await.unwrap(), 3 + 2);
    assert_eq!(world.count("SELECT count(*) FROM reservations WHERE status = 'held'").await, 1);
    assert_eq!(world.count("SELECT count(*) FROM reservations").await, 2);
    assert_eq!(world.count("SELECT sum(move_id)::bigint FROM moves").await, 3 + 4);
}
