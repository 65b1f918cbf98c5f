//! Hostile clients: pages in a user's browser, silent connections, requests that are wrong in every way on every route of a worker.
//! None of them changes anything or delays other clients.

use std::fs;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{
    Stack,
    client::{Client, order},
};

/// A route, with a valid body if it takes one.
struct Route {
    base: String,
    method: Method,
    path: String,
    body: Option<Value>,
}

impl Route {
    fn ask(&self, http: &reqwest::Client) -> RequestBuilder {
        self.at(http, &self.path)
    }

    fn at(&self, http: &reqwest::Client, path: &str) -> RequestBuilder {
        http.request(self.method.clone(), format!("{}{path}", self.base))
    }

    fn with(&self, http: &reqwest::Client, body: String) -> RequestBuilder {
        self.ask(http).header("content-type", "application/json").body(body)
    }
}

/// Returns every route of the inventory worker's own listener. Those of the api are tested by its document
/// (`bad_input.rs`).
fn routes(base: &str) -> Vec<Route> {
    let of = |method: Method, path: &str, body: Option<Value>| Route {
        base: base.to_owned(),
        body,
        method,
        path: path.to_owned(),
    };
    vec![
        of(Method::GET, "/api/inventory", None),
        of(Method::GET, "/api/inventory/mug", None),
        of(Method::PUT, "/api/inventory/mug/stock", Some(json!({ "onHand": 7 }))),
        of(Method::GET, "/api/inventory/mug/movements", None),
        of(
            Method::POST,
            "/api/inventory",
            Some(json!({ "productId": "mug", "quantity": 1, "reason": "delivered" })),
        ),
        of(Method::GET, "/health/live", None),
        of(Method::GET, "/health/ready", None),
        of(Method::GET, "/metrics", None),
    ]
}

/// Returns what is wrong on every route: the request, its status, and the problem's type.
fn wrong_everywhere(
    route: &Route,
    http: &reqwest::Client,
) -> Vec<(&'static str, RequestBuilder, u16, &'static str)> {
    let good = || match &route.body {
        Some(body) => route.with(http, body.to_string()),
        None => route.ask(http),
    };
    vec![
        ("a foreign host", good().header("host", "evil.example"), 421, "foreign-host"),
        ("two hosts", good().header("host", "localhost").header("host", "localhost"), 400, "invalid-request"),
        ("a page of another origin", good().header("origin", "http://evil.example"), 403, "foreign-origin"),
        ("a sandboxed page", good().header("origin", "null"), 403, "foreign-origin"),
        ("a page of another site", good().header("sec-fetch-site", "cross-site"), 403, "foreign-origin"),
        ("another method", http.patch(format!("{}{}", route.base, route.path)), 405, "method-not-allowed"),
        ("below the route", route.at(http, &format!("{}/x/y", route.path)), 404, "not-found"),
        ("HTML only", good().header("accept", "text/html"), 406, "not-acceptable"),
        (
            "an unknown parameter",
            route.at(http, &format!("{}?colour=red", route.path)),
            400,
            "invalid-request",
        ),
    ]
}

