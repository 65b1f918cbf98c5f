//! Bookings at the built-in carrier, and their cancellation.

use amends_protocol::{Command, Kind, Outcome};
use serde_json::{Value, json};

use crate::{
    transport::{about, attempt, code, execute, undo},
    world::{World, deltas, ship},
};

#[tokio::test]
async fn a_parcel_is_booked_once_however_often_it_is_asked_for() {
    let world = World::new().await;
    let parcel = ship("AT");
    world.topics.send(&[parcel.clone(), parcel.clone(), attempt(2, &parcel)]);
    let booked = world.topics.reply_where(&parcel, 0, |r| r.outcome == Outcome::Succeeded).await;
    let result = booked.result.as_ref().expect("what it is followed by").read::<Value>().unwrap();
    assert!(result["trackingNumber"].as_str().is_some_and(|n| n.starts_with("TRK-")), "{result}");
    assert_eq!(deltas(&booked), [("label_bought", 1)]);
    let again = world.settled(&attempt(3, &parcel)).await;
    assert_eq!((again.outcome, again.attempt, again.result), (Outcome::Succeeded, 1, booked.result));
    assert_eq!(world.effects(&parcel).await, (1, 0));
}

#[tokio::test]
async fn a_booking_is_cancelled_once() {
    let world = World::new().await;
    let parcel = ship("AT");
    world.settled(&parcel).await;
    let cancel = undo(&parcel);
    world.topics.send(&[cancel.clone(), attempt(2, &cancel), cancel.clone()]);
    let cancelled = world.topics.reply_where(&cancel, 0, |r| r.outcome == Outcome::Succeeded).await;
    assert_eq!(deltas(&cancelled), [("label_bought", -1)]);
    assert_eq!(world.settled(&attempt(3, &cancel)).await.outcome, Outcome::Succeeded);
    assert_eq!(world.settled(&attempt(2, &parcel)).await.outcome, Outcome::Fenced);
    assert_eq!(world.effects(&parcel).await, (1, 1));
}

#[tokio::test]
async fn a_cancellation_that_overtakes_its_booking_keeps_it_from_being_made() {
    let world = World::new().await;
    let parcel = ship("AT");
    let cancelled = world.settled(&undo(&parcel)).await;
    assert_eq!((cancelled.outcome, deltas(&cancelled)), (Outcome::Succeeded, vec![]));
    assert_eq!(world.settled(&parcel).await.outcome, Outcome::Fenced);
    assert_eq!(world.effects(&parcel).await, (0, 0));
}

#[tokio::test]
async fn aq_is_refused_and_stays_refused_with_nothing_to_undo() {
    let world = World::new().await;
    let parcel = ship("AQ");
    for command in [parcel.clone(), attempt(2, &parcel), about(Kind::Probe, &parcel)] {
        let refused = world.settled(&command).await;
        assert_eq!((refused.outcome, code(&refused)), (Outcome::Refused, "carrier_refused"));
        assert_eq!(deltas(&refused), []);
    }
    let undone = world.settled(&undo(&parcel)).await;
    assert_eq!((undone.outcome, deltas(&undone)), (Outcome::Succeeded, vec![]));
    assert_eq!(world.effects(&parcel).await, (0, 0));
}

#[tokio::test]
async fn bv_is_unknown_to_whoever_asks_and_stays_so() {
    let world = World::new().await;
    let parcel = ship("BV");
    let unknown = |command: Command| {
        let topics = world.topics.clone();
        async move {
            // While a look-up is in progress the command is in flight; in the end its outcome is unknown.
            let before = topics.replies_to(&command).len();
            amends_testkit::eventually("unknown", crate::transport::SOON, async || {
                let reply = topics.ask(&command).await;
                let new = topics.replies_to(&command).split_off(before);
                assert!(
                    new.iter().all(|r| matches!(r.outcome, Outcome::InFlight | Outcome::Unknown)),
                    "{new:?}"
                );
                (reply.outcome == Outcome::Unknown).then_some(())
            })
            .await;
        }
    };
    unknown(parcel.clone()).await;
    for attempts in 1..3 {
        unknown(about(Kind::Probe, &parcel)).await;
        unknown(attempt(attempts, &undo(&parcel))).await;
        unknown(attempt(attempts, &parcel)).await;
        unknown(about(Kind::Fence, &parcel)).await;
    }
    let known = world.topics.replies();
    assert!(known.iter().all(|r| matches!(r.outcome, Outcome::InFlight | Outcome::Unknown)), "{known:?}");
    assert!(known.iter().all(|r| r.exposure.is_empty()), "{known:?}");
    assert_eq!(world.effects(&parcel).await, (0, 0));
    // Nor does it delay other commands.
    assert_eq!(world.settled(&ship("AT")).await.outcome, Outcome::Succeeded);
}

