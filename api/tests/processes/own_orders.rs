//! An order and its customer: what customers, storefronts and operators may set, see and cancel.

use amends_api::auth::Role;
use reqwest::Method;
use serde_json::json;

use crate::support::{
    client::order,
    issuer::token,
    shop::{Shop, read},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_customer_may_never_set_is_refused_and_nothing_changes() {
    let shop = Shop::open().await;
    let customer = token("c-a", &[Role::Customer]);
    let mut good = order("mug", 1, "card_approved", "AT");
    good.as_object_mut().unwrap().remove("customerId");
    good["lines"][0].as_object_mut().unwrap().remove("unitPrice");
    for (pointer, status, change) in [
        ("/status", 400, json!({ "status": "FULFILLED" })),
        ("/owner", 400, json!({ "owner": "c-b" })),
        ("/total", 400, json!({ "total": 1 })),
        ("/role", 400, json!({ "role": "admin" })),
        ("/subject", 400, json!({ "subject": "c-b" })),
        ("/customerId", 403, json!({ "customerId": "c-b" })),
        (
            "/lines/0/unitPrice",
            403,
            json!({ "lines": [{ "productId": "mug", "quantity": 1, "unitPrice": 1 }] }),
        ),
    ] {
        let mut body = good.clone();
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let sent = shop.ask(Method::POST, "/api/orders", Some(&customer)).json(&body).send().await.unwrap();
        let (answered, mut problem) = read(sent).await;
        assert_eq!((answered, &problem["errors"][0]["pointer"]), (status, &json!(pointer)), "{problem}");
        // An id may contain any two letters.
        problem.as_object_mut().unwrap().remove("requestId");
        assert!(!problem.to_string().contains("c-b"), "{problem}");
    }
    assert_eq!(shop.rows().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_reads_what_a_saga_waits_for_and_a_customer_what_the_order_waits_for() {
    let shop = Shop::open().await;
    let order = shop.place_for("c-a").await;
    let path = format!("/api/orders/{order}/explanation");
    let (_, shown) = shop.get(&format!("/api/orders/{order}"), &token("c-a", &[Role::Customer])).await;
    for role in [Role::Customer, Role::Storefront] {
        let (_, explained) = shop.get(&path, &token("c-a", &[role])).await;
        let sentence = explained["sentence"].as_str().unwrap();
        assert_eq!(explained["until"], shown["cancelsAt"], "{explained}");
        assert!(sentence.contains(shown["cancelsAt"].as_str().unwrap()), "{sentence}");
        for hidden in ["inventory", "reserve`", "attempt"] {
            assert!(!sentence.contains(hidden), "{sentence}");
        }
    }
    let (_, explained) = shop.get(&path, &token("vera", &[Role::Viewer])).await;
    let sentence = explained["sentence"].as_str().unwrap();
    assert!(sentence.contains("Waits for inventory's answer to `reserve`"), "{sentence}");
    let operator = token("olga", &[Role::Operator]);
    let cancel = shop.ask(Method::POST, &format!("/api/orders/{order}/cancel"), Some(&operator));
    let cancelled = cancel.json(&json!({ "reason": "looks like fraud" })).send().await.unwrap();
    assert_eq!(cancelled.status(), 202);
    let (_, explained) = shop.get(&path, &token("c-a", &[Role::Customer])).await;
    let sentence = explained["sentence"].as_str().unwrap();
    assert!(
        sentence.starts_with("The order is being cancelled") && explained["until"].is_null(),
        "{sentence}"
    );
    assert!(!sentence.contains("olga") && !sentence.contains("fraud"), "{sentence}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_sees_how_the_status_changed_and_neither_operator_nor_internals() {
    let shop = Shop::open().await;
    let order = shop.place_for("c-a").await;
    let operator = token("olga", &[Role::Operator]);
    let saga = shop.saga_of(&order).await;
    let cancelled = shop
        .ask(Method::POST, &format!("/admin/sagas/{saga}/cancel"), Some(&operator))
        .json(&json!({ "reason": "looks like fraud" }))
        .send()
        .await
        .unwrap();
    assert_eq!(cancelled.status(), 200);
    let path = format!("/api/orders/{order}/timeline");
    let (_, full) = shop.get(&path, &operator).await;
    let full = full.to_string();
    assert!(full.contains("olga") && full.contains("looks like fraud"), "{full}");
    for role in [Role::Customer, Role::Storefront] {
        let (_, shown) = shop.get(&path, &token("c-a", &[role])).await;
        let text = shown.to_string();
        assert!(shown["items"].as_array().unwrap().len() >= 2 && text.contains("cancel_requested"), "{text}");
        for hidden in ["olga", "fraud", "reserve", "attempt", "sent", "\"by\"", "commandId"] {
            assert!(!text.contains(hidden), "{hidden}: {text}");
        }
        let (_, order) = shop.get(&format!("/api/orders/{order}"), &token("c-a", &[role])).await;
        assert!(order.get("sagaId").is_none(), "{order}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cancels_own_orders_and_reads_all_does_not_cancel_others_orders() {
    let shop = Shop::open().await;
    let both = token("c-a", &[Role::Customer, Role::Viewer]);
    for (customer, status) in [("c-b", 403), ("c-a", 202)] {
        let path = format!("/api/orders/{}", shop.place_for(customer).await);
        assert_eq!(shop.get(&path, &both).await.0, 200, "{customer}");
        let before = shop.rows().await;
        let answer = shop.ask(Method::DELETE, &path, Some(&both)).send().await.unwrap();
        assert_eq!(answer.status(), status, "{customer}");
        assert_eq!(shop.rows().await == before, status == 403, "{customer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_belongs_to_its_subject() {
    let shop = Shop::open().await;
    let place = async |subject: &str, quantity: i64| {
        let token = token(subject, &[Role::Storefront]);
        let body = order("mug", quantity, "card_approved", "AT");
        let request =
            shop.ask(Method::POST, "/api/orders", Some(&token)).header("idempotency-key", "k").json(&body);
        request.send().await.unwrap()
    };
    assert_eq!(place("shop-1", 1).await.status(), 201);
    let other = place("shop-2", 2).await;
    assert_eq!((other.status().as_u16(), other.headers().contains_key("idempotency-replayed")), (201, false));
    let again = place("shop-1", 1).await;
    assert_eq!((again.status().as_u16(), again.headers().contains_key("idempotency-replayed")), (201, true));
    assert_eq!(place("shop-1", 2).await.status(), 422);
}
