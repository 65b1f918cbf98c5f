//! Traces of whole deployments: in a sink of this test, which takes OTLP, and with `AMENDS_TEST_TRACES` by a real
//! OpenTelemetry Collector in a real Zipkin.

mod sink;
mod zipkin;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use amends_testkit::eventually;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::{
    support::{LONG, Process, Stack, client::Client, client::order},
    webhooks::receiver::Receiver,
};
use sink::Sink;
use zipkin::Zipkin;

/// A word in everything that is personal in these orders.
const PERSONAL: &str = "zaphod";

/// A span, as a backend shows it. Zipkin writes names in lower case.
#[derive(Debug, Clone)]
pub struct Seen {
    id: String,
    parent: Option<String>,
    name: String,
    service: String,
    attributes: BTreeMap<String, String>,
    micros: u64,
}

/// Where spans are read.
trait Backend {
    async fn spans(&self, trace_id: &str) -> Vec<Seen>;
}

/// Returns the way to each span from the top, as `api post /api/orders > api send inventory.commands`, and the ids of the
/// parents that are missing.
fn ways(spans: &[Seen]) -> (BTreeSet<String>, BTreeSet<String>) {
    let by_id: BTreeMap<&str, &Seen> = spans.iter().map(|span| (span.id.as_str(), span)).collect();
    let mut missing = BTreeSet::new();
    let mut way = |span: &Seen| {
        let (mut names, mut at) = (Vec::new(), Some(span));
        while let Some(span) = at {
            let outcome = span.attributes.get("amends.outcome");
            let kind = span.attributes.get("amends.command.kind").filter(|kind| *kind == "compensate");
            let step = span.attributes.get("amends.step").filter(|_| span.name.starts_with("send "));
            let notes: Vec<&str> = [step, kind, outcome].into_iter().flatten().map(String::as_str).collect();
            let service = span.service.trim_start_matches("amends-");
            let notes = if notes.is_empty() { String::new() } else { format!(" [{}]", notes.join(" ")) };
            names.push(format!("{service} {}{notes}", span.name));
            at = match &span.parent {
                Some(parent) => {
                    let above = by_id.get(parent.as_str()).copied();
                    if above.is_none() {
                        missing.insert(parent.clone());
                    }
                    above
                }
                None => None,
            };
        }
        names.reverse();
        names.join(" > ")
    };
    (spans.iter().map(&mut way).collect(), missing)
}

/// Three orders, each with a trace that its client has begun.
struct Orders {
    fulfilled: Order,
    compensated: Order,
    resumed: Order,
}

struct Order {
    id: String,
    trace_id: String,
    /// The client's span.
    client: String,
}

impl Order {
    /// Places an order, in a trace of the client's.
    async fn place(api: &Process, number: u8, method: &str, country: &str) -> Self {
        let (trace_id, client) = (format!("{number:02x}").repeat(16), format!("{number:02x}").repeat(8));
        let mut body = order("mug", 1, method, country);
        body["customerId"] = json!(format!("{PERSONAL}-{number}"));
        body["contact"] = json!({ "email": format!("{PERSONAL}@example.org") });
        for field in ["name", "line1", "city"] {
            body["shippingAddress"][field] = json!(format!("{PERSONAL} {field}"));
        }
        let url = format!("http://{}/api/orders", api.address);
        let request = reqwest::Client::new().post(url).json(&body);
        let answer =
            request.header("traceparent", format!("00-{trace_id}-{client}-01")).send().await.unwrap();
        let placed: Value = answer.json().await.unwrap();
        Self { id: placed["id"].as_str().expect("an id").to_owned(), trace_id, client }
    }

