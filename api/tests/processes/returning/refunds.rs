//! Refunds: goodwill, quotes, and refunds that the gateway refuses. Never a cent too much is paid back.

use amends_testkit::eventually;
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::open;
use crate::{
    books,
    support::{LONG, shop::read},
};

#[tokio::test(flavor = "multi_thread")]
async fn goodwill_is_paid_back_once_for_each_key_and_never_more_than_was_captured() {
    let open = open().await;
    let path = open.fulfilled("card_approved", [1, 1]).await;
    let refunds = format!("{path}/refunds");
    let body = json!({ "amount": 1000, "reason": "late" });
    let (status, problem) = open.send(Method::POST, &refunds, &open.operator, None, body.clone()).await;
    assert_eq!((status, &problem["errors"][0]["header"]), (400, &json!("Idempotency-Key")), "{problem}");
    for token in [&open.customer, &open.storefront] {
        assert_eq!(open.send(Method::POST, &refunds, token, Some("k"), body.clone()).await.0, 403);
    }
    let asked = join_all((0..5).map(|_| open.refund(&path, "k-1", body.clone()))).await;
    assert!(
        asked.iter().all(|(status, order)| *status == 202 && order["refunds"].as_array().unwrap().len() == 1),
        "{asked:?}"
    );
    // The answer that was kept may be lost: the order knows the request itself.
    sqlx::query("DELETE FROM idempotent_answers").execute(open.shop.stack.pool("engine")).await.unwrap();
    assert_eq!(open.refund(&path, "k-1", json!({ "amount": 1, "reason": "late" })).await.0, 422);
    let again = open.shop.ask(Method::POST, &refunds, Some(&open.operator)).header("idempotency-key", "k-1");
    let again = again.json(&body).send().await.unwrap();
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    let (status, order) = read(again).await;
    assert_eq!((status, order["refunds"].as_array().unwrap().len()), (202, 1), "{order}");
    assert_eq!(open.refund(&path, "k-1", json!({ "amount": 1, "reason": "late" })).await.0, 422);

    let (status, problem) = open.refund(&path, "k-2", json!({ "amount": 751, "reason": "x" })).await;
    assert_eq!((status, &problem["remaining"]), (409, &json!(750)), "{problem}");
    // Several at once: what is under way counts.
    let asked =
        join_all(
            (0..6).map(|n| {
                let (open, path) = (&open, &path);
                async move {
                    open.refund(path, &format!("m-{n}"), json!({ "amount": 300, "reason": "x" })).await.0
                }
            }),
        )
        .await;
    assert_eq!(asked.iter().filter(|status| **status == 202).count(), 2, "{asked:?}");
    let paid = eventually("all of it is paid back", LONG, || async {
        let order = open.get(&path).await;
        (order["refunded"] == 1600).then_some(order)
    })
    .await;
    assert_eq!(paid["status"], "FULFILLED", "a refund is no status");

    // Goodwill counts: what comes back is paid back as far as something is left.
    assert_eq!(open.ask(&path, json!({ "reason": "all of it" })).await.0, 202);
    assert_eq!(open.decide(&path, "approve").await.0, 202);
    let order = open.becomes(&path, "RETURNED").await;
    assert_eq!((&order["captured"], &order["refunded"]), (&json!(1750), &json!(1750)), "{order}");
    books::settle(&open.shop.stack).await;
    books::balance(&open.shop.stack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quote_is_applied_exactly_or_not_at_all() {
    let open = open().await;
    let path = open.fulfilled("card_approved", [2, 1]).await;
    let quotes = format!("{path}/refunds/quote");
    let lines = json!({ "lines": [{ "lineId": "1", "quantity": 1 }, { "lineId": "2", "quantity": 1 }] });
    let quote = async || open.send(Method::POST, &quotes, &open.storefront, None, lines.clone()).await;
    let shown = open.shop.ask(Method::GET, &path, Some(&open.storefront)).send().await.unwrap();
    let tag = shown.headers()["etag"].to_str().unwrap().to_owned();
    for (condition, status) in [(tag.as_str(), 200), ("\"other\"", 412)] {
        let asked =
            open.shop.ask(Method::POST, &quotes, Some(&open.storefront)).header("if-match", condition);
        assert_eq!(asked.json(&lines).send().await.unwrap().status(), status, "{condition}");
    }
    let (status, quoted) = quote().await;
    assert_eq!(
        (status, &quoted["amount"], &quoted["remaining"]),
        (200, &json!(1750), &json!(3000)),
        "{quoted}"
    );
    assert_eq!(quoted["lines"][0]["amount"], 1250, "{quoted}");
    let (_, stale) = quote().await;
    let apply = async |key: &str, hash: &Value| {
        open.refund(&path, key, json!({ "quote": hash, "reason": "as agreed" })).await
    };
    let (status, order) = apply("q-1", &quoted["hash"]).await;
    assert_eq!((status, &order["refunds"][0]["amount"]), (202, &json!(1750)), "{order}");
    let (status, moved) = apply("q-2", &stale["hash"]).await;
    assert_eq!((status, &moved["type"]), (412, &json!("/problems/precondition-failed")), "{moved}");
    assert!(moved["detail"].as_str().unwrap().contains("the quote"), "{moved}");
    assert_eq!(apply("q-3", &json!("00".repeat(40))).await.0, 400);
    let before = open.shop.rows().await;
    for (body, status) in [
        (json!({ "reason": "x" }), 400),
        (json!({ "amount": 0, "reason": "x" }), 400),
        (json!({ "amount": -1, "reason": "x" }), 400),
        (json!({ "amount": 1.5, "reason": "x" }), 400),
        (json!({ "amount": 1 }), 400),
        (json!({ "amount": 1, "lines": [], "reason": "x" }), 400),
        (json!({ "lines": [{ "lineId": "9", "quantity": 1 }], "reason": "x" }), 400),
        (json!({ "lines": [{ "lineId": "1", "quantity": 2 }], "reason": "x" }), 409),
        (json!({ "amount": 1, "reason": "x", "status": "PAID" }), 400),
    ] {
        assert_eq!(open.refund(&path, "q-4", body.clone()).await.0, status, "{body}");
    }
    let sagas = async || -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM sagas")
            .fetch_one(open.shop.stack.pool("engine"))
            .await
            .unwrap()
    };
    assert_eq!((sagas().await, open.shop.rows().await.0), (2, before.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_refund_waits_for_an_operator_and_is_mended() {
    let open = open().await;
    let path = open.fulfilled("card_refund_refused", [1, 1]).await;
    assert_eq!(open.ask(&path, json!({ "reason": "damaged" })).await.0, 202);
    let (status, order) = open.decide(&path, "approve").await;
    assert_eq!((status, &order["returns"][0]["status"]), (202, &json!("REFUNDING")), "{order}");
    let parked = eventually("the refund is parked", LONG, || async {
        let order = open.get(&path).await;
        (order["refunds"][0]["status"] == "PARKED").then_some(order)
    })
    .await;
    assert_eq!(parked["status"], "RETURN_REQUESTED");
    // It is paid back by bank transfer.
    let saga = format!("/admin/sagas/{}", parked["refunds"][0]["id"].as_str().unwrap());
    let (_, seen) = open.shop.get(&saga, &open.operator).await;
    let evidence = json!({
        "outcome": "done", "reason": "by transfer", "reference": "BT-1", "revision": seen["revision"],
        "commandId": seen["waitsFor"][0]["commandId"],
    });
    let (status, resolved) =
        open.send(Method::POST, &format!("{saga}/resolve"), &open.operator, None, evidence).await;
    assert_eq!(status, 200, "{resolved}");
    let order = open.becomes(&path, "RETURNED").await;
    assert_eq!((&order["refunded"], &order["returns"][0]["status"]), (&json!(1750), &json!("COMPLETED")));
    books::settle(&open.shop.stack).await;
}
