//! Orders over HTTP: idempotency, stock, bad input, time, operators.

use std::{collections::HashSet, time::Instant};

use amends_testkit::eventually;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::{
    books,
    support::{Broker, LONG, Stack, client::order, on_every_broker},
};

on_every_broker!(
    fifty_orders_for_thirty_pieces_fulfil_thirty,
    a_pending_order_cancels_itself_and_its_late_reservation_is_released,
    a_pending_order_cancels_itself_although_the_engine_was_down_over_its_deadline,
    a_parked_order_is_found_and_mended_over_admin,
    what_cannot_be_known_parks_and_is_resolved_by_evidence,
    money_that_a_worker_without_its_rows_calls_undone_is_kept_in_sight,
    a_cancelled_order_ends_cancelled_and_a_shipped_one_cannot_be,
    a_poison_saga_parks_alone_and_the_rest_of_its_batch_goes_on,
);

#[tokio::test]
async fn twenty_parallel_posts_with_one_key_are_one_order() {
    let stack = Stack::embedded().await;
    let apis = [stack.start(&["api"]).await, stack.start(&["api"]).await];
    let clients = apis.each_ref().map(|api| api.client());
    let body = order("mug", 1, "card_approved", "AT");
    let answers =
        join_all((0..20).map(|n| clients[n % 2].try_place(&body, Some("one-key"))).collect::<Vec<_>>()).await;
    let answers: Vec<_> = answers.into_iter().map(|a| a.expect("an answer")).collect();
    assert!(answers.iter().all(|a| a.status == 201), "{answers:?}");
    assert!(
        answers.iter().all(|a| a.body == answers[0].body),
        "every answer is the first one's: {answers:?}"
    );
    assert_eq!(answers.iter().filter(|a| !a.replayed).count(), 1, "one placed it");
    let orders: i64 =
        sqlx::query_scalar("SELECT count(*) FROM orders").fetch_one(stack.pool("engine")).await.unwrap();
    assert_eq!(orders, 1);

    // In a different spelling it is the same request; with another quantity it is not.
    let mut respelt = body.clone();
    respelt["lines"][0] = json!({ "unitPrice": 1250, "quantity": 1, "productId": "mug" });
    assert!(clients[0].try_place(&respelt, Some("one-key")).await.unwrap().replayed);
    let other = clients[1].try_place(&order("mug", 2, "card_approved", "AT"), Some("one-key")).await.unwrap();
    assert_eq!((other.status, other.body["type"].as_str()), (422, Some("/problems/idempotency-key-reused")));
}

