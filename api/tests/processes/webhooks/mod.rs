//! Webhooks: signed, in order, and with receivers that are down, slow, large, gone or elsewhere.

mod outage;
pub mod receiver;
mod routes;
mod secrets;

use std::collections::BTreeSet;

use amends_testkit::eventually;
use serde_json::{Value, json};

use crate::support::{
    Broker, LONG, Process, Stack,
    client::{Client, order},
    free_address,
};
use receiver::{Received, Receiver, Says, url_at};

/// A webhook, as its owner knows it.
struct Hook {
    client: Client,
    path: String,
    secret: String,
}

impl Hook {
    async fn create(client: &Client, url: &str, types: &[&str], format: &str) -> Self {
        let body = json!({ "url": url, "types": types, "format": format });
        let (status, created) = client.post("/api/webhooks", &body).await;
        assert_eq!(status, 201, "{created}");
        let secret = created["secret"].as_str().unwrap().to_owned();
        assert!(secret.starts_with("whsec_"), "{created}");
        Self {
            client: client.clone(),
            path: format!("/api/webhooks/{}", created["id"].as_str().unwrap()),
            secret,
        }
    }

    async fn of_all(client: &Client, receiver: &Receiver) -> Self {
        Self::create(client, &receiver.url(), &["order.*"], "event").await
    }

    /// Returns its newest deliveries.
    async fn deliveries(&self) -> Vec<Value> {
        let list = self.client.get(&format!("{}/deliveries", self.path)).await;
        list["items"].as_array().unwrap().clone()
    }

    /// Waits until there are deliveries of which this holds.
    async fn has(&self, what: &str, holds: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        eventually(what, LONG, || async {
            let deliveries = self.deliveries().await;
            holds(&deliveries).then_some(deliveries)
        })
        .await
    }

    /// Waits until it is disabled; returns the reason.
    async fn is_disabled(&self) -> String {
        eventually("the webhook is disabled", LONG, || async {
            let shown = self.client.get(&self.path).await;
            (shown["enabled"] == false)
                .then(|| shown["disabledReason"].as_str().unwrap_or_default().to_owned())
        })
        .await
    }

    async fn enable(&self) {
        let patch = json!({ "enabled": true });
        assert_eq!(patched(&self.client, &self.path, &patch).await["enabled"], true);
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.client.post(&format!("{}{path}", self.path), body).await;
        assert!((200..300).contains(&status), "{status} {answer}");
        answer
    }
}

/// How long a receiver may take: longer than one of a test does on a busy machine, so that nothing is sent twice.
const PATIENT: &str = "60s";

/// An api and an engine: enough for the events of orders that nobody reserves.
async fn api_and_engine(settings: &[(&str, &str)]) -> (Stack, Process, Process) {
    let mut stack = Stack::embedded().await;
    stack.set("AMENDS_WEBHOOK_RETRY_LEAST", "100ms").set("AMENDS_WEBHOOK_RETRY_MOST", "300ms");
    stack.set("AMENDS_WEBHOOK_TIMEOUT", PATIENT);
    for (key, value) in settings {
        stack.set(key, value);
    }
    let (api, engine) = tokio::join!(stack.start(&["api"]), stack.start(&["engine"]));
    (stack, api, engine)
}

async fn place(client: &Client) -> String {
    client.place(&order("mug", 1, "card_approved", "AT")).await
}

