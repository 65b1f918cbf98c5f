//! A typical client.

use std::{net::SocketAddr, time::Duration};

use amends_testkit::eventually;
use serde_json::{Value, json};

use super::LONG;

/// A client of one listener.
#[derive(Clone)]
pub struct Client {
    url: String,
    http: reqwest::Client,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpAnswer {
    pub status: u16,
    pub replayed: bool,
    /// In seconds.
    pub retry_after: Option<u64>,
    pub body: Value,
}

impl Client {
    pub fn at(address: SocketAddr) -> Self {
        Self::new(&format!("http://{address}"))
    }

    pub fn new(url: &str) -> Self {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(40)).build().expect("a client");
        Self { url: url.to_owned(), http }
    }

    pub async fn try_get(&self, path: &str) -> Option<(u16, Value)> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.ok()?;
        Some((answer.status().as_u16(), answer.json().await.unwrap_or_default()))
    }

    /// The same without parsing the body.
    pub async fn try_get_text(&self, path: &str) -> Option<(u16, String)> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    /// Reads a resource that must exist.
    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.try_get(path).await.unwrap_or_else(|| panic!("GET {path}: no answer"));
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    pub async fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        let answer = self.http.put(format!("{}{path}", self.url)).json(body).send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let answer =
            self.http.post(format!("{}{path}", self.url)).json(body).send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    /// The same with an idempotency key.
    pub async fn post_with_key(&self, path: &str, key: &str, body: &Value) -> (u16, Value) {
        let request = self.http.post(format!("{}{path}", self.url)).header("Idempotency-Key", key);
        let answer = request.json(body).send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    pub async fn patch(&self, path: &str, body: &Value) -> (u16, Value) {
        let answer =
            self.http.patch(format!("{}{path}", self.url)).json(body).send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    pub async fn delete(&self, path: &str) -> (u16, Value) {
        let answer = self.http.delete(format!("{}{path}", self.url)).send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    pub async fn try_delete(&self, path: &str) -> Option<u16> {
        Some(self.http.delete(format!("{}{path}", self.url)).send().await.ok()?.status().as_u16())
    }

    /// `POST /api/orders`; `None` if there was no answer.
    pub async fn try_place(&self, order: &Value, key: Option<&str>) -> Option<HttpAnswer> {
        let mut request = self.http.post(format!("{}/api/orders", self.url)).json(order);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        let replayed = answer.headers().get("idempotency-replayed").is_some_and(|v| v == "true");
        let retry_after = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
        Some(HttpAnswer { status, replayed, retry_after, body: answer.json().await.ok()? })
    }

    /// Places an order that must be accepted; returns its id.
    pub async fn place(&self, order: &Value) -> String {
        let answer = self.try_place(order, None).await.expect("an answer");
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.body["id"].as_str().expect("an id").to_owned()
    }

    /// Waits until an order has a status.
    pub async fn becomes(&self, order: &str, status: &str) -> Value {
        eventually(&format!("order {order} becomes {status}"), LONG, || {
            let client = self.clone();
            async move {
                let (_, body) = client.try_get(&format!("/api/orders/{order}")).await?;
                (body["status"] == status).then_some(body)
            }
        })
        .await
    }
}

/// Creates an order of one product.
pub fn order(product: &str, quantity: i64, method: &str, country: &str) -> Value {
    json!({
        "customerId": "c-1001", "currency": "EUR",
        "lines": [{ "productId": product, "quantity": quantity, "unitPrice": 1250 }],
        "payment": { "method": method },
        "shippingAddress": { "name": "Test Customer", "line1": "1 Long Street", "city": "Vienna",
                             "postalCode": "1010", "country": country },
    })
}
