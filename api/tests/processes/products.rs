//! Products over HTTP, and customers' orders at their prices.

use amends_api::auth::Role;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::support::{
    client::order,
    issuer::token,
    shop::{Shop, read},
};

fn product(unit_price: i64, currency: &str) -> Value {
    json!({ "name": "Blue mug", "unitPrice": unit_price, "currency": currency })
}

/// Returns an order as a customer sends it.
fn own_order(quantity: i64) -> Value {
    let mut body = order("mug", quantity, "card_approved", "AT");
    body.as_object_mut().unwrap().remove("customerId");
    body["lines"][0].as_object_mut().unwrap().remove("unitPrice");
    body
}

impl Shop {
    fn put_product(&self, id: &str, body: &Value) -> RequestBuilder {
        let operator = token("olga", &[Role::Operator]);
        self.ask(Method::PUT, &format!("/api/products/{id}"), Some(&operator)).json(body)
    }

    async fn place_own(&self, key: &str, body: &Value) -> (u16, bool, Value) {
        let customer = token("c-a", &[Role::Customer]);
        let request = self.ask(Method::POST, "/api/orders", Some(&customer)).header("idempotency-key", key);
        let answer = request.json(body).send().await.unwrap();
        let replayed = answer.headers().contains_key("idempotency-replayed");
        let (status, body) = read(answer).await;
        (status, replayed, body)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customers_order_takes_the_products_price_and_keeps_it() {
    let shop = Shop::open().await;
    let customer = token("c-a", &[Role::Customer]);
    let (status, replayed, problem) = shop.place_own("early", &own_order(2)).await;
    assert_eq!((status, replayed, &problem["type"]), (422, false, &json!("/problems/no-price")));
    assert_eq!(problem["errors"][0]["pointer"], "/lines/0/productId", "{problem}");
    assert_eq!(shop.rows().await, (0, 0));

    assert_eq!(shop.put_product("mug", &product(1250, "EUR")).send().await.unwrap().status(), 201);
    // The refused request has left its key free.
    let (status, replayed, placed) = shop.place_own("early", &own_order(2)).await;
    assert_eq!((status, replayed, &placed["total"]), (201, false, &json!(2500)), "{placed}");
    assert_eq!(placed["lines"][0]["unitPrice"], 1250, "{placed}");

    assert_eq!(shop.put_product("mug", &product(1300, "EUR")).send().await.unwrap().status(), 200);
    let (_, read_later) =
        shop.get(&format!("/api/orders/{}", placed["id"].as_str().unwrap()), &customer).await;
    assert_eq!((&read_later["total"], &read_later["lines"]), (&placed["total"], &placed["lines"]));
    let (_, _, second) = shop.place_own("later", &own_order(2)).await;
    assert_eq!(second["total"], 2600, "the writer of a price sees it at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_is_the_same_order_whatever_its_products_cost_by_then() {
    let shop = Shop::open().await;
    shop.put_product("mug", &product(1250, "EUR")).send().await.unwrap();
    let (_, _, placed) = shop.place_own("k", &own_order(1)).await;
    // Another price, and then none in the order's currency.
    for now in [product(9999, "EUR"), product(9999, "USD")] {
        shop.put_product("mug", &now).send().await.unwrap();
        let (status, replayed, again) = shop.place_own("k", &own_order(1)).await;
        assert_eq!((status, replayed), (201, true), "{now}: {again}");
        assert_eq!((&again["id"], &again["total"]), (&placed["id"], &json!(1250)), "{now}");
        let (status, _, problem) = shop.place_own("k", &own_order(2)).await;
        assert_eq!((status, &problem["type"]), (422, &json!("/problems/idempotency-key-reused")), "{now}");
    }
    let (status, _, problem) = shop.place_own("new", &own_order(1)).await;
    assert_eq!((status, &problem["type"]), (422, &json!("/problems/no-price")), "{problem}");
    assert_eq!(shop.rows().await.0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storefront_states_some_prices_and_leaves_others_to_the_products() {
    let shop = Shop::open().await;
    shop.put_product("mug", &product(1250, "EUR")).send().await.unwrap();
    let mut body = order("hat", 1, "card_approved", "AT");
    body["lines"].as_array_mut().unwrap().push(json!({ "productId": "mug", "quantity": 2 }));
    let storefront = token("shop", &[Role::Storefront]);
    let request = shop.ask(Method::POST, "/api/orders", Some(&storefront)).json(&body);
    let (status, placed) = read(request.send().await.unwrap()).await;
    assert_eq!((status, &placed["total"]), (201, &json!(3750)), "{placed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_product_is_replaced_only_as_it_was_seen() {
    let shop = Shop::open().await;
    let created = shop.put_product("mug", &product(1250, "EUR")).send().await.unwrap();
    let tag = created.headers()["etag"].to_str().unwrap().to_owned();
    let (_, shown) = read(created).await;
    let customer = token("c-a", &[Role::Customer]);
    let known = shop.ask(Method::GET, "/api/products/mug", Some(&customer)).header("if-none-match", &tag);
    assert_eq!(known.send().await.unwrap().status(), 304);
    assert_eq!(shop.get("/api/products/mug", &customer).await, (200, shown));

    let put = async |id: &str, tag: &str, unit_price| {
        let request = shop.put_product(id, &product(unit_price, "EUR")).header("if-match", tag);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(put("hat", "*", 1).await, 412, "there is no hat to replace");
    assert_eq!(put("mug", "\"other\"", 1).await, 412);
    assert_eq!(put("mug", &tag, 1300).await, 200);
    assert_eq!(put("mug", &tag, 1400).await, 412, "it has changed since");
    assert_eq!(put("mug", "*", 1500).await, 200);
    assert_eq!(shop.get("/api/products/mug", &customer).await.1["unitPrice"], 1500);
    assert_eq!(shop.get("/api/products/hat", &customer).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn products_are_listed_page_by_page_for_everyone_who_is_signed_in() {
    let shop = Shop::open().await;
    for id in ["a", "b", "c", "d", "e"] {
        shop.put_product(id, &product(1, "EUR")).send().await.unwrap();
    }
    let customer = token("c-a", &[Role::Customer]);
    let (mut met, mut path) = (Vec::new(), "/api/products?limit=2".to_owned());
    loop {
        let (status, page) = shop.get(&path, &customer).await;
        assert_eq!(status, 200, "{page}");
        met.extend(page["items"].as_array().unwrap().iter().map(|item| item["productId"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/products?limit=2&cursor={next}");
    }
    assert_eq!(met, ["a", "b", "c", "d", "e"]);
    let (_, first) = shop.get("/api/products?limit=2", &customer).await;
    let stolen = format!("/api/products?limit=2&cursor={}", first["next"].as_str().unwrap());
    let (status, problem) = shop.get(&stolen, &token("c-b", &[Role::Customer])).await;
    assert_eq!((status, &problem["errors"][0]["parameter"]), (400, &json!("cursor")), "{problem}");
    for query in ["limit=0", "limit=201", "after=a", "limit=1&limit=2"] {
        let (status, problem) = shop.get(&format!("/api/products?{query}"), &customer).await;
        assert_eq!((status, &problem["type"]), (400, &json!("/problems/invalid-request")), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_product_that_cannot_be_is_refused_with_its_place_and_leaves_no_row() {
    let shop = Shop::open().await;
    for (body, pointer) in [
        (json!({ "unitPrice": 1, "currency": "EUR" }), "/name"),
        (json!({ "name": "Mug", "currency": "EUR" }), "/unitPrice"),
        (json!({ "name": "Mug", "unitPrice": 1 }), "/currency"),
        (json!({ "name": " ", "unitPrice": 1, "currency": "EUR" }), "/name"),
        (json!({ "name": "a\u{202e}b", "unitPrice": 1, "currency": "EUR" }), "/name"),
        (json!({ "name": "n".repeat(201), "unitPrice": 1, "currency": "EUR" }), "/name"),
        (json!({ "name": "Mug", "unitPrice": -1, "currency": "EUR" }), "/unitPrice"),
        (json!({ "name": "Mug", "unitPrice": 1.5, "currency": "EUR" }), "/unitPrice"),
        (json!({ "name": "Mug", "unitPrice": "1", "currency": "EUR" }), "/unitPrice"),
        (json!({ "name": "Mug", "unitPrice": 1, "currency": "eur" }), "/currency"),
        (json!({ "name": "Mug", "unitPrice": 1, "currency": "ABC" }), "/currency"),
        (json!({ "name": "Mug", "unitPrice": 1, "currency": "EUR", "stock": 1 }), "/stock"),
    ] {
        let (status, problem) = read(shop.put_product("mug", &body).send().await.unwrap()).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (400, &json!(pointer)), "{body}: {problem}");
    }
    for id in ["a%20b", "m%C3%BCg", "a%2Fb", &"a".repeat(65)] {
        let (status, problem) = read(shop.put_product(id, &product(1, "EUR")).send().await.unwrap()).await;
        assert_eq!((status, &problem["errors"][0]["parameter"]), (400, &json!("productId")), "{id}");
    }
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM products")
        .fetch_one(shop.stack.pool("engine"))
        .await
        .unwrap();
    assert_eq!(rows, 0);
}