#[tokio::test]
async fn a_parcel_that_the_carrier_could_not_write_down_is_booked_once_it_can() {
    let world = World::new().await;
    world.run("REVOKE INSERT ON carrier_bookings FROM amends_shipment").await;
    let parcel = ship("AT");
    let unknown = world.topics.reply_where(&parcel, 0, |r| r.outcome == Outcome::Unknown);
    world.topics.send(std::slice::from_ref(&parcel));
    unknown.await;
    assert_eq!(world.effects(&parcel).await, (0, 0));
    world.run("GRANT INSERT ON carrier_bookings TO amends_shipment").await;
    world.topics.reply_where(&parcel, 1, |r| r.outcome == Outcome::Succeeded).await;
    assert_eq!(world.effects(&parcel).await, (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_instances_book_and_cancel_each_parcel_once() {
    let world = World::new().await;
    world.start();
    let parcels: Vec<Command> = (0..30).map(|n| ship(["AT", "AQ"][n % 2])).collect();
    let cancels: Vec<Command> = parcels.iter().map(undo).collect();
    for _ in 0..3 {
        world.topics.send(&parcels);
    }
    for parcel in &parcels {
        world.settled(parcel).await;
    }
    for attempts in 1..4 {
        world.topics.send(&cancels.iter().map(|c| attempt(attempts, c)).collect::<Vec<_>>());
    }
    for (n, (parcel, cancel)) in parcels.iter().zip(&cancels).enumerate() {
        world.topics.reply_where(cancel, 0, |r| r.outcome == Outcome::Succeeded).await;
        let expected = if n % 2 == 0 { (1, 1) } else { (0, 0) };
        assert_eq!(world.effects(parcel).await, expected);
    }
}

#[tokio::test]
async fn a_payload_that_makes_no_sense_fails_for_good_and_stops_nobody() {
    let world = World::new().await;
    let to = |country: Value| json!({ "shippingAddress": { "country": country } });
    let senseless = [
        json!(null),
        json!({}),
        json!({ "shippingAddress": null }),
        json!({ "shippingAddress": {} }),
        to(json!(7)),
        to(json!("")),
        to(json!("at")),
        to(json!("AUT")),
        to(json!("Ä")),
    ];
    let bad: Vec<Command> = senseless.into_iter().map(|payload| execute("ship", payload)).collect();
    let (good, unknown_step) = (ship("AT"), execute("dance", to(json!("AT"))));
    world.topics.send(&bad);
    world.topics.send(&[good.clone(), unknown_step.clone()]);
    for command in &bad {
        let reply = world.settled(command).await;
        let payload = command.payload.get();
        assert_eq!((reply.outcome, code(&reply)), (Outcome::FailedForGood, "bad_payload"), "{payload}");
        assert_eq!(world.settled(&undo(command)).await.outcome, Outcome::Succeeded, "{payload}");
        assert_eq!(world.effects(command).await, (0, 0));
    }
    assert_eq!(world.settled(&good).await.outcome, Outcome::Succeeded);
    assert_eq!(code(&world.settled(&unknown_step).await), "unknown_step");
    assert!(world.topics.dead_letters().is_empty());
}

#[tokio::test]
async fn old_bookings_go_once_their_rows_have_gone() {
    let world = World::new().await;
    world
        .run(
            "INSERT INTO carrier_bookings (key, tracking_number, country)
             SELECT least_id(now() - days * interval '1 day'), 'T', 'DE'
             FROM (VALUES (401), (402), (403), (399)) AS b (days);
             INSERT INTO carrier_cancellations (key, booking_key)
             SELECT gen_random_uuid(), key FROM carrier_bookings ORDER BY key LIMIT 2;
             INSERT INTO commands (command_id, saga_id, status, attempt, epoch, issued_at)
             SELECT min(key::text)::uuid, gen_random_uuid(), 'undone', 1, 0, now() FROM carrier_bookings",
        )
        .await;
    let retention = std::time::Duration::from_hours(400 * 24);
    assert_eq!(amends_shipment::expire_books(&world.pool.clone().into(), retention).await.unwrap(), 1 + 2);
}
