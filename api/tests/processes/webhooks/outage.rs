//! A receiver that is down for an hour, in a minute: the hour passes in the database.

use amends_testkit::eventually;
use serde_json::{Value, json};

use super::{
    Hook, PATIENT, ids, place,
    receiver::{Received, Receiver, url_at},
};
use crate::support::{LONG, Stack, free_address};

/// Makes this time pass: every instant of webhooks moves into the past, but for the lease of who delivers.
async fn pass(stack: &Stack, minutes: i32) {
    let moved = [
        "UPDATE webhook_deliveries SET due_at = due_at - i, first_tried_at = first_tried_at - i, tried_at = tried_at - i
         FROM make_interval(mins => $1) AS i",
        "UPDATE webhooks SET failing_since = failing_since - i FROM make_interval(mins => $1) AS i",
    ];
    for update in moved {
        sqlx::query(update).bind(minutes).execute(stack.pool("engine")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_was_down_for_an_hour_gets_everything_once_and_in_order() {
    // Pauses and patience are as shipped.
    let mut stack = Stack::embedded().await;
    stack.set("AMENDS_WEBHOOK_TIMEOUT", PATIENT);
    let (api, mut engine) = tokio::join!(stack.start(&["api"]), stack.start(&["engine"]));
    let (client, address) = (api.client(), free_address().unwrap());
    let hook = Hook::create(&client, &url_at(address), &["order.*"], "event").await;
    let mut orders = Vec::new();
    for _ in 0..7 {
        let order = place(&client).await;
        assert_eq!(client.delete(&format!("/api/orders/{order}")).await.0, 202);
        orders.push(order);
    }
    hook.has("first attempts at two events of each order", |all| {
        all.len() == 2 * orders.len() && all.iter().all(|one| one["attempts"].as_i64() >= Some(1))
    })
    .await;
    let due = "SELECT count(*) FROM webhook_deliveries WHERE due_at <= now()";
    for _ in 0..6 {
        pass(&stack, 10).await;
        eventually("what was due has been tried", LONG, || async {
            let due: i64 = sqlx::query_scalar(due).fetch_one(stack.pool("engine")).await.unwrap();
            (due == 0).then_some(())
        })
        .await;
    }
    for delivery in hook.deliveries().await {
        let attempts = delivery["attempts"].as_i64().unwrap();
        assert_eq!(delivery["status"], "PENDING", "an hour is not too long: {delivery}");
        // 5 s after the first, and three times as long each time; the steps of this test are wider than the first pauses.
        assert!((4..=9).contains(&attempts), "{delivery}");
    }
    assert_eq!(client.get(&hook.path).await["enabled"], true);

    // The next attempts are within two hours. What is due at once is sent in its order.
    engine.kill();
    let back = Receiver::start_at(address).await;
    pass(&stack, 120).await;
    engine.kill_and_restart(&stack);
    let delivered = |all: &[Value]| all.iter().all(|one| one["status"] == "DELIVERED");
    assert_eq!(hook.has("everything is delivered", delivered).await.len(), 2 * orders.len());
    let received = back.received();
    assert_eq!((received.len(), ids(&received).len()), (2 * orders.len(), 2 * orders.len()), "each once");
    for order in &orders {
        let of = received.iter().map(Received::json).filter(|event| event["subject"] == json!(order));
        let numbers: Vec<Value> = of.map(|event| event["sequence"].clone()).collect();
        assert_eq!(numbers, [json!("1"), json!("2")], "{order}");
    }
    assert!(received.iter().all(|message| message.is_by(&hook.secret)));
    assert_eq!(client.get(&hook.path).await["enabled"], true);
}
