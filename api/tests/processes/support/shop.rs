//! An api that takes tokens, and requests of its callers; what its shop has in stock.

use std::net::SocketAddr;

use amends_api::auth::Role;
use reqwest::{Method, RequestBuilder, Response, redirect::Policy};
use serde_json::{Value, json};

use super::{
    INVENTORY, Process, SERVICE_TOKEN, Stack,
    client::order,
    document::{Documented, operations},
    issuer::{self, token},
};

impl Stack {
    /// Sets a product's stock over the inventory worker's own listener, with the service token if there is one.
    pub async fn stock(&self, product: &str, on_hand: i64) {
        let inventory = self.known.iter().find(|known| known.role == INVENTORY).unwrap().address;
        let url = format!("http://{inventory}/api/inventory/{product}/stock");
        let mut request = reqwest::Client::new().put(url).json(&json!({ "onHand": on_hand }));
        if let Some(token) = self.settings.get(SERVICE_TOKEN) {
            request = request.bearer_auth(token);
        }
        assert_eq!(request.send().await.unwrap().status(), 200);
    }
}

/// An api that takes tokens.
pub struct Shop {
    pub stack: Stack,
    pub api: Process,
    http: reqwest::Client,
}

impl Shop {
    pub async fn open() -> Self {
        let issuer = issuer::serve_at(SocketAddr::from(([127, 0, 0, 1], 0))).await;
        Self::open_for(issuer).await
    }

    pub async fn open_for(issuer: SocketAddr) -> Self {
        let mut stack = Stack::embedded().await;
        for (key, value) in issuer::settings(issuer) {
            stack.set(key, &value);
        }
        stack.set(SERVICE_TOKEN, "service-token-of-a-test");
        let api = stack.start(&["api"]).await;
        let http = reqwest::Client::builder().redirect(Policy::none()).build().unwrap();
        Self { stack, api, http }
    }

    pub fn ask(&self, method: Method, path: &str, token: Option<&str>) -> RequestBuilder {
        let request = self.http.request(method, format!("http://{}{path}", self.api.address));
        match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub async fn get(&self, path: &str, token: &str) -> (u16, Value) {
        read(self.ask(Method::GET, path, Some(token)).send().await.unwrap()).await
    }

    /// Returns every operation of the api's own document.
    pub async fn operations(&self) -> Vec<Documented> {
        let answer = self.ask(Method::GET, "/openapi.json", None).send().await.unwrap();
        operations(answer.json().await.unwrap())
    }

    /// Places an order for a customer, by a storefront; returns its id.
    pub async fn place_for(&self, customer: &str) -> String {
        let mut body = order("mug", 1, "card_approved", "AT");
        body["customerId"] = json!(customer);
        let storefront = token("shop", &[Role::Storefront]);
        let placed =
            self.ask(Method::POST, "/api/orders", Some(&storefront)).json(&body).send().await.unwrap();
        let (status, placed) = read(placed).await;
        assert_eq!((status, &placed["customerId"]), (201, &json!(customer)), "{placed}");
        placed["id"].as_str().unwrap().to_owned()
    }

    /// Records a notification about an order.
    pub async fn notify(&self, id: &str, order: &str) {
        sqlx::query(
            "INSERT INTO notifications (id, order_id, event_id, event_type, channel, status, reason)
             VALUES ($1::uuid, $2::uuid, 'e', 'order.created', 'email', 'SKIPPED', 'not_configured')",
        )
        .bind(id)
        .bind(order)
        .execute(self.stack.pool("notification"))
        .await
        .unwrap();
    }

    pub async fn saga_of(&self, order: &str) -> String {
        sqlx::query_scalar("SELECT saga_id::text FROM orders WHERE id = $1::uuid")
            .bind(order)
            .fetch_one(self.stack.pool("engine"))
            .await
            .unwrap()
    }

    /// Creates a webhook with one delivery; returns the ids of both. It is written as its owner would find it, because a
    /// matrix needs hundreds.
    pub async fn webhook(&self) -> (String, String) {
        let ids: (String, String) = sqlx::query_as(
            "WITH w AS (
                 INSERT INTO webhooks (id, url, types, format, secret)
                 VALUES (gen_random_uuid(), 'http://127.0.0.1:9/', '{order.*}', 'event', 'v1.none.')
                 RETURNING id)
             INSERT INTO webhook_deliveries (id, webhook_id, sequence, status, event_type, event_id, event)
             SELECT gen_random_uuid(), w.id, 1, 'FAILED', 'order.paid', 'an event', '{}' FROM w
             RETURNING webhook_id::text, id::text",
        )
        .fetch_one(self.stack.pool("engine"))
        .await
        .unwrap();
        ids
    }

    /// Returns the number of orders, and the sum of all sagas' revisions.
    pub async fn rows(&self) -> (i64, i64) {
        sqlx::query_as(
            "SELECT (SELECT count(*) FROM orders), (SELECT coalesce(sum(revision), 0)::bigint FROM sagas)",
        )
        .fetch_one(self.stack.pool("engine"))
        .await
        .unwrap()
    }
}

/// Reads an answer's status and body.
pub async fn read(answer: Response) -> (u16, Value) {
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}
