//! Runs sample orders through every outcome, over HTTP like any client, and prints their timelines as they happen.

mod client;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use reqwest::Url;
use serde_json::{Value, json};

use crate::remote;
use client::Client;

/// A sample that has not ended after this time has failed.
const SAMPLE_LONGEST: Duration = Duration::from_secs(60);
/// Interval between two reads of a timeline.
const LOOK_EVERY: Duration = Duration::from_millis(40);

/// An order, and its expected end.
struct Sample {
    title: &'static str,
    product: &'static str,
    method: &'static str,
    country: &'static str,
    ends: &'static str,
    reason: Option<&'static str>,
    intervention: Intervention,
}

/// An additional action on a sample.
#[derive(PartialEq)]
enum Intervention {
    None,
    /// The order is cancelled as soon as the payment is in progress.
    Cancel,
    /// The order is found parked, and resolved by an operator.
    Resolve,
    /// Once it is complete, this many pieces are to come back (`None`: all); an operator decides.
    Return {
        pieces: Option<i64>,
        approve: bool,
    },
    /// Once it is complete, an operator pays some of it back.
    Goodwill,
}

const MUG: &str = "sample-mug";
const SOLD_OUT: &str = "sample-sold-out";
/// The price of both, in cents.
const UNIT_PRICE: i64 = 1250;

const SAMPLES: [Sample; 12] = [
    sample("an order is fulfilled", MUG, "card_approved", "AT", "FULFILLED", None, Intervention::None),
    sample(
        "the product is out of stock",
        SOLD_OUT,
        "card_approved",
        "AT",
        "FAILED",
        Some("out_of_stock"),
        Intervention::None,
    ),
    sample(
        "the card is declined",
        MUG,
        "card_declined",
        "AT",
        "PAYMENT_FAILED",
        Some("card_declined"),
        Intervention::None,
    ),
    sample(
        "the carrier refuses",
        MUG,
        "card_approved",
        "AQ",
        "SHIPMENT_FAILED",
        Some("carrier_refused"),
        Intervention::None,
    ),
    sample(
        "cancelled while a slow card is charged",
        MUG,
        "card_slow",
        "AT",
        "CANCELLED",
        None,
        Intervention::Cancel,
    ),
    sample(
        "the gateway's answer gets lost",
        MUG,
        "card_lost_reply",
        "AT",
        "FULFILLED",
        None,
        Intervention::None,
    ),
    sample("the gateway errs twice", MUG, "card_error_twice", "AT", "FULFILLED", None, Intervention::None),
    sample(
        "the refund is refused: parked, then resolved by an operator",
        MUG,
        "card_refund_refused",
        "AQ",
        "SHIPMENT_FAILED",
        Some("carrier_refused"),
        Intervention::Resolve,
    ),
    sample(
        "the customer returns everything",
        MUG,
        "card_approved",
        "AT",
        "RETURNED",
        None,
        Intervention::Return { pieces: None, approve: true },
    ),
    sample(
        "the customer returns one of two",
        MUG,
        "card_approved",
        "AT",
        "PARTIALLY_RETURNED",
        None,
        Intervention::Return { pieces: Some(1), approve: true },
    ),
    sample(
        "the return is rejected",
        MUG,
        "card_approved",
        "AT",
        "FULFILLED",
        None,
        Intervention::Return { pieces: None, approve: false },
    ),
    sample("goodwill: 5.00 EUR back", MUG, "card_approved", "AT", "FULFILLED", None, Intervention::Goodwill),
];

const fn sample(
    title: &'static str,
    product: &'static str,
    method: &'static str,
    country: &'static str,
    ends: &'static str,
    reason: Option<&'static str>,
    intervention: Intervention,
) -> Sample {
    Sample { title, product, method, country, ends, reason, intervention }
}

/// Runs the samples against the api at this address, with the token of the environment; returns whether each ended as
/// expected.
///
/// # Errors
/// The api cannot be reached, or refuses to add the samples' products.
pub fn run_at(api: &Url) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(api.as_str().trim_end_matches('/'), remote::token()))
}

/// Runs the samples one after the other; returns whether each ended as expected.
pub async fn run(url: &str, token: Option<String>) -> Result<bool> {
    let client = Client::new(url, token)?;
    for (product, name, on_hand) in [(SOLD_OUT, "Sample, sold out", 0), (MUG, "Sample mug", 1000)] {
        let priced = json!({ "name": name, "unitPrice": UNIT_PRICE, "currency": "EUR" });
        client.put(&format!("/api/products/{product}"), &priced).await?;
        client.put(&format!("/api/inventory/{product}/stock"), &json!({ "onHand": on_hand })).await?;
    }
    let mut well = 0;
    for (n, sample) in SAMPLES.iter().enumerate() {
        println!("\n{} of {}: {}", n + 1, SAMPLES.len(), sample.title);
        match sample.take(&client).await {
            Ok(()) => well += 1,
            Err(error) => println!("  NOT as it should be: {error:#}"),
        }
    }
    println!("\n{well} of {} samples ended as they should", SAMPLES.len());
    Ok(well == SAMPLES.len())
}

