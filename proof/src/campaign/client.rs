//! A typical client: it sends a key, and repeats the request whenever it is not sure of the result.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::{
    Method,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::record::Record;

/// How long a client waits for one request.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Pause before it repeats a request.
const REST: Duration = Duration::from_millis(100);

/// Counts of what clients met.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests without an answer in time: cut, refused, or too slow.
    pub unanswered: AtomicU64,
    /// Requests answered with 429 or 503.
    pub turned_away: AtomicU64,
    /// Answers that repeated an earlier one.
    pub replayed: AtomicU64,
    /// Cancellations answered with 202.
    pub cancelled: AtomicU64,
    /// Cancellations that came too late.
    pub too_late: AtomicU64,
    /// Returns, decisions and refunds that were accepted.
    pub changed: AtomicU64,
}

/// A client of several apis.
#[derive(Debug, Clone)]
pub struct Client {
    apis: Arc<Vec<String>>,
    http: reqwest::Client,
    turn: Arc<AtomicUsize>,
    record: Record,
    counts: Arc<Counts>,
}

/// An answer.
#[derive(Debug)]
pub struct HttpAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The body, if it is JSON.
    pub body: Value,
    replayed: bool,
}

impl Client {
    /// Creates a client that uses these apis in turn, and records their answers.
    pub fn new(apis: &[SocketAddr], record: Record) -> Self {
        Self::of(apis, HeaderMap::new(), record)
    }

    /// The same with a token in every request.
    pub fn with_token(apis: &[SocketAddr], token: &str, record: Record) -> Self {
        let mut headers = HeaderMap::new();
        let bearer = HeaderValue::from_str(&format!("Bearer {token}")).expect("a token is ASCII");
        headers.insert(AUTHORIZATION, bearer);
        Self::of(apis, headers, record)
    }

