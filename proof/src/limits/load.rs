//! Orders at a high rate, whether or not they are answered; the results are kept.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use uuid::Uuid;

use crate::campaign::workload::order;

/// How long a client waits for one request.
const PATIENCE: Duration = Duration::from_secs(10);
/// The ordered product; its stock is sufficient.
pub const PRODUCT: &str = "mug";

/// The api, over HTTP.
#[derive(Debug, Clone)]
pub struct Shop {
    http: reqwest::Client,
    api: Arc<str>,
}

/// The answer to an order.
#[derive(Debug, Clone, PartialEq)]
pub enum PlacementAnswer {
    /// 201, with the order's id.
    Placed(Uuid),
    /// 429 or 503, and whether it contains the time to retry.
    TurnedAway {
        /// The HTTP status.
        status: u16,
        /// Whether there is a `Retry-After` of at least one second.
        says_when: bool,
    },
    /// Any other answer.
    Odd(String),
    /// No answer in time, or the connection broke.
    Unanswered(String),
}

impl Shop {
    /// Creates a client of the api at this address.
    pub fn new(api: SocketAddr) -> Self {
        let http = reqwest::Client::builder().timeout(PATIENCE).tcp_nodelay(true).build();
        Self { http: http.expect("a client without TLS"), api: format!("http://{api}").into() }
    }

    /// Sends a request that changes an order, with a key of its own; returns the status, 0 without an answer.
    pub async fn change(&self, method: Method, path: &str, body: &Value) -> u16 {
        let request = self.http.request(method, format!("{}{path}", self.api)).json(body);
        let answer = request.header("idempotency-key", Uuid::new_v4().to_string()).send().await;
        answer.map_or(0, |answer| answer.status().as_u16())
    }

    /// Places an order once.
    pub async fn place(&self, body: String, key: String) -> PlacementAnswer {
        let request = self.http.post(format!("{}/api/orders", self.api)).header("idempotency-key", key);
        let answer = match request.header("content-type", "application/json").body(body).send().await {
            Ok(answer) => answer,
            Err(error) => return PlacementAnswer::Unanswered(error.to_string()),
        };
        let status = answer.status().as_u16();
        let wait = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        let body: Value = match answer.json().await {
            Ok(body) => body,
            Err(error) => return PlacementAnswer::Unanswered(error.to_string()),
        };
        match (status, body["id"].as_str().and_then(|id| id.parse().ok())) {
            (201, Some(id)) => PlacementAnswer::Placed(id),
            (429 | 503, _) => PlacementAnswer::TurnedAway { status, says_when: wait.is_some_and(|s| s >= 1) },
            _ => PlacementAnswer::Odd(format!("{status}: {body}")),
        }
    }
}

/// Creates an order for one piece, paid by this method.
pub fn one(method: &str) -> String {
    let line = json!({ "productId": PRODUCT, "quantity": 1, "unitPrice": 2500 });
    order(vec![line], "EUR", method, "AT").to_string()
}

/// Places orders at a steady rate for this long, whatever their answers; returns key and answer of each once all are
/// answered.
pub async fn steadily(
    shop: &Shop,
    rate: f64,
    time: Duration,
    body: &str,
    name: &str,
) -> Vec<(String, PlacementAnswer)> {
    let (begun, mut placed, mut orders) = (Instant::now(), 0_usize, JoinSet::new());
    let total = (rate * time.as_secs_f64()).round() as usize;
    let mut answers = Vec::with_capacity(total);
    let mut ticks = interval(Duration::from_millis(2));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while placed < total {
        ticks.tick().await;
        let due = ((begun.elapsed().as_secs_f64() * rate) as usize).min(total);
        while placed < due {
            let (shop, body, key) = (shop.clone(), body.to_owned(), format!("{name}-{placed}"));
            orders.spawn(async move {
                let answer = shop.place(body, key.clone()).await;
                (key, answer)
            });
            placed += 1;
        }
        while let Some(Ok(answer)) = orders.try_join_next() {
            answers.push(answer);
        }
    }
    while let Some(answer) = orders.join_next().await {
        answers.extend(answer);
    }
    answers
}

/// Places this many orders, `together` at a time; each request is repeated until the order exists. Returns the number
/// of orders that exist.
pub async fn at_once(shop: &Shop, orders: usize, together: usize, body: &str, name: &str) -> usize {
    let mut clients = JoinSet::new();
    for client in 0..together {
        let (shop, body, name) = (shop.clone(), body.to_owned(), name.to_owned());
        clients.spawn(async move {
            let mut placed = 0;
            for number in (client..orders).step_by(together) {
                let key = format!("{name}-{number}");
                for _ in 0..20 {
                    match shop.place(body.clone(), key.clone()).await {
                        PlacementAnswer::Placed(_) => {
                            placed += 1;
                            break;
                        }
                        _ => tokio::time::sleep(Duration::from_millis(100)).await,
                    }
                }
            }
            placed
        });
    }
    let mut placed = 0;
    while let Some(some) = clients.join_next().await {
        placed += some.unwrap_or(0);
    }
    placed
}