/// Prints what to try next, as commands that work in any directory. `data` is the directory of the key that signs
/// tokens: they are sent whether or not they are needed, and checked either way.
pub fn invite(url: &str, database: &str, brokers: &str, data: &Path) {
    let place = json!({
        "customerId": "c-1001", "currency": "EUR",
        "lines": [{ "productId": MUG, "quantity": 2 }],
        "payment": { "method": "card_approved" },
        "contact": { "email": "test.customer@example.org" },
        "shippingAddress": { "name": "Test Customer", "line1": "1 Long Street", "city": "Vienna",
                             "postalCode": "1010", "country": "AT" },
    });
    println!("\n  orders    {url}/api/orders");
    println!("  products  {url}/api/products");
    println!("  stock     {url}/api/inventory/{MUG}");
    println!("  messages  {url}/api/notifications (what customers would be sent: /api/notifications/<id>)");
    println!("  sagas     {url}/admin/sagas?state=parked");
    println!("  health    {url}/health/ready");
    println!("  metrics   {url}/metrics");
    println!("  Postgres  {}", without_password(database));
    println!("  Kafka     {brokers}");
    // A program that was just built is on no search path.
    let program = std::env::current_exe().unwrap_or_else(|_| "amends".into());
    let data = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
    let (program, data, key) = (program.display(), data.display(), uuid::Uuid::new_v4());
    let bearer = "-H \"authorization: Bearer $TOKEN\"";
    println!("\nPlace an order, and read your orders:\n");
    println!("  TOKEN=$('{program}' token --role customer --subject c-1001 --data '{data}')");
    println!("  curl -si {url}/api/orders {bearer} -H 'content-type: application/json' \\");
    println!("    -H 'idempotency-key: {key}' -d '{place}'");
    println!("  curl -s {url}/api/orders {bearer}\n");
    println!("Ctrl-C stops everything.");
}

fn without_password(url: &str) -> String {
    match reqwest::Url::parse(url) {
        Ok(mut url) => {
            let _ = url.set_password(None);
            url.to_string()
        }
        Err(_) => String::new(),
    }
}

