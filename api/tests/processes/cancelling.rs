//! Cancelling an order: with a reason, once for each key, and only in the state that the caller has seen.

use amends_api::auth::Role;
use futures::future::join_all;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::{
    issuer::token,
    shop::{Shop, read},
};

/// A POST of the operator or customer whose token this is.
async fn post(shop: &Shop, path: &str, token: &str, headers: &[(&str, &str)], body: &Value) -> Response {
    let request = shop.ask(Method::POST, path, Some(token)).json(body);
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send().await.unwrap()
}

fn is_replayed(answer: &Response) -> bool {
    answer.headers().get("idempotency-replayed").is_some_and(|value| value == "true")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_cancels_with_a_reason_that_operators_read() {
    let shop = Shop::open().await;
    let (customer, operator) = (token("c-a", &[Role::Customer]), token("olga", &[Role::Operator]));
    let order = shop.place_for("c-a").await;
    let path = format!("/api/orders/{order}/cancel");
    let before = shop.rows().await;
    for (body, pointer) in [
        (json!({}), "/reason"),
        (json!({ "reason": "" }), "/reason"),
        (json!({ "reason": " \u{a0}" }), "/reason"),
        (json!({ "reason": "r".repeat(201) }), "/reason"),
        (json!({ "reason": "a\nb" }), "/reason"),
        (json!({ "reason": "a\u{202e}b" }), "/reason"),
        (json!({ "reason": 7 }), "/reason"),
        (json!({ "reason": "x", "status": "CANCELLED" }), "/status"),
    ] {
        let (status, problem) = read(post(&shop, &path, &customer, &[], &body).await).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (400, &json!(pointer)), "{body}: {problem}");
    }
    assert_eq!(shop.rows().await, before);

    let body = json!({ "reason": "ordered twice" });
    let (status, now) = read(post(&shop, &path, &customer, &[], &body).await).await;
    assert_eq!(
        (status, &now["status"], &now["headingFor"]),
        (202, &json!("CANCELLING"), &json!("CANCELLED"))
    );
    assert_eq!(now["id"], json!(order), "the answer is the order as it is now");
    let timeline = format!("/api/orders/{order}/timeline");
    let (_, full) = shop.get(&timeline, &operator).await;
    assert_eq!(full["items"][1]["detail"]["by"], json!({ "who": "c-a", "why": "ordered twice" }), "{full}");
    let (_, shown) = shop.get(&timeline, &customer).await;
    assert!(!shown.to_string().contains("ordered twice"), "{shown}");

    // Shipped or ended otherwise: 409, whichever way.
    let saga = shop.saga_of(&order).await;
    sqlx::query("UPDATE sagas SET outcome = 'undone', label = 'CANCELLED', live = false, revision = revision + 1 WHERE id = $1::uuid")
        .bind(&saga)
        .execute(shop.stack.pool("engine"))
        .await
        .unwrap();
    let (status, problem) = read(post(&shop, &path, &customer, &[], &body).await).await;
    assert_eq!((status, &problem["type"]), (409, &json!("/problems/cannot-cancel")), "{problem}");
    let deleted = shop.ask(Method::DELETE, &format!("/api/orders/{order}"), Some(&customer)).send().await;
    assert_eq!(deleted.unwrap().status(), 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_answered_once_for_its_subject_and_path_and_with_another_body_not_at_all() {
    let shop = Shop::open().await;
    let customer = token("c-a", &[Role::Customer]);
    let (order, other) = (shop.place_for("c-a").await, shop.place_for("c-a").await);
    let path = format!("/api/orders/{order}/cancel");
    let (key, body) = ([("idempotency-key", "k-1")], json!({ "reason": "ordered twice" }));

    // A refusal takes no key.
    let refused = post(&shop, &path, &customer, &key, &json!({ "reason": "" })).await;
    assert_eq!((refused.status().as_u16(), is_replayed(&refused)), (400, false));

    // Of requests at once, one is carried out, and the others wait for its answer.
    let same = join_all((0..8).map(|_| post(&shop, &path, &customer, &key, &body))).await;
    assert_eq!(same.iter().filter(|answer| !is_replayed(answer)).count(), 1);
    let first = join_all(same.into_iter().map(read)).await;
    assert!(first.iter().all(|answer| *answer == first[0] && answer.0 == 202), "{first:?}");
    assert_eq!(first[0].1["status"], "CANCELLING");

    let elsewhere = post(&shop, &format!("/api/orders/{other}/cancel"), &customer, &key, &body).await;
    assert_eq!((elsewhere.status().as_u16(), is_replayed(&elsewhere)), (202, false));

    // It is that answer later too, though the order has moved on.
    let roles = [&["engine"][..], &["worker", "inventory"]];
    let _running = join_all(roles.into_iter().map(|role| shop.stack.start(role))).await;
    amends_testkit::eventually("the order is cancelled", crate::support::LONG, || async {
        let (_, now) = shop.get(&format!("/api/orders/{order}"), &customer).await;
        (now["status"] == "CANCELLED").then_some(())
    })
    .await;
    let formatted = shop
        .ask(Method::POST, &path, Some(&customer))
        .header("idempotency-key", "k-1")
        .header("content-type", "application/json")
        .body("{ \"reason\" : \"ordered twice\" }");
    let again = formatted.send().await.unwrap();
    assert!(is_replayed(&again));
    assert_eq!(read(again).await, first[0]);
    let malformed = [("idempotency-key", "k-1"), ("if-match", "x")];
    assert_eq!(post(&shop, &path, &customer, &malformed, &body).await.status(), 400);
    // Without the key, the present state decides.
    assert_eq!(post(&shop, &path, &customer, &[], &body).await.status(), 409);

    let changed = post(&shop, &path, &customer, &key, &json!({ "reason": "too dear" })).await;
    let (status, problem) = read(changed).await;
    assert_eq!((status, &problem["type"]), (422, &json!("/problems/idempotency-key-reused")), "{problem}");
    let storefront = token("shop", &[Role::Storefront]);
    assert_eq!(post(&shop, &path, &storefront, &key, &body).await.status(), 409, "another subject's key");

    // A day later the key is free.
    sqlx::query("UPDATE idempotent_answers SET expires_at = now()")
        .execute(shop.stack.pool("engine"))
        .await
        .unwrap();
    assert_eq!(post(&shop, &path, &customer, &key, &body).await.status(), 409, "judged by the present state");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_action_with_a_key_happens_once() {
    let shop = Shop::open().await;
    let operator = token("olga", &[Role::Operator]);
    let saga = shop.saga_of(&shop.place_for("c-a").await).await;
    let path = format!("/admin/sagas/{saga}/resend");
    let (key, body) = ([("idempotency-key", "k-1")], json!({ "reason": "the broker was away" }));
    let first = post(&shop, &path, &operator, &key, &body).await;
    assert_eq!((first.status().as_u16(), is_replayed(&first)), (200, false));
    let (first, before) = (read(first).await, shop.rows().await);
    let again = post(&shop, &path, &operator, &key, &body).await;
    assert!(is_replayed(&again));
    assert_eq!((read(again).await, shop.rows().await), (first, before));
    assert_eq!(post(&shop, &path, &operator, &[], &body).await.status(), 200);
    assert_ne!(shop.rows().await, before, "without a key it is done again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_a_state_that_has_passed_changes_nothing() {
    let shop = Shop::open().await;
    let (customer, operator) = (token("c-a", &[Role::Customer]), token("olga", &[Role::Operator]));
    let order = shop.place_for("c-a").await;
    let saga = shop.saga_of(&order).await;
    let order_path = format!("/api/orders/{order}");
    let saga_path = format!("/admin/sagas/{saga}");
    let tag_of = async |path: &str, token: &str| {
        let answer = shop.ask(Method::GET, path, Some(token)).send().await.unwrap();
        answer.headers()["etag"].to_str().unwrap().to_owned()
    };
    let (order_tag, saga_tag) = (tag_of(&order_path, &customer).await, tag_of(&saga_path, &operator).await);
    let known = shop.ask(Method::GET, &saga_path, Some(&operator)).header("if-none-match", &saga_tag);
    assert_eq!(known.send().await.unwrap().status(), 304);
    let resend = format!("{saga_path}/resend");
    let reason = json!({ "reason": "the broker was away" });
    let resent = post(&shop, &resend, &operator, &[("if-match", &saga_tag)], &reason).await;
    assert_eq!(resent.status(), 200);

    // The saga has moved on since both were read.
    let before = shop.rows().await;
    let weak = format!("W/{}", tag_of(&order_path, &customer).await);
    for (tag, status) in [(&*order_tag, 412), (&weak, 412), ("\"other\"", 412), ("no tag", 400)] {
        let headers = [("if-match", tag)];
        let cancel = post(&shop, &format!("{order_path}/cancel"), &customer, &headers, &reason).await;
        let (answered, problem) = read(cancel).await;
        assert_eq!(answered, status, "{tag}: {problem}");
        if status == 412 {
            assert_eq!(problem["type"], "/problems/precondition-failed");
        }
        let delete = shop.ask(Method::DELETE, &order_path, Some(&customer)).header("if-match", tag);
        assert_eq!(delete.send().await.unwrap().status(), status, "{tag}");
    }
    for action in ["resend", "cancel"] {
        let path = format!("{saga_path}/{action}");
        let stale = post(&shop, &path, &operator, &[("if-match", &saga_tag)], &reason).await;
        assert_eq!(stale.status(), 412, "{action}");
    }
    assert_eq!(shop.rows().await, before);

    let seen = tag_of(&order_path, &customer).await;
    let both = format!("\"other\", {seen}");
    let cancelled =
        post(&shop, &format!("{order_path}/cancel"), &customer, &[("if-match", &both)], &reason).await;
    assert_eq!(cancelled.status(), 202);
    let any = shop.ask(Method::DELETE, &order_path, Some(&customer)).header("if-match", "*");
    assert_eq!(any.send().await.unwrap().status(), 202, "it is being cancelled already");
}
