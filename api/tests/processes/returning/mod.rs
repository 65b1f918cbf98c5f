//! Returns: pieces come back and are paid for, no piece twice. Refunds without a return are in [`refunds`].

mod refunds;

use amends_api::auth::Role;
use amends_testkit::eventually;
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    books,
    support::{
        LONG, Process,
        client::order,
        issuer::token,
        shop::{Shop, read},
    },
};

/// A shop with all its workers, and its callers.
struct Open {
    shop: Shop,
    customer: String,
    operator: String,
    storefront: String,
    _roles: Vec<Process>,
}

async fn open() -> Open {
    let shop = Shop::open().await;
    let inventory = shop.stack.start(&["worker", "inventory"]).await;
    shop.stack.stock("mug", 100).await;
    let roles = [&["engine"][..], &["worker", "payment"], &["worker", "shipment"]];
    let mut running = join_all(roles.into_iter().map(|role| shop.stack.start(role))).await;
    running.push(inventory);
    Open {
        shop,
        customer: token("c-a", &[Role::Customer]),
        operator: token("olga", &[Role::Operator]),
        storefront: token("shop", &[Role::Storefront]),
        _roles: running,
    }
}

impl Open {
    async fn send(
        &self,
        method: Method,
        path: &str,
        token: &str,
        key: Option<&str>,
        body: Value,
    ) -> (u16, Value) {
        let mut request = self.shop.ask(method, path, Some(token)).json(&body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        read(request.send().await.unwrap()).await
    }

    /// Places an order of this many mugs, in two lines, that is fulfilled and complete; returns its path.
    async fn fulfilled(&self, method: &str, quantities: [i64; 2]) -> String {
        let mut body = order("mug", quantities[0], method, "AT");
        body["customerId"] = json!("c-a");
        let mut second = body["lines"][0].clone();
        (second["quantity"], second["unitPrice"]) = (json!(quantities[1]), json!(500));
        body["lines"].as_array_mut().unwrap().push(second);
        let (status, placed) = self.send(Method::POST, "/api/orders", &self.storefront, None, body).await;
        assert_eq!(status, 201, "{placed}");
        assert_eq!(
            (&placed["captured"], &placed["lines"][1]["lineId"]),
            (&json!(0), &json!("2")),
            "{placed}"
        );
        let id = placed["id"].as_str().unwrap();
        let path = format!("/api/orders/{id}");
        self.becomes(&path, "FULFILLED").await;
        // Its pieces are taken out of the stock after that.
        eventually("the order is complete", LONG, || async {
            let ended: bool = sqlx::query_scalar("SELECT outcome IS NOT NULL FROM sagas WHERE id = $1::uuid")
                .bind(self.shop.saga_of(id).await)
                .fetch_one(self.shop.stack.pool("engine"))
                .await
                .unwrap();
            ended.then_some(())
        })
        .await;
        path
    }

    async fn get(&self, path: &str) -> Value {
        self.shop.get(path, &self.customer).await.1
    }

    async fn becomes(&self, path: &str, status: &str) -> Value {
        eventually(&format!("{path} becomes {status}"), LONG, || async {
            let order = self.get(path).await;
            (order["status"] == status).then_some(order)
        })
        .await
    }

    async fn ask(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(Method::POST, &format!("{path}/return"), &self.customer, None, body).await
    }

    async fn decide(&self, path: &str, decision: &str) -> (u16, Value) {
        self.send(Method::PUT, &format!("{path}/return/{decision}"), &self.operator, None, json!({})).await
    }

    async fn refund(&self, path: &str, key: &str, body: Value) -> (u16, Value) {
        self.send(Method::POST, &format!("{path}/refunds"), &self.operator, Some(key), body).await
    }

    async fn stock(&self) -> (i64, i64) {
        sqlx::query_as("SELECT on_hand, shipped FROM stock WHERE product_id = 'mug'")
            .fetch_one(self.shop.stack.pool("inventory"))
            .await
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_comes_back_in_parts_and_is_paid_back_and_in_stock_again() {
    let open = open().await;
    let path = open.fulfilled("card_approved", [2, 1]).await;
    let order = open.get(&path).await;
    assert_eq!(
        (&order["captured"], &order["refunded"], &order["total"]),
        (&json!(3000), &json!(0), &json!(3000))
    );
    assert_eq!(order["lines"][0]["fulfilled"], 2, "{order}");
    let parcel = &order["shipments"][0];
    let id: uuid::Uuid = parcel["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(id.get_version_num(), 7, "as every id of the API: {order}");
    assert!(parcel["trackingNumber"].as_str().is_some_and(|number| !number.is_empty()), "{order}");
    assert_eq!(parcel["lines"], json!([{ "lineId": "1", "quantity": 2 }, { "lineId": "2", "quantity": 1 }]));
    assert!(order["returnableUntil"].as_str().unwrap() > order["createdAt"].as_str().unwrap());

    // Ten at once: one is taken.
    let one = json!({ "reason": "damaged", "lines": [{ "lineId": "1", "quantity": 1 }] });
    let asked = join_all((0..10).map(|_| open.ask(&path, one.clone()))).await;
    let taken: Vec<&Value> =
        asked.iter().filter(|(status, _)| *status == 202).map(|(_, order)| order).collect();
    assert_eq!((taken.len(), asked.iter().filter(|(status, _)| *status == 409).count()), (1, 9), "{asked:?}");
    assert_eq!(taken[0]["status"], "RETURN_REQUESTED");
    let back = &taken[0]["returns"][0];
    assert_eq!((&back["status"], &back["reason"]), (&json!("REQUESTED"), &json!("damaged")));
    assert_eq!(back["lines"], json!([{ "lineId": "1", "quantity": 1 }]));
    assert_eq!(taken[0]["refunds"], json!([]));

    // Nothing of it is cancelled with its order.
    let (status, problem) = open.send(Method::DELETE, &path, &open.customer, None, json!({})).await;
    assert_eq!(
        (status, open.get(&path).await["status"].clone()),
        (409, json!("RETURN_REQUESTED")),
        "{problem}"
    );

    for decision in ["approve", "approve"] {
        let (status, order) = open.decide(&path, decision).await;
        assert_eq!(status, 202, "{order}");
    }
    assert_eq!(open.decide(&path, "reject").await.0, 409);
    let order = open.becomes(&path, "PARTIALLY_RETURNED").await;
    assert_eq!((&order["refunded"], &order["lines"][0]["returned"]), (&json!(1250), &json!(1)), "{order}");
    assert_eq!(order["returns"][0]["status"], "COMPLETED");
    assert_eq!(
        (&order["refunds"][0]["amount"], &order["refunds"][0]["status"]),
        (&json!(1250), &json!("SUCCEEDED"))
    );
    assert_eq!(open.stock().await, (98, 2));

    // Never two of one piece.
    let (status, problem) =
        open.ask(&path, json!({ "reason": "x", "lines": [{ "lineId": "1", "quantity": 2 }] })).await;
    assert_eq!((status, &problem["errors"][0]["remaining"]), (409, &json!(1)), "{problem}");
    // The rest.
    assert_eq!(open.ask(&path, json!({ "reason": "all of it" })).await.0, 202);
    assert_eq!(open.decide(&path, "reject").await.0, 200);
    assert_eq!(open.becomes(&path, "PARTIALLY_RETURNED").await["returns"][1]["status"], "REJECTED");
    assert_eq!(open.ask(&path, json!({ "reason": "all of it, really" })).await.0, 202);
    assert_eq!(open.decide(&path, "approve").await.0, 202);
    let order = open.becomes(&path, "RETURNED").await;
    assert_eq!((&order["captured"], &order["refunded"]), (&json!(3000), &json!(3000)), "{order}");
    assert_eq!(open.stock().await, (100, 0));
    assert_eq!(open.ask(&path, json!({ "reason": "again" })).await.0, 409);
    let timeline = open.get(&format!("{path}/timeline")).await;
    let statuses: Vec<&str> =
        timeline["items"].as_array().unwrap().iter().filter_map(|i| i["detail"]["status"].as_str()).collect();
    assert_eq!(
        statuses[4..],
        [
            "RETURN_REQUESTED",
            "PARTIALLY_RETURNED",
            "RETURN_REQUESTED",
            "PARTIALLY_RETURNED",
            "RETURN_REQUESTED",
            "RETURNED"
        ]
    );
    let (_, listed) = open.shop.get("/api/orders?status=RETURNED", &open.customer).await;
    assert_eq!(listed["items"][0]["id"], order["id"]);
    assert_eq!(listed["items"][0]["refunded"], 3000, "{listed}");
    books::settle(&open.shop.stack).await;
    books::balance(&open.shop.stack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_return_is_free_again_after_a_day() {
    let open = open().await;
    let path = open.fulfilled("card_approved", [2, 1]).await;
    let one = json!({ "reason": "damaged", "lines": [{ "lineId": "1", "quantity": 1 }] });
    let asks = format!("{path}/return");
    let ask = async || open.send(Method::POST, &asks, &open.customer, Some("return"), one.clone()).await;
    assert_eq!(ask().await.0, 202);
    assert_eq!(open.decide(&path, "approve").await.0, 202);
    open.becomes(&path, "PARTIALLY_RETURNED").await;
    let (status, order) = ask().await;
    assert_eq!((status, order["returns"].as_array().unwrap().len()), (202, 1), "{order}");
    let day = "UPDATE order_sagas SET created_at = created_at - interval '25 hours'";
    let expiry = "UPDATE idempotent_answers SET expires_at = expires_at - interval '25 hours'";
    for later in [day, expiry] {
        sqlx::query(later).execute(open.shop.stack.pool("engine")).await.unwrap();
    }
    let (status, order) = ask().await;
    assert_eq!((status, order["returns"].as_array().unwrap().len()), (202, 2), "{order}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_come_back_or_is_not_the_callers_is_refused() {
    let open = open().await;
    // Not fulfilled: nobody reserves its stock.
    let unheard = {
        let mut body = order("unheard-of", 1, "card_approved", "AT");
        body["customerId"] = json!("c-a");
        let (_, placed) = open.send(Method::POST, "/api/orders", &open.storefront, None, body).await;
        format!("/api/orders/{}", placed["id"].as_str().unwrap())
    };
    let all = json!({ "reason": "x" });
    let (status, problem) = open.ask(&unheard, all.clone()).await;
    assert_eq!((status, &problem["type"]), (409, &json!("/problems/not-returnable")), "{problem}");
    assert_eq!(open.decide(&unheard, "approve").await.0, 409);
    assert_eq!(open.refund(&unheard, "k", json!({ "amount": 1, "reason": "x" })).await.0, 409);

    let path = open.fulfilled("card_approved", [1, 1]).await;
    let other = token("c-b", &[Role::Customer]);
    let asks = format!("{path}/return");
    assert_eq!(open.send(Method::POST, &asks, &other, None, all.clone()).await.0, 404);
    assert_eq!(open.send(Method::POST, &asks, &open.operator, None, all.clone()).await.0, 403);
    assert_eq!(
        open.send(Method::PUT, &format!("{asks}/approve"), &open.customer, None, json!({})).await.0,
        403
    );
    for (body, pointer) in [
        (json!({}), "/reason"),
        (json!({ "reason": "a\u{202e}b" }), "/reason"),
        (json!({ "reason": "x", "lines": [] }), "/lines"),
        (json!({ "reason": "x", "lines": [{ "lineId": "3", "quantity": 1 }] }), "/lines/0/lineId"),
        (json!({ "reason": "x", "lines": [{ "lineId": "1", "quantity": 0 }] }), "/lines/0/quantity"),
        (
            json!({ "reason": "x", "lines": [{ "lineId": "1", "quantity": 1 }, { "lineId": "1", "quantity": 1 }] }),
            "/lines/1/lineId",
        ),
        (json!({ "reason": "x", "amount": 5 }), "/amount"),
    ] {
        let (status, problem) = open.ask(&path, body.clone()).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (400, &json!(pointer)), "{body}: {problem}");
    }
    // Thirty days later.
    let back = "UPDATE timeline SET at = at - interval '31 days' WHERE revision > 1";
    sqlx::query(back).execute(open.shop.stack.pool("engine")).await.unwrap();
    assert_eq!(open.ask(&path, all).await.0, 409);
    // Only the state that was read.
    let stale = open.shop.ask(Method::POST, &asks, Some(&open.customer)).header("if-match", "\"other\"");
    assert_eq!(stale.json(&json!({ "reason": "x" })).send().await.unwrap().status(), 412);
}
