//! The examples of the OpenAPI document are requests that work.

use std::fmt::Write;

use amends_testkit::eventually;
use reqwest::{Method, redirect::Policy};
use serde_json::{Value, json};

use crate::support::{
    Broker, LONG, Stack,
    client::{Client, order},
    document::{Documented, operations},
};

/// Places an order whose saga is in the state that an operation needs; returns the ids of both.
async fn prepared(client: &Client, operation: &str) -> (String, String) {
    const OF_FULFILLED: [&str; 6] =
        ["returnOrder", "approveReturn", "rejectReturn", "refundOrder", "quoteRefund", "signalSaga"];
    // A refund that is refused parks; a carrier that never answers is waited for.
    let (method, country) = match operation {
        "retrySaga" | "resolveSaga" => ("card_refund_refused", "AQ"),
        of_fulfilled if OF_FULFILLED.contains(&of_fulfilled) => ("card_approved", "AT"),
        _ => ("card_approved", "BV"),
    };
    let placed = client.place(&order("mug-blue", 1, method, country)).await;
    let saga = client.get(&format!("/api/orders/{placed}")).await["sagaId"].as_str().unwrap().to_owned();
    if country == "AQ" {
        eventually("the saga is parked", LONG, || async {
            let saga = client.get(&format!("/admin/sagas/{saga}")).await;
            (saga["state"] == "parked").then_some(())
        })
        .await;
    }
    match operation {
        // Once its carrier does not answer, it stays as it is.
        "applyPlan" => drop(client.becomes(&placed, "PAID").await),
        _ if country == "AT" => drop(client.becomes(&placed, "FULFILLED").await),
        _ => {}
    }
    if ["approveReturn", "rejectReturn", "signalSaga"].contains(&operation) {
        let (status, order) =
            client.post(&format!("/api/orders/{placed}/return"), &json!({ "reason": "damaged" })).await;
        assert_eq!(status, 202, "{order}");
        // What waits for a decision is the return.
        return (placed, order["returns"][0]["id"].as_str().unwrap().to_owned());
    }
    (placed, saga)
}

/// Returns a notification about an order.
async fn notification_of(client: &Client, order: &str) -> String {
    let path = format!("/api/notifications?orderId={order}");
    eventually("the order's customer is notified", LONG, || async {
        let page = client.get(&path).await;
        page["items"][0]["id"].as_str().map(str::to_owned)
    })
    .await
}

/// Returns the body's example. What depends on the saga's present state is taken from it, as an operator does.
fn body_now(route: &Documented, saga: &Value) -> Option<Value> {
    let mut body = route.body()?;
    let parked =
        saga["waitsFor"].as_array().and_then(|waits| waits.iter().rfind(|wait| !wait["parked"].is_null()));
    for (field, present) in [
        ("saga", saga["id"].clone()),
        ("revision", saga["revision"].clone()),
        ("commandId", parked.map(|wait| wait["commandId"].clone()).unwrap_or_default()),
    ] {
        if body.get(field).is_some() {
            body[field] = present;
        }
    }
    Some(body)
}

/// Creates a webhook with a delivery; returns the ids of both.
async fn webhook(client: &Client) -> (String, String) {
    let webhook = json!({ "url": "http://127.0.0.1:9/", "types": ["order.*"] });
    let (status, webhook) = client.post("/api/webhooks", &webhook).await;
    assert_eq!(status, 201, "{webhook}");
    let webhook = webhook["id"].as_str().unwrap().to_owned();
    let (status, delivery) = client.post(&format!("/api/webhooks/{webhook}/test"), &Value::Null).await;
    assert_eq!(status, 202, "{delivery}");
    (webhook, delivery["id"].as_str().unwrap().to_owned())
}