    fn of(apis: &[SocketAddr], headers: HeaderMap, record: Record) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).default_headers(headers).build();
        let http = http.expect("an HTTP client");
        let apis = Arc::new(apis.iter().map(|a| format!("http://{a}")).collect());
        Self { apis, http, turn: Arc::default(), record, counts: Arc::default() }
    }

    /// Returns the counts of this client and all its clones.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    fn api(&self) -> &str {
        &self.apis[self.turn.fetch_add(1, Ordering::Relaxed) % self.apis.len()]
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> Option<HttpAnswer> {
        let answer = async {
            let answer = request.send().await.ok()?;
            let status = answer.status().as_u16();
            let replayed = answer.headers().get("idempotency-replayed").is_some_and(|v| v == "true");
            Some(HttpAnswer { status, replayed, body: answer.json().await.unwrap_or_default() })
        };
        let answer = answer.await;
        match &answer {
            None => drop(self.counts.unanswered.fetch_add(1, Ordering::Relaxed)),
            Some(HttpAnswer { status: 429 | 503, .. }) => {
                self.counts.turned_away.fetch_add(1, Ordering::Relaxed);
            }
            Some(HttpAnswer { status, body, .. }) if *status >= 500 => {
                self.record.odd(format!("answered {status}: {body}"));
            }
            Some(_) => {}
        }
        answer
    }

    /// Places an order; repeats the request with its key until it gets the order's id.
    pub async fn place(&self, order: &Value, key: &str) -> Option<Uuid> {
        loop {
            let request = self.http.post(format!("{}/api/orders", self.api())).json(order);
            match self.ask(request.header("Idempotency-Key", key)).await {
                Some(HttpAnswer { status: 201, body, replayed }) => {
                    let id = body["id"].as_str().and_then(|id| id.parse().ok());
                    let Some(id) = id else {
                        self.record.odd(format!("201 without an id: {body}"));
                        return None;
                    };
                    self.counts.replayed.fetch_add(u64::from(replayed), Ordering::Relaxed);
                    self.record.told(key, id);
                    return Some(id);
                }
                Some(HttpAnswer { status, body, .. }) if status < 500 && status != 429 => {
                    self.record.odd(format!("an order was answered {status}: {body}"));
                    return None;
                }
                _ => sleep(REST).await,
            }
        }
    }

    /// Uses a key again for a different order: that must be refused.
    pub async fn misuse(&self, order: &Value, key: &str) {
        loop {
            let request = self.http.post(format!("{}/api/orders", self.api())).json(order);
            match self.ask(request.header("Idempotency-Key", key)).await {
                Some(HttpAnswer { status: 422, .. }) => return,
                Some(HttpAnswer { status, body, .. }) if status < 500 && status != 429 => {
                    return self
                        .record
                        .odd(format!("a key with another order was answered {status}: {body}"));
                }
                _ => sleep(REST).await,
            }
        }
    }

    /// Cancels an order; repeats the request until it is answered.
    pub async fn cancel(&self, id: Uuid) {
        loop {
            match self.ask(self.http.delete(format!("{}/api/orders/{id}", self.api()))).await {
                Some(HttpAnswer { status: 202, .. }) => {
                    self.counts.cancelled.fetch_add(1, Ordering::Relaxed);
                    return self.record.promised(id);
                }
                Some(HttpAnswer { status: 409, .. }) => {
                    self.counts.too_late.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Some(HttpAnswer { status, body, .. }) if status < 500 && status != 429 => {
                    return self.record.odd(format!("cancelling {id} was answered {status}: {body}"));
                }
                _ => sleep(REST).await,
            }
        }
    }

    /// Asks for a return or refund, or decides about one; repeats the request until it is answered. Returns the status.
    pub async fn change(&self, method: Method, path: &str, key: Option<&str>, body: &Value) -> u16 {
        loop {
            let mut request = self.http.request(method.clone(), format!("{}{path}", self.api())).json(body);
            if let Some(key) = key {
                request = request.header("Idempotency-Key", key);
            }
            match self.ask(request).await {
                Some(HttpAnswer { status: status @ (200 | 202), .. }) => {
                    self.counts.changed.fetch_add(1, Ordering::Relaxed);
                    return status;
                }
                Some(HttpAnswer { status: 409, .. }) => return 409,
                Some(HttpAnswer { status, body, .. }) if status < 500 && status != 429 => {
                    self.record.odd(format!("{method} {path} was answered {status}: {body}"));
                    return status;
                }
                _ => sleep(REST).await,
            }
        }
    }

    /// Reads an order until it has ended, or until the patience is over; returns the last status seen.
    pub async fn watch(&self, id: Uuid, patience: Duration, pace: Duration) -> Option<String> {
        let begun = Instant::now();
        let mut last = None;
        while begun.elapsed() < patience {
            match self.ask(self.http.get(format!("{}/api/orders/{id}", self.api()))).await {
                Some(HttpAnswer { status: 200, body, .. }) => {
                    let status = body["status"].as_str().unwrap_or_default().to_owned();
                    let ended = !matches!(status.as_str(), "PENDING" | "CONFIRMED" | "PAID" | "CANCELLING");
                    if ended {
                        self.record.seen(id, &status);
                        return Some(status);
                    }
                    last = Some(status);
                }
                Some(HttpAnswer { status: 404, .. }) => self.record.odd(format!("order {id} is not found")),
                _ => {}
            }
            sleep(pace).await;
        }
        last
    }

    /// Reads a resource as an operator.
    pub async fn get(&self, path: &str) -> Option<HttpAnswer> {
        self.ask(self.http.get(format!("{}{path}", self.api()))).await
    }

    /// Reads a resource and waits this long for the answer; returns its status. It is not judged.
    pub async fn status(&self, path: &str, patience: Duration) -> Option<u16> {
        let answer = self.http.get(format!("{}{path}", self.api())).timeout(patience).send().await;
        answer.ok().map(|answer| answer.status().as_u16())
    }

    /// Performs an operator's action. `None`: it may or may not have been done.
    pub async fn act(&self, path: &str, body: &Value) -> Option<HttpAnswer> {
        self.ask(self.http.post(format!("{}{path}", self.api())).json(body)).await
    }

    /// Sets a product's stock.
    pub async fn stock(&self, product: &str, on_hand: i64) {
        let body = json!({ "onHand": on_hand });
        loop {
            let path = format!("{}/api/inventory/{product}/stock", self.api());
            match self.ask(self.http.put(path).json(&body)).await {
                Some(HttpAnswer { status: 200, .. }) => return,
                _ => sleep(REST).await,
            }
        }
    }
}