#[tokio::test]
async fn two_apis_with_crossed_keys_answer_all_and_place_each_once() {
    let stack = Stack::embedded().await;
    let apis = [stack.start(&["api"]).await, stack.start(&["api"]).await];
    let clients = apis.each_ref().map(|api| api.client());
    let body = order("mug", 1, "card_approved", "AT");
    let mut requests = Vec::new();
    for n in 0..200 {
        // One api receives the keys in one order, the other in reverse.
        for (client, key) in [(&clients[0], n), (&clients[1], 199 - n)] {
            let key = format!("key-{key}");
            let body = &body;
            requests.push(async move {
                (key.clone(), client.try_place(body, Some(&key)).await.expect("an answer"))
            });
        }
    }
    let mut ids: std::collections::HashMap<String, HashSet<String>> = Default::default();
    for (key, answer) in join_all(requests).await {
        assert_eq!(answer.status, 201, "{}", answer.body);
        ids.entry(key).or_default().insert(answer.body["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.len(), 200);
    assert!(ids.values().all(|of_key| of_key.len() == 1), "a key stands for one order");
}

async fn fifty_orders_for_thirty_pieces_fulfil_thirty(broker: Broker) {
    let stack = Stack::new(broker).await;
    let all = stack.start_all().await;
    stack.stock("rare", 30).await;
    let client = all[5].client();
    let body = order("rare", 1, "card_approved", "AT");
    let ids = join_all((0..50).map(|_| client.place(&body)).collect::<Vec<_>>()).await;
    let mut ends = Vec::new();
    for id in &ids {
        let end = eventually("the order ends", LONG, || {
            let client = client.clone();
            async move {
                let order = client.get(&format!("/api/orders/{id}")).await;
                matches!(order["status"].as_str(), Some("FULFILLED" | "FAILED")).then_some(order)
            }
        })
        .await;
        ends.push(end);
    }
    let fulfilled = ends.iter().filter(|o| o["status"] == "FULFILLED").count();
    assert_eq!(fulfilled, 30);
    assert!(ends.iter().filter(|o| o["status"] == "FAILED").all(|o| o["reason"] == "out_of_stock"));
    books::settle(&stack).await;
    books::balance(&stack).await;
}

async fn a_pending_order_cancels_itself_and_its_late_reservation_is_released(broker: Broker) {
    let mut stack = Stack::new(broker).await;
    stack.set("AMENDS_PENDING_TIMEOUT", "2s");
    // No inventory worker runs yet: the command waits on its topic.
    let running = [
        stack.start(&["engine"]).await,
        stack.start(&["api"]).await,
        stack.start(&["worker", "notification"]).await,
    ];
    let client = running[1].client();
    let id = client.place(&order("mug", 3, "card_approved", "AT")).await;
    let undoing = client.becomes(&id, "CANCELLING").await;
    assert_eq!(
        (&undoing["headingFor"], &undoing["reason"]),
        (&"CANCELLED".into(), &"pending_timeout".into())
    );
    let _inventory = stack.start(&["worker", "inventory"]).await;
    stack.stock("mug", 10).await;
    client.becomes(&id, "CANCELLED").await;
    books::settle(&stack).await;
    let stock = running[1].client().get("/api/inventory/mug").await;
    assert_eq!((&stock["onHand"], &stock["reserved"]), (&10.into(), &0.into()));
}

async fn a_pending_order_cancels_itself_although_the_engine_was_down_over_its_deadline(broker: Broker) {
    let mut stack = Stack::new(broker).await;
    stack.set("AMENDS_PENDING_TIMEOUT", "1s");
    let api = stack.start(&["api"]).await;
    let client = api.client();
    let id = client.place(&order("mug", 3, "card_approved", "AT")).await;
    let pending = client.get(&format!("/api/orders/{id}")).await;
    eventually("its time is over", LONG, || {
        let pool = stack.pool("engine").clone();
        let cancels_at = pending["cancelsAt"].as_str().unwrap().to_owned();
        async move {
            let over: bool = sqlx::query_scalar("SELECT now() > $1::timestamptz")
                .bind(cancels_at)
                .fetch_one(&pool)
                .await
                .unwrap();
            over.then_some(())
        }
    })
    .await;
    assert_eq!(client.get(&format!("/api/orders/{id}")).await["status"], "PENDING");
    let _workers = [stack.start(&["worker", "inventory"]).await, stack.start(&["engine"]).await];
    assert_eq!(client.becomes(&id, "CANCELLED").await["reason"], "pending_timeout");
}

async fn a_parked_order_is_found_and_mended_over_admin(broker: Broker) {
    let stack = Stack::new(broker).await;
    let all = stack.start_all().await;
    stack.stock("mug", 10).await;
    let client = all[5].client();
    let id = client.place(&order("mug", 2, "card_refund_refused", "AQ")).await;
    let found = parked(&client, &id).await;
    assert_eq!((&found["step"], &found["reason"]), (&"pay".into(), &"refund_refused".into()));
    let path = format!("/admin/sagas/{}", found["id"].as_str().unwrap());
    let saga = client.get(&path).await;
    assert_eq!(saga["actions"], json!(["retry", "resolve done"]));
    assert_eq!(saga["traceId"], json!(saga["id"].as_str().unwrap().replace('-', "")), "nothing is traced");
    assert_eq!(
        saga["holds"]["certain"],
        json!([
            { "kind": "stock_reserved", "unit": "mug", "amount": 2 },
            { "kind": "money_captured", "unit": "EUR", "amount": 2500 },
        ])
    );

    // Refused without a reason, with nothing named, where it is not legal, and without evidence.
    let seen = looked_at(&saga);
    let (status, problem) = client.post(&format!("{path}/retry"), &json!({})).await;
    assert_eq!((status, &problem["errors"][0]["detail"]), (400, &"the field is missing".into()), "{problem}");
    for (action, body, lacks) in [
        ("retry", json!({ "reason": "x", "commandId": seen["commandId"] }), "/revision"),
        ("retry", json!({ "reason": "x", "revision": seen["revision"] }), "/commandId"),
        ("resolve", json!({ "outcome": "done", "reason": "x", "reference": "R" }), "/revision"),
        (
            "resolve",
            json!({ "outcome": "done", "reason": "x", "reference": "R", "revision": seen["revision"] }),
            "/commandId",
        ),
    ] {
        let (status, problem) = client.post(&format!("{path}/{action}"), &body).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (400, &lacks.into()), "{action}: {problem}");
    }
    let (status, problem) = client.post(&format!("{path}/cancel"), &json!({ "reason": "no" })).await;
    assert_eq!((status, &problem["type"]), (409, &"/problems/not-legal-now".into()));
    let (status, problem) = client.post(&format!("{path}/resend"), &json!({ "reason": "now" })).await;
    assert_eq!(
        (status, &problem["type"]),
        (409, &"/problems/not-legal-now".into()),
        "nothing waits for a time"
    );
    let unfounded = with(&seen, json!({ "outcome": "done", "reason": "x" }));
    let (status, problem) = client.post(&format!("{path}/resolve"), &unfounded).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (400, &"/reference".into()));

    // A retry is a new attempt, which is refused again.
    let retry = with(&seen, json!({ "reason": "perhaps now" }));
    assert_eq!(client.post(&format!("{path}/retry"), &retry).await.0, 200);
    let again = parked(&client, &id).await;
    assert_eq!(again["reason"], "refund_refused");

    // The state seen before that settles nothing any more.
    let by_transfer =
        json!({ "outcome": "done", "reason": "refunded by bank transfer", "reference": "BT-1" });
    for (action, body) in [("retry", retry), ("resolve", with(&seen, by_transfer.clone()))] {
        let (status, problem) = client.post(&format!("{path}/{action}"), &body).await;
        assert_eq!((status, &problem["type"]), (409, &"/problems/stale".into()), "{action}: {problem}");
    }
    let body = with(&looked_at(&client.get(&path).await), by_transfer);
    let (status, _) = client.post(&format!("{path}/resolve"), &body).await;
    assert_eq!(status, 200);
    assert_eq!(client.becomes(&id, "SHIPMENT_FAILED").await["reason"], "carrier_refused");
    let timeline = client.get(&format!("/api/orders/{id}/timeline")).await;
    let resolved = timeline["items"].as_array().unwrap().iter().find(|i| i["type"] == "resolved").unwrap();
    assert_eq!(resolved["detail"]["by"]["why"], "refunded by bank transfer");
    assert_eq!(resolved["detail"]["reference"], "BT-1");
}

/// Returns what an operator names of a saga that they have seen.
fn looked_at(saga: &Value) -> Value {
    let mut waits = saga["waitsFor"].as_array().unwrap().iter();
    let parked = waits.rfind(|wait| !wait["parked"].is_null()).unwrap();
    json!({ "revision": saga["revision"], "commandId": parked["commandId"] })
}

fn with(seen: &Value, mut body: Value) -> Value {
    let members = seen.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(members);
    body
}

async fn parked(client: &crate::support::client::Client, order: &str) -> Value {
    eventually("it is parked", LONG, || async move {
        let page = client.get("/admin/sagas?state=parked").await;
        let found = page["items"].as_array()?.iter().find(|s| s["businessKey"] == order).cloned()?;
        Some(found)
    })
    .await
}

async fn what_cannot_be_known_parks_and_is_resolved_by_evidence(broker: Broker) {
    let mut stack = Stack::new(broker).await;
    stack.set("AMENDS_UNKNOWN_PATIENCE", "3s");
    let all = stack.start_all().await;
    stack.stock("mug", 10).await;
    let client = all[5].client();
    let id = client.place(&order("mug", 2, "card_approved", "BV")).await;
    let found = parked(&client, &id).await;
    assert_eq!((&found["step"], &found["reason"]), (&"ship".into(), &"outcome_unknown".into()));
    let path = format!("/admin/sagas/{}", found["id"].as_str().unwrap());
    let seen = looked_at(&client.get(&path).await);
    let body =
        with(&seen, json!({ "outcome": "notDone", "reason": "the carrier looked", "reference": "C-7" }));
    assert_eq!(client.post(&format!("{path}/resolve"), &body).await.0, 200);
    client.becomes(&id, "SHIPMENT_FAILED").await;
}

async fn money_that_a_worker_without_its_rows_calls_undone_is_kept_in_sight(broker: Broker) {
    let mut stack = Stack::new(broker).await;
    stack.set("AMENDS_UNKNOWN_PATIENCE", "3s");
    let all = stack.start_all().await;
    stack.stock("mug", 10).await;
    let client = all[5].client();
    let id = client.place(&order("mug", 2, "card_approved", "BV")).await;
    let found = parked(&client, &id).await;
    let path = format!("/admin/sagas/{}", found["id"].as_str().unwrap());
    // Another payment worker takes their place, and knows nothing of the charge. They have to end before their rows go:
    // otherwise a rebalance can deliver the command again, and its row is there again.
    let (payments, _others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|process| process.role.ends_with("payment"));
    assert!(!payments.is_empty());
    for payment in payments {
        payment.stop().await;
    }
    sqlx::query("DELETE FROM commands").execute(stack.pool("payment")).await.unwrap();
    let _without_rows = stack.start(&["worker", "payment"]).await;
    let seen = looked_at(&client.get(&path).await);
    let body =
        with(&seen, json!({ "outcome": "notDone", "reason": "the carrier looked", "reference": "C-7" }));
    assert_eq!(client.post(&format!("{path}/resolve"), &body).await.0, 200);
    let saga = eventually("it is parked again", LONG, || async {
        let saga = client.get(&path).await;
        (saga["reason"] == "exposure_not_netted").then_some(saga)
    })
    .await;
    assert_eq!((&saga["state"], &saga["label"]), (&"parked".into(), &"CANCELLING".into()));
    let money = json!({ "kind": "money_captured", "unit": "EUR", "amount": 2500 });
    assert!(saga["holds"]["certain"].as_array().unwrap().contains(&money), "{saga}");
    assert_eq!(saga["actions"], json!(["retry", "resolve done"]));
    let by_transfer = json!({ "outcome": "done", "reason": "by bank transfer", "reference": "BT-1" });
    let body = with(&looked_at(&saga), by_transfer);
    assert_eq!(client.post(&format!("{path}/resolve"), &body).await.0, 200);
    client.becomes(&id, "SHIPMENT_FAILED").await;
}

async fn a_cancelled_order_ends_cancelled_and_a_shipped_one_cannot_be(broker: Broker) {
    let stack = Stack::new(broker).await;
    let all = stack.start_all().await;
    stack.stock("mug", 10).await;
    let client = all[5].client();
    // Its charge takes three seconds. Where the machine is slower than the card, another order is cancelled.
    let slow = eventually("an order is cancelled while it is charged", LONG, || async {
        let slow = client.place(&order("mug", 1, "card_slow", "AT")).await;
        let path = format!("/api/orders/{slow}");
        eventually("it is reserved", LONG, || async {
            (client.get(&path).await["status"] != "PENDING").then_some(())
        })
        .await;
        let (status, body) = client.delete(&path).await;
        if status == 409 {
            client.becomes(&slow, "FULFILLED").await;
            return None;
        }
        let is_so = (status, &body["status"], &body["headingFor"]);
        assert_eq!(is_so, (202, &"CANCELLING".into(), &"CANCELLED".into()));
        Some(slow)
    })
    .await;
    let (status, body) = client.delete(&format!("/api/orders/{slow}")).await;
    // It is on the way there, or has arrived.
    assert!(status == 202 || body["type"] == "/problems/cannot-cancel", "{body}");
    client.becomes(&slow, "CANCELLED").await;
    let (status, problem) = client.delete(&format!("/api/orders/{slow}")).await;
    assert_eq!((status, &problem["type"]), (409, &"/problems/cannot-cancel".into()));

    let quick = client.place(&order("mug", 1, "card_approved", "AT")).await;
    client.becomes(&quick, "FULFILLED").await;
    assert_eq!(client.delete(&format!("/api/orders/{quick}")).await.0, 409);
    books::settle(&stack).await;
    books::balance(&stack).await;
}

async fn a_poison_saga_parks_alone_and_the_rest_of_its_batch_goes_on(broker: Broker) {
    let stack = Stack::new(broker).await;
    sqlx::raw_sql("ALTER TABLE timeline ADD CONSTRAINT poison CHECK (body::json->'event'->'replied'->'reason'->>'code' IS DISTINCT FROM 'card_declined')")
        .execute(stack.pool("engine"))
        .await
        .unwrap();
    let all = stack.start_all().await;
    stack.stock("mug", 1000).await;
    let client = all[5].client();
    let bodies: Vec<Value> = (0..40)
        .map(|n| order("mug", 1, if n == 17 { "card_declined" } else { "card_approved" }, "AT"))
        .collect();
    let ids = join_all(bodies.iter().map(|body| client.place(body)).collect::<Vec<_>>()).await;
    for (n, id) in ids.iter().enumerate().filter(|(n, _)| *n != 17) {
        let order = client.becomes(id, "FULFILLED").await;
        assert_eq!(order["status"], "FULFILLED", "{n}");
    }
    assert_eq!(parked(&client, &ids[17]).await["reason"], "poisoned");
}

#[tokio::test]
async fn more_orders_than_are_admitted_are_sent_away_and_leave_nothing_behind() {
    let mut stack = Stack::embedded().await;
    // So few that not even a slow machine takes as long for all of them as their admission would.
    stack.set("AMENDS_ADMISSION", "5");
    let api = stack.start(&["api"]).await;
    let client = api.client();
    let body = order("mug", 1, "card_approved", "AT");
    let begun = Instant::now();
    let answers = join_all((0..200).map(|_| client.try_place(&body, None)).collect::<Vec<_>>()).await;
    let seconds = begun.elapsed().as_secs_f64();
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect("an answer")).collect();
    let (taken, away): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
    assert!(!away.is_empty() && away.iter().all(|answer| answer.status == 429), "{away:?}");
    assert!(away.iter().all(|answer| answer.body["type"] == "/problems/too-many-requests"));
    assert!(away.iter().all(|answer| answer.retry_after.is_some_and(|seconds| seconds >= 1)));
    // A burst of one second's worth, and then five per second.
    assert!(taken.len() >= 5 && taken.len() as f64 <= 5.0 * (2.0 + seconds), "{}", taken.len());
    for rows in ["orders", "sagas", "timeline"] {
        let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {rows}"));
        let count: i64 = sqlx::query_scalar(sql).fetch_one(stack.pool("engine")).await.unwrap();
        assert_eq!(usize::try_from(count).unwrap(), taken.len(), "{rows}");
    }
}