/// Returns what is wrong on every route that takes a body.
fn wrong_bodies(
    route: &Route,
    good: &Value,
    http: &reqwest::Client,
) -> Vec<(&'static str, RequestBuilder, u16, &'static str)> {
    let text = good.to_string();
    let (first, value) = good.as_object().unwrap().iter().next().unwrap();
    let twice = format!("{{\"{first}\":{value},{}", &text[1..]);
    let mut unknown = good.clone();
    unknown["un_known"] = json!(1);
    let browser = |kind: &str| route.ask(http).header("content-type", kind).body(text.clone());
    vec![
        ("no media type", route.ask(http).body(text.clone()), 415, "not-json"),
        ("text", browser("text/plain"), 415, "not-json"),
        ("a form", browser("application/x-www-form-urlencoded"), 415, "not-json"),
        (
            "a page's JSON as text",
            browser("text/plain").header("origin", "http://evil.example"),
            403,
            "foreign-origin",
        ),
        ("no body", route.with(http, String::new()), 400, "unreadable-body"),
        ("half a body", route.with(http, text[..text.len() - 1].to_owned()), 400, "unreadable-body"),
        ("an array", route.with(http, format!("[{text}]")), 400, "invalid-request"),
        ("a key twice", route.with(http, twice), 400, "invalid-request"),
        ("an unknown field", route.with(http, unknown.to_string()), 400, "invalid-request"),
        ("too large", route.with(http, format!("{text}{}", " ".repeat(64 << 10))), 413, "body-too-large"),
        ("a NUL", route.with(http, format!("{{\"{first}\":\"\\u0000\"}}")), 400, "unreadable-body"),
        (
            "nested too deep",
            route.with(http, format!("{{\"{first}\":{}", "[".repeat(40))),
            400,
            "unreadable-body",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_on_every_route_of_a_worker_and_changes_nothing() {
    let stack = Stack::embedded().await;
    let inventory = stack.start(&["worker", "inventory"]).await;
    stack.stock("mug", 5).await;
    let before = rows(&stack).await;
    let http = reqwest::Client::new();
    for route in routes(&format!("http://{}", inventory.address)) {
        let mut wrong = wrong_everywhere(&route, &http);
        if let Some(good) = &route.body {
            wrong.extend(wrong_bodies(&route, good, &http));
        }
        for (what, request, status, slug) in wrong {
            let case = format!("{what}: {} {}{}", route.method, route.base, route.path);
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), status, "{case}");
            assert_eq!(answer.headers()["content-type"], "application/problem+json", "{case}");
            assert_eq!(answer.headers().contains_key("allow"), status == 405, "{case}");
            let problem: Value = answer.json().await.unwrap();
            assert_eq!(problem["type"], format!("/problems/{slug}"), "{case}");
            let text = problem.to_string();
            assert!(!text.contains("evil") && !text.contains("colour"), "{case}: {text}");
        }
    }
    assert_eq!(rows(&stack).await, before, "nothing changed");
}

/// Returns the stock, and the number of its adjustments.
async fn rows(stack: &Stack) -> Vec<i64> {
    let mut rows = Vec::new();
    for sql in
        ["SELECT sum(on_hand)::bigint FROM stock", "SELECT count(*) FROM moves WHERE kind = 'adjusted'"]
    {
        rows.push(sqlx::query_scalar(sql).fetch_one(stack.pool("inventory")).await.unwrap());
    }
    rows
}

const HALF_SENT: &[u8] = b"POST /api/orders HTTP/1.1\r\nhost: localhost\r\n";
const DESCRIPTORS: u32 = 1024;
const SILENT: usize = 1_100;

#[tokio::test(flavor = "multi_thread")]
async fn more_silent_connections_than_descriptors_keep_neither_health_nor_orders_waiting_and_no_stop() {
    amends_http::descriptors::raise_limit();
    let stack = Stack::embedded().await;
    let log = tempfile::NamedTempFile::new().unwrap();
    let api = stack.start_with_descriptors(&["api"], DESCRIPTORS, log.as_file()).await;
    let engine = stack.start_with_descriptors(&["engine"], DESCRIPTORS, log.as_file()).await;
    let mut silent = Vec::new();
    for n in 0..SILENT {
        for process in [&api, &engine] {
            let mut stream = TcpStream::connect(process.address).await.unwrap();
            if n % 2 == 0 {
                // It may have been closed already; then it holds nothing.
                let _ = stream.write_all(HALF_SENT).await;
            }
            silent.push(stream);
        }
    }
    for process in [&api, &engine] {
        assert_eq!(
            Client::at(process.address).try_get("/health/ready").await.unwrap().0,
            200,
            "{}",
            process.role
        );
    }
    for _ in 0..10 {
        // On a separate connection.
        Client::at(api.address).place(&order("mug", 1, "card_approved", "AT")).await;
    }
    for process in [api, engine] {
        process.stop().await;
    }
    drop(silent);
    // A process that gives up waiting for a connection, or for a loop, says so.
    let said = fs::read_to_string(log.path()).unwrap();
    for waited in ["closed a connection while stopping", "have not ended in time"] {
        assert!(!said.contains(waited), "{said}");
    }
}