async fn patched(client: &Client, path: &str, body: &Value) -> Value {
    let (status, answer) = client.patch(path, body).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

fn types(received: &[Received]) -> Vec<String> {
    received.iter().map(|message| message.json()["type"].as_str().unwrap().to_owned()).collect()
}

fn ids(received: &[Received]) -> BTreeSet<String> {
    received.iter().map(|message| message.id().to_owned()).collect()
}

/// Returns whether all of these orders have been received.
fn has_orders(received: &[Received], orders: &[String]) -> bool {
    let subjects: BTreeSet<String> =
        received.iter().map(|message| message.json()["subject"].as_str().unwrap().to_owned()).collect();
    orders.iter().all(|order| subjects.contains(order))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_of_an_order_arrives_once_signed_and_in_order_and_is_listed() {
    let mut stack = Stack::new(Broker::embedded()).await;
    stack.set("AMENDS_WEBHOOK_TIMEOUT", PATIENT);
    let all = stack.start_all().await;
    // Two engines share the work.
    let _second = stack.start(&["engine"]).await;
    stack.stock("mug", 5).await;
    let client = all.iter().find(|process| process.role == "api").unwrap().client();
    let (events, snapshots, none) =
        (Receiver::start().await, Receiver::start().await, Receiver::start().await);
    let hook = Hook::of_all(&client, &events).await;
    let snapshot =
        Hook::create(&client, &snapshots.url(), &["order.created", "order.fulfilled"], "snapshot").await;
    Hook::create(&client, &none.url(), &["refund.*"], "event").await;
    let placed = place(&client).await;
    client.becomes(&placed, "FULFILLED").await;

    let received = events.gets("the order's events", |received| received.len() >= 4).await;
    let expected = ["order.created", "order.confirmed", "order.paid", "order.fulfilled"];
    assert_eq!(types(&received), expected);
    for (n, message) in received.iter().enumerate() {
        let event = message.json();
        assert_eq!((&event["sequence"], &event["subject"]), (&json!((n + 1).to_string()), &json!(placed)));
        assert_eq!((&event["specversion"], &event["data"]["orderId"]), (&json!("1.0"), &json!(placed)));
        assert!(message.is_by(&hook.secret) && !message.is_by(&snapshot.secret), "{event}");
    }
    let listed =
        hook.has("all are delivered", |all| all.iter().all(|one| one["status"] == "DELIVERED")).await;
    assert_eq!(listed.len(), 4);
    let newest = &listed[0];
    assert_eq!((&newest["type"], &newest["sequence"]), (&json!("order.fulfilled"), &json!("4")));
    assert_eq!((&newest["attempts"], &newest["answer"]), (&json!(1), &json!({ "status": 204, "body": "" })));
    assert_eq!((&newest["orderId"], &newest["webhookId"]), (&json!(placed), &json!(received[3].id())));
    assert!(newest["nextAttemptAt"].is_null(), "{newest}");

    let received = snapshots.gets("two snapshots", |received| received.len() >= 2).await;
    let shown = received[1].json();
    assert_eq!((&shown["type"], &shown["sequence"]), (&json!("order.fulfilled"), &json!("4")));
    assert_eq!((&shown["data"]["status"], &shown["data"]["id"]), (&json!("FULFILLED"), &json!(placed)));
    assert_eq!(shown["data"]["lines"][0]["fulfilled"], 1);
    assert!(received.iter().all(|message| message.is_by(&snapshot.secret)));
    for message in events.received().iter().chain(&received) {
        let text = message.json().to_string();
        assert!(!text.contains("Long Street") && !text.contains("sagaId\":null"), "{text}");
    }
    assert_eq!((events.received().len(), ids(&events.received()).len()), (4, 4), "each once");
    assert_eq!(none.received().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_down_or_hangs_delays_no_other_and_gets_everything_once_it_is_back() {
    let (_stack, api, _engine) = api_and_engine(&[]).await;
    let client = api.client();
    let (good, hanging) = (Receiver::start().await, Receiver::start().await);
    // Nothing listens at this port, and no other program is given it.
    let address = free_address().unwrap();
    hanging.says(Says::Nothing);
    let hangs = Hook::of_all(&client, &hanging).await;
    let away = Hook::create(&client, &url_at(address), &["order.*"], "event").await;
    Hook::of_all(&client, &good).await;
    let mut orders = Vec::new();
    for _ in 0..8 {
        orders.push(place(&client).await);
    }
    good.gets("every order's event", |received| has_orders(received, &orders)).await;
    let tried = away.has("a second attempt at the dead receiver", |all| {
        all.len() >= orders.len() && all.iter().all(|one| one["attempts"].as_i64() >= Some(2))
    });
    for delivery in tried.await {
        assert_eq!((&delivery["status"], &delivery["answer"]), (&json!("PENDING"), &Value::Null));
        assert_eq!(delivery["reason"], "no connection could be made");
        assert!(delivery["nextAttemptAt"].is_string(), "{delivery}");
    }
    let pending = client.get(&format!("{}/deliveries?status=DELIVERED", away.path)).await;
    assert_eq!(pending["items"], json!([]));
    // At most so many requests at once, and all that is due waits for one receiver only.
    hanging.gets("as many as there may be at once", |received| received.len() >= 4).await;
    assert_eq!(hanging.most_at_once(), 4);
    assert!(hangs.deliveries().await.iter().all(|delivery| delivery["status"] == "PENDING"));

    let back = Receiver::start_at(address).await;
    let received = back.gets("everything", |received| has_orders(received, &orders)).await;
    assert!(received.iter().all(|message| message.is_by(&away.secret)));
    away.has("everything is delivered", |all| all.iter().all(|one| one["status"] == "DELIVERED")).await;
    assert_eq!(good.received().len(), ids(&good.received()).len(), "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_410_disables_at_once_and_what_was_missed_is_sent_on_demand() {
    let (_stack, api, _engine) = api_and_engine(&[]).await;
    let client = api.client();
    let receiver = Receiver::start().await;
    let hook = Hook::of_all(&client, &receiver).await;
    receiver.says(Says::Status(410));
    let first = place(&client).await;
    assert_eq!(hook.is_disabled().await, "The receiver answered 410 Gone.");
    let second = place(&client).await;
    let listed = hook.has("both are noted", |all| all.len() == 2).await;
    let status = |n: usize| (&listed[n]["status"], &listed[n]["attempts"]);
    assert_eq!((status(0), status(1)), ((&json!("SKIPPED"), &json!(0)), (&json!("FAILED"), &json!(1))));
    assert_eq!(listed[1]["answer"]["status"], 410);

    receiver.says(Says::Status(200));
    hook.enable().await;
    assert!(client.get(&hook.path).await.get("disabledReason").is_none());
    let third = place(&client).await;
    receiver.gets("the third order", |received| has_orders(received, std::slice::from_ref(&third))).await;
    assert_eq!(receiver.received().len(), 2, "nothing else is sent by itself");
    let path = format!("/deliveries/{}/resend", listed[0]["id"].as_str().unwrap());
    assert_eq!(hook.post(&path, &Value::Null).await["status"], "PENDING");
    receiver.gets("the second order", |received| has_orders(received, std::slice::from_ref(&second))).await;
    // It is noted as delivered after it has arrived.
    hook.has("nothing is on its way", |all| all.iter().all(|one| one["status"] != "PENDING")).await;
    let resent = hook.post("/resend", &json!({ "since": "2026-01-01T00:00:00Z" })).await;
    assert_eq!(resent, json!({ "deliveries": 3, "next": null }));
    let received = receiver.gets("all of them", |received| {
        received.len() >= 6 && has_orders(received, &[first.clone(), second.clone(), third.clone()])
    });
    assert_eq!(ids(&received.await).len(), 3, "each has its own id, the same every time");
    assert_eq!(hook.post("/resend", &json!({ "since": "2100-01-01T00:00:00Z" })).await["deliveries"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_fails_for_longer_than_the_patience_is_disabled_and_may_be_enabled_again() {
    let (_stack, api, _engine) = api_and_engine(&[("AMENDS_WEBHOOK_PATIENCE", "1s")]).await;
    let client = api.client();
    let receiver = Receiver::start().await;
    let hook = Hook::of_all(&client, &receiver).await;
    receiver.says(Says::Status(302));
    let order = place(&client).await;
    assert_eq!(hook.is_disabled().await, "Every attempt has failed for 1s.");
    let given_up = &hook.deliveries().await[0];
    assert_eq!(given_up["answer"]["status"], 302, "a redirect is a failure: {given_up}");
    // A first one, and one after the patience; more where the machine has time for them.
    assert!(given_up["attempts"].as_i64() >= Some(2), "{given_up}");
    let ids_before = ids(&receiver.received());
    assert_eq!(ids_before.len(), 1, "the same id at every attempt");
    receiver.says(Says::TenMegabytes);
    hook.enable().await;
    hook.post("/resend", &json!({ "since": "2026-01-01T00:00:00Z" })).await;
    let listed = hook.has("it is delivered", |all| all[0]["status"] == "DELIVERED").await;
    assert_eq!(listed[0]["answer"], json!({ "status": 200, "body": "x".repeat(1_000) }));
    assert!(has_orders(&receiver.received(), &[order]));
    assert_eq!(ids(&receiver.received()), ids_before);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_rotation_both_secrets_sign_until_the_overlap_has_ended() {
    let (stack, api, _engine) = api_and_engine(&[("AMENDS_WEBHOOK_SECRET_OVERLAP", "1h")]).await;
    let client = api.client();
    let receiver = Receiver::start().await;
    let hook = Hook::of_all(&client, &receiver).await;
    let rotated = hook.post("/rotate-secret", &Value::Null).await;
    let new = rotated["secret"].as_str().unwrap();
    assert!(rotated["previousSecretUntil"].is_string() && new != hook.secret, "{rotated}");
    hook.post("/test", &Value::Null).await;
    let received = receiver.gets("a test event", |received| !received.is_empty()).await;
    assert_eq!(received[0].json()["type"], "webhook.test");
    assert_eq!(received[0].header("webhook-signature").split(' ').count(), 2);
    assert!(received[0].is_by(new) && received[0].is_by(&hook.secret));
    // The hour is over.
    let overlap_ends = "UPDATE webhooks SET previous_until = now()";
    sqlx::query(overlap_ends).execute(stack.pool("engine")).await.unwrap();
    let last = eventually("one secret signs", LONG, || async {
        let sent = receiver.received().len();
        hook.post("/test", &Value::Null).await;
        let received = receiver.gets("another test event", |received| received.len() > sent).await;
        let last = received.last().unwrap().clone();
        (last.header("webhook-signature").split(' ').count() == 1).then_some(last)
    })
    .await;
    assert!(last.is_by(new) && !last.is_by(&hook.secret));
    let stored: Vec<(String, Option<String>)> =
        sqlx::query_as("SELECT secret, previous_secret FROM webhooks")
            .fetch_all(stack.pool("engine"))
            .await
            .unwrap();
    for secret in [new, &hook.secret] {
        let bare = secret.trim_start_matches("whsec_");
        assert!(!format!("{stored:?}").contains(bare) && stored[0].0.starts_with("v1."), "{stored:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_before_it_records_a_delivery_sends_it_again_with_the_same_id() {
    let (stack, api, mut engine) = api_and_engine(&[]).await;
    let client = api.client();
    let receiver = Receiver::start().await;
    let hook = Hook::of_all(&client, &receiver).await;
    receiver.says(Says::Nothing);
    let order = place(&client).await;
    receiver.gets("the first attempt", |received| has_orders(received, std::slice::from_ref(&order))).await;
    engine.kill();
    receiver.says(Says::Status(200));
    engine.kill_and_restart(&stack);
    let received = receiver.gets("the second attempt", |received| received.len() >= 2).await;
    assert_eq!(ids(&received).len(), 1);
    assert_eq!(received[0].json(), received[1].json());
    let listed = hook.has("it is delivered", |all| all[0]["status"] == "DELIVERED").await;
    assert_eq!(listed.len(), 1, "events that are published again are planned once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_address_is_refused_by_the_engine_too_and_nothing_connects() {
    let mut stack = Stack::embedded().await;
    let api = stack.start(&["api"]).await;
    stack.unset("AMENDS_WEBHOOK_ALLOW_PRIVATE");
    let _engine = stack.start(&["engine"]).await;
    let receiver = Receiver::start().await;
    let hook = Hook::of_all(&api.client(), &receiver).await;
    hook.post("/test", &Value::Null).await;
    let listed = hook.has("an attempt", |all| all[0]["attempts"].as_i64() >= Some(1)).await;
    assert!(listed[0]["reason"].as_str().unwrap().starts_with("refused: "), "{listed:?}");
    assert_eq!(receiver.received().len(), 0);
}