/// Returns a query of all examples.
fn query_of(route: &Documented) -> String {
    let mut query = String::new();
    for parameter in route.parameters("query") {
        let (name, example) = (parameter["name"].as_str().unwrap(), &parameter["example"]);
        let example = example.as_array().map_or(example, |several| &several[0]);
        let text = match example {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        write!(query, "{}{name}={text}", if query.is_empty() { "?" } else { "&" }).unwrap();
    }
    query
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_of_the_document_is_a_request_that_works() {
    let stack = Stack::new(Broker::embedded()).await;
    let all = stack.start_all().await;
    stack.stock("mug-blue", 100).await;
    let api = all.iter().find(|process| process.role == "api").unwrap();
    let (client, http) = (api.client(), reqwest::Client::builder().redirect(Policy::none()).build().unwrap());
    let product = json!({ "name": "Blue mug", "unitPrice": 1250, "currency": "EUR" });
    assert_eq!(client.put("/api/products/mug-blue", &product).await.0, 201);
    let mut sent = 0;
    for route in operations(client.get("/openapi.json").await) {
        // An api with tokens of another issuer, or of none, has no keys to show.
        if route.id() == "readKeySet" {
            continue;
        }
        let (order, saga) = prepared(&client, route.id()).await;
        let (webhook, delivery) = match route.path.starts_with("/api/webhooks/") {
            true => webhook(&client).await,
            false => Default::default(),
        };
        let id = match route.path.as_str() {
            path if path.starts_with("/admin/") => &saga,
            path if path.starts_with("/api/webhooks/") => &webhook,
            _ => &order,
        };
        let seen = client.get(&format!("/admin/sagas/{saga}")).await;
        let notification = match route.id() {
            "readNotification" => notification_of(&client, &order).await,
            _ => String::new(),
        };
        let plan = match route.id() {
            "applyPlan" => {
                let cancel = json!({ "action": "cancel", "saga": saga, "reason": "why" });
                client.post("/admin/plans", &cancel).await.1["plan"].as_str().unwrap().to_owned()
            }
            _ => String::new(),
        };
        let id = if notification.is_empty() { id } else { &notification };
        let path = format!(
            "{}{}",
            route.filled(&[
                ("id", id),
                ("customerId", "c-of-no-order"),
                ("deliveryId", &delivery),
                ("plan", &plan),
            ]),
            query_of(&route)
        );
        let mut request = http.request(route.method.clone(), format!("http://{}{path}", api.address));
        if let Some(body) = body_now(&route, &seen) {
            request = request.json(&body);
        }
        if route.method == Method::POST {
            request = request.header("idempotency-key", format!("example-{sent}"));
        }
        let mut answer = request.send().await.unwrap();
        let (status, kind) = (answer.status(), answer.headers().get("content-type").cloned());
        let text = match kind.as_ref().is_some_and(|kind| kind == "text/event-stream") {
            true => String::from_utf8_lossy(&answer.chunk().await.unwrap().unwrap_or_default()).into_owned(),
            false => answer.text().await.unwrap(),
        };
        assert!(status.is_success() || status.is_redirection(), "{} {path}: {status} {text}", route.method);
        assert!(route.answers(status.as_u16()), "{} does not document {status}", route.name());
        if let Some(kind) = kind {
            let kind = kind.to_str().unwrap().split(';').next().unwrap();
            assert!(route.kinds().iter().any(|of| of == kind), "{} does not document {kind}", route.name());
        }
        sent += 1;
    }
    assert!(sent > 20, "{sent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_of_problem_has_a_page_in_the_form_that_the_reader_asks_for() {
    let stack = Stack::embedded().await;
    let api = stack.start(&["api"]).await;
    let http = reqwest::Client::new();
    let get = async |path: &str, accept: &str| {
        let request = http.get(format!("http://{}{path}", api.address)).header("accept", accept);
        let answer = request.send().await.unwrap();
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        (answer.status().as_u16(), kind, answer.text().await.unwrap())
    };
    for kind in amends_http::problem_types::ALL {
        let (status, media, text) = get(&kind.uri(), "*/*").await;
        assert_eq!((status, media.as_str()), (200, "text/plain; charset=utf-8"), "{}", kind.uri());
        for part in [kind.title(), kind.meaning(), kind.effect().sentence(), kind.remedy()] {
            assert!(text.contains(part), "{text}");
        }
        let (status, media, page) = get(&kind.uri(), "text/html,*/*;q=0.8").await;
        assert_eq!((status, media.as_str()), (200, "text/html; charset=utf-8"), "{}", kind.uri());
        assert!(page.contains(&format!("<h1>{}</h1>", kind.title())), "{page}");
        let (status, _, json) = get(&kind.uri(), "application/json").await;
        let help: Value = serde_json::from_str(&json).unwrap();
        assert_eq!((status, &help["type"]), (200, &json!(kind.uri())));
        for accept in ["text/plain", "text/html", "application/json"] {
            assert!(get("/problems", accept).await.2.contains(kind.slug()), "{}", kind.slug());
        }
    }
    for path in ["/problems/no-such-problem", "/problems/"] {
        assert_eq!(get(path, "*/*").await.0, 404, "{path}");
    }
    assert_eq!(get("/problems/forbidden", "image/png").await.0, 406);
}