impl Sample {
    async fn take(&self, client: &Client) -> Result<()> {
        let order = json!({
            "customerId": "c-1001", "currency": "EUR",
            "lines": [{ "productId": self.product, "quantity": 2 }],
            "payment": { "method": self.method },
            "contact": { "email": "test.customer@example.org", "phone": "+436641234567" },
            "shippingAddress": { "name": "Test Customer", "line1": "1 Long Street", "city": "Vienna",
                                 "postalCode": "1010", "country": self.country },
        });
        let began = Instant::now();
        let placed = client.post("/api/orders", &order).await?;
        let id = placed["id"].as_str().context("the answer has no id")?.to_owned();
        println!("  order {id}: 2 x {}, 25.00 EUR, {}, to {}", self.product, self.method, self.country);
        let mut seen = 0;
        let mut intervened = self.intervention == Intervention::None;
        loop {
            anyhow::ensure!(
                began.elapsed() < SAMPLE_LONGEST,
                "it has not ended after {}s",
                SAMPLE_LONGEST.as_secs()
            );
            let timeline = client.get(&format!("/api/orders/{id}/timeline")).await?;
            let items = timeline["items"].as_array().cloned().unwrap_or_default();
            for item in items.iter().skip(seen) {
                println!("  {}", line(&items[0], item));
            }
            seen = items.len();
            let last = items.last().cloned().unwrap_or_default();
            if !intervened {
                intervened = self.intervene(client, &id, &items).await?;
            } else if !last["detail"]["ended"].is_null() {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let now = client.get(&format!("/api/orders/{id}")).await?;
        let (status, reason) = (now["status"].as_str().unwrap_or(""), now["reason"].as_str());
        anyhow::ensure!(status == self.ends, "it ended {status}, not {}", self.ends);
        anyhow::ensure!(reason == self.reason, "its reason is {reason:?}, not {:?}", self.reason);
        let reason = reason.map(|r| format!(" ({r})")).unwrap_or_default();
        println!("  = {status}{reason}, as it should be, after {:.1} s", began.elapsed().as_secs_f64());
        Ok(())
    }

    /// Intervenes, once its moment has come; returns whether it has.
    async fn intervene(&self, client: &Client, id: &str, items: &[Value]) -> Result<bool> {
        match self.intervention {
            Intervention::None => Ok(true),
            Intervention::Cancel => {
                let paying = items.iter().any(|i| i["detail"]["status"] == "CONFIRMED");
                if paying {
                    client.delete(&format!("/api/orders/{id}")).await?;
                    println!("  > DELETE /api/orders/{id}: 202, a promise that it ends CANCELLED");
                }
                Ok(paying)
            }
            Intervention::Return { pieces, approve } => {
                if items.last().is_none_or(|last| last["detail"]["ended"].is_null()) {
                    return Ok(false);
                }
                let mut body = json!({ "reason": "does not match the curtains" });
                if let Some(pieces) = pieces {
                    body["lines"] = json!([{ "lineId": "1", "quantity": pieces }]);
                }
                client.post(&format!("/api/orders/{id}/return"), &body).await?;
                println!("  > POST /api/orders/{id}/return: {}", body["reason"].as_str().unwrap_or(""));
                let decision = if approve { "approve" } else { "reject" };
                client.put(&format!("/api/orders/{id}/return/{decision}"), &json!({})).await?;
                println!("  > PUT /api/orders/{id}/return/{decision}");
                Ok(true)
            }
            Intervention::Goodwill => {
                if items.last().is_none_or(|last| last["detail"]["ended"].is_null()) {
                    return Ok(false);
                }
                let body = json!({ "amount": 500, "reason": "the parcel came late" });
                client.post_once(&format!("/api/orders/{id}/refunds"), id, &body).await?;
                println!("  > POST /api/orders/{id}/refunds: 5.00 EUR, because the parcel came late");
                Ok(true)
            }
            Intervention::Resolve => {
                let parked = client.get("/admin/sagas?state=parked&limit=500").await?;
                let found = parked["items"].as_array().into_iter().flatten().find(|s| s["businessKey"] == id);
                let Some(saga) = found else { return Ok(false) };
                let (saga_id, reason) =
                    (saga["id"].as_str().unwrap_or(""), saga["reason"].as_str().unwrap_or(""));
                println!("  > GET /admin/sagas?state=parked finds it: {reason}");
                let found = client.get(&format!("/admin/sagas/{saga_id}")).await?;
                let waits = found["waitsFor"].as_array().into_iter().flatten();
                let command = waits.into_iter().find(|wait| !wait["parked"].is_null());
                let body = json!({
                    "outcome": "done", "reason": "refunded by bank transfer", "reference": "BT-1",
                    "revision": found["revision"], "commandId": command.map(|wait| &wait["commandId"]),
                });
                client.post(&format!("/admin/sagas/{saga_id}/resolve"), &body).await?;
                println!("  > POST /admin/sagas/{saga_id}/resolve: refunded by bank transfer, BT-1");
                Ok(true)
            }
        }
    }
}

/// Formats a timeline's entry for people: time, status, what happened, and what the engine did.
fn line(first: &Value, item: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let at = |item: &Value| chrono::DateTime::parse_from_rfc3339(item["at"].as_str().unwrap_or("")).ok();
    let since = at(item).zip(at(first)).map_or(0, |(now, then)| (now - then).num_milliseconds());
    let detail = &item["detail"];
    let mut what = match item["type"].as_str().unwrap_or("") {
        "started" => "accepted".to_owned(),
        "woke" => format!("{}: its time came", text(&item["step"])),
        "signalled" => format!(
            "{} decided: {}",
            text(&detail["by"]["who"]),
            if detail["payload"]["approved"] == true { "approved" } else { "rejected" }
        ),
        "cancel_requested" => format!("{} asked to cancel", text(&detail["by"]["who"])),
        "resend_requested" => format!("{} had it sent again", text(&detail["by"]["who"])),
        "resolved" => {
            format!("resolved by hand as {} ({})", text(&detail["outcome"]), text(&detail["by"]["why"]))
        }
        other => {
            let command = match detail["command"].as_str() {
                Some("compensate") => "undoing ",
                Some("probe") => "probed ",
                _ => "",
            };
            let reason = detail["reason"]["code"].as_str().map(|r| format!(" ({r})")).unwrap_or_default();
            let attempt = item["attempt"].as_u64().filter(|n| *n > 1);
            let attempt = attempt.map(|n| format!(", attempt {n}")).unwrap_or_default();
            format!("{command}{}: {}{attempt}{reason}", text(&item["step"]), other.replace('_', " "))
        }
    };
    let sent: Vec<_> = detail["sent"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !sent.is_empty() {
        what += &format!(" -> {}", sent.join(", "));
    }
    if let Some(parked) = detail["parked"]["code"].as_str() {
        what += &format!("; PARKED: {parked}");
    }
    if let Some(heading) = detail["headingFor"].as_str() {
        what += &format!("; heading for {heading}");
    }
    format!("{:>7.3} s  {:<15} {what}", since as f64 / 1000.0, text(&detail["status"]))
}