    /// Waits until its trace has these ways, and nothing in it lacks a parent.
    async fn has(&self, backend: &impl Backend, expected: &[&str]) -> Vec<Seen> {
        let missing = |ways: &BTreeSet<String>| -> Vec<String> {
            expected.iter().filter(|way| !ways.contains(**way)).map(|way| (*way).to_owned()).collect()
        };
        let began = Instant::now();
        loop {
            let spans = backend.spans(&self.trace_id).await;
            let (found, above) = ways(&spans);
            let complete = missing(&found).is_empty() && above == BTreeSet::from([self.client.clone()]);
            if complete {
                return spans;
            }
            if began.elapsed() > LONG {
                panic!("missing: {:#?}\nfound: {found:#?}\nparents: {above:?}", missing(&found));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn parked(client: &Client, order: &str) -> Value {
    let found = eventually("it is parked", LONG, || async move {
        let page = client.get("/admin/sagas?state=parked").await;
        page["items"].as_array()?.iter().find(|saga| saga["businessKey"] == order).cloned()
    })
    .await;
    client.get(&format!("/admin/sagas/{}", found["id"].as_str().unwrap())).await
}

/// Starts all roles, which export there, and takes three orders to their ends.
async fn orders(stack: &mut Stack, endpoint: &str, protocol: &str) -> (Vec<Process>, Orders, Receiver) {
    stack.set("AMENDS_OTLP_ENDPOINT", endpoint).set("AMENDS_OTLP_PROTOCOL", protocol);
    stack.set("AMENDS_TRACE_SAMPLING", "1").set("AMENDS_NOTIFICATION_PREVIEWS", "true");
    let all = stack.start_all().await;
    stack.stock("mug", 10).await;
    let api = all.iter().find(|process| process.role == "api").unwrap();
    let client = api.client();
    let receiver = Receiver::start().await;
    let hook = json!({ "url": receiver.url(), "types": ["order.*"], "format": "event" });
    assert_eq!(client.post("/api/webhooks", &hook).await.0, 201);

    let orders = Orders {
        fulfilled: Order::place(api, 1, "card_approved", "AT").await,
        compensated: Order::place(api, 2, "card_declined", "AT").await,
        resumed: Order::place(api, 3, "card_refund_refused", "AQ").await,
    };
    client.becomes(&orders.fulfilled.id, "FULFILLED").await;
    client.becomes(&orders.compensated.id, "PAYMENT_FAILED").await;
    let saga = parked(&client, &orders.resumed.id).await;
    assert_eq!(saga["traceId"], json!(orders.resumed.trace_id));
    // The bank has mended what made it refuse.
    sqlx::query("UPDATE gateway_charges SET method = 'card_approved'")
        .execute(stack.pool("payment"))
        .await
        .unwrap();
    let waits = saga["waitsFor"].as_array().unwrap().iter().rfind(|wait| !wait["parked"].is_null()).unwrap();
    let retry = json!({ "reason": "mended", "revision": saga["revision"], "commandId": waits["commandId"] });
    let path = format!("/admin/sagas/{}/retry", saga["id"].as_str().unwrap());
    assert_eq!(client.post(&path, &retry).await.0, 200);
    client.becomes(&orders.resumed.id, "SHIPMENT_FAILED").await;
    (all, orders, receiver)
}

/// The ways that the three orders have in common, and their own.
async fn all_is_there(backend: &impl Backend, orders: &Orders, receiver: &Receiver) {
    const RESERVED: &str = "api post /api/orders > api send inventory.commands [reserve] > engine process saga.replies [succeeded]";
    const PAID: &str = " > engine send payment.commands [pay] > engine process saga.replies [succeeded]";
    const SHIPPED: &str = " > engine send shipment.commands [ship] > engine process saga.replies";
    let expected = [
        "api post /api/orders".to_owned(),
        "api post /api/orders > api send inventory.commands [reserve] > inventory process inventory.commands > inventory transaction".to_owned(),
        "api post /api/orders > api send inventory.commands [reserve] > inventory process inventory.commands > inventory send saga.replies [reserve succeeded]".to_owned(),
        format!("{RESERVED} > engine send payment.commands [pay] > payment process payment.commands > payment execute payment [succeeded]"),
        format!("{RESERVED}{PAID} > engine send shipment.commands [ship] > shipment process shipment.commands > shipment execute shipment [succeeded]"),
        format!("{RESERVED}{PAID}{SHIPPED} [succeeded] > engine send inventory.commands [take] > inventory process inventory.commands"),
        "api post /api/orders > engine send order.created > notification process order.created > notification send email [skipped]".to_owned(),
        "api post /api/orders > engine send order.fulfilled".to_owned(),
        "api post /api/orders > engine post webhook".to_owned(),
    ];
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    let spans = orders.fulfilled.has(backend, &expected).await;
    for span in &spans {
        assert!(span.micros < 60_000_000, "no span lasts as long as a saga: {span:?}");
        let text = format!("{span:?}").to_lowercase();
        assert!(!text.contains(PERSONAL) && !text.contains("example.org"), "personal: {span:?}");
    }
    let of_message = spans.iter().find(|span| span.name == "send payment.commands").unwrap();
    for (name, value) in [
        ("messaging.system", "kafka"),
        ("messaging.operation.name", "send"),
        ("messaging.operation.type", "send"),
        ("messaging.destination.name", "payment.commands"),
        ("amends.step", "pay"),
    ] {
        assert_eq!(of_message.attributes.get(name).map(String::as_str), Some(value), "{name}");
    }

    let undone = format!(
        "{RESERVED} > engine send payment.commands [pay] > engine process saga.replies [refused] > engine send inventory.commands [reserve compensate]"
    );
    let undone_by_worker = format!("{undone} > inventory process inventory.commands [compensate]");
    orders.compensated.has(backend, &[&undone, &undone_by_worker]).await;

    let refused =
        format!("{RESERVED}{PAID}{SHIPPED} [refused] > engine send payment.commands [pay compensate]");
    let retried = "api post /api/orders > api apply event > api send payment.commands [pay compensate]";
    let refunded = format!(
        "{retried} > payment process payment.commands [compensate] > payment undo payment [compensate succeeded]"
    );
    let released = format!(
        "{retried} > engine process saga.replies [compensate succeeded] > engine send inventory.commands [reserve compensate]"
    );
    orders.resumed.has(backend, &[&refused, retried, &refunded, &released]).await;

    let hooked = receiver
        .gets("the webhook of the fulfilled order", |all| {
            all.iter().any(|one| {
                one.json()["type"] == "order.fulfilled" && one.json()["subject"] == *orders.fulfilled.id
            })
        })
        .await;
    let hooked = hooked.iter().find(|one| one.json()["subject"] == *orders.fulfilled.id).unwrap();
    assert!(hooked.header("traceparent").contains(&orders.fulfilled.trace_id));
    assert!(hooked.json()["traceparent"].as_str().unwrap().contains(&orders.fulfilled.trace_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_one_trace_and_a_collector_that_hangs_costs_nothing() {
    let (mut stack, sink) = (Stack::embedded().await, Sink::start().await);
    let (all, orders, receiver) = orders(&mut stack, &sink.endpoint(), "http").await;
    all_is_there(&sink, &orders, &receiver).await;

    let api = all.iter().find(|process| process.role == "api").unwrap();
    let client = api.client();
    // A malformed context is ignored: the order has a trace of its own.
    let answer = reqwest::Client::new()
        .post(format!("http://{}/api/orders", api.address))
        .header("traceparent", "00-nonsense-01")
        .json(&order("mug", 1, "card_approved", "AT"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 201);
    let placed: Value = answer.json().await.unwrap();
    let id = placed["id"].as_str().unwrap();
    let found = client.get(&format!("/admin/sagas?businessKey={id}")).await;
    let saga = client.get(&format!("/admin/sagas/{}", found["items"][0]["id"].as_str().unwrap())).await;
    let trace_id = saga["traceId"].as_str().unwrap().to_owned();
    eventually("the order's own trace is there", LONG, || async {
        let spans = sink.spans(&trace_id).await;
        spans.iter().any(|span| span.name == "post /api/orders" && span.parent.is_none()).then_some(())
    })
    .await;

    sink.hangs();
    let placed = client.place(&order("mug", 1, "card_approved", "AT")).await;
    client.becomes(&placed, "FULFILLED").await;
    eventually("spans are dropped", LONG, || async {
        let (_, metrics) = client.try_get_text("/metrics").await?;
        let failed = "amends_trace_spans_dropped_total{reason=\"export_failed\"} ";
        let count = metrics.lines().find_map(|line| line.strip_prefix(failed))?;
        (count != "0").then_some(())
    })
    .await;
    // Each gives up its last export after some seconds.
    let began = Instant::now();
    join_all(all.into_iter().map(Process::stop)).await;
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_collector_and_a_real_zipkin_show_orders_as_trees() {
    let Some(zipkin) = Zipkin::start().await else { return };
    let mut stack = Stack::embedded().await;
    let endpoint = zipkin.otlp.clone();
    let (_all, orders, receiver) = orders(&mut stack, &endpoint, "grpc").await;
    all_is_there(&zipkin, &orders, &receiver).await;
}
