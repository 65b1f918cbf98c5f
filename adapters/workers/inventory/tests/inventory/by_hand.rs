//! Changes of stock by hand: each once, with who made it and why, and the ledger as people read it.

use axum::{
    body::{Body, to_bytes},
    http::StatusCode,
};
use futures::future::join_all;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::world::{World, request, reserve, take};

/// An answer: status, whether it is a replay, and the body.
type Answer = (u16, bool, Value);

/// Sends a change of stock, as the api does on behalf of an operator.
async fn change(world: &World, method: &str, path: &str, key: Option<&str>, body: &Value) -> Answer {
    let mut request = request(method, path)
        .header("content-type", "application/json")
        .header("amends-subject", "olga%20%C3%A9");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let response = world.app().oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap();
    let (status, replayed) =
        (response.status().as_u16(), response.headers().contains_key("idempotency-replayed"));
    let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, replayed, serde_json::from_slice(&bytes).unwrap())
}

async fn adjust(world: &World, key: &str, by: i64) -> Answer {
    change(world, "PUT", "/api/inventory/mug/stock", Some(key), &json!({ "adjust": by })).await
}

async fn add(world: &World, key: Option<&str>, product: &str, quantity: i64) -> Answer {
    let body = json!({ "productId": product, "quantity": quantity });
    change(world, "POST", "/api/inventory", key, &body).await
}

async fn movements(world: &World, query: &str) -> (StatusCode, Value) {
    let (status, _, page) = world.http("GET", &format!("/api/inventory/mug/movements{query}"), "").await;
    (status, page)
}

#[tokio::test]
async fn an_adjustment_is_made_once_however_often_it_is_sent() {
    let world = World::quiet().await;
    world.put("mug", 10).await;
    let (status, replayed, first) = adjust(&world, "k", -3).await;
    assert_eq!((status, replayed, &first["onHand"]), (200, false, &json!(7)), "{first}");
    for _ in 0..2 {
        assert_eq!(adjust(&world, "k", -3).await, (200, true, first.clone()));
    }
    let (status, _, problem) = adjust(&world, "k", -4).await;
    assert_eq!((status, &problem["type"]), (422, &json!("/problems/idempotency-key-reused")));
    assert_eq!(adjust(&world, "other", 2).await.2["onHand"], 9);
    assert_eq!(world.stock("mug").await, (9, 0, 0));
    world.assert_books_balance().await;
}

#[tokio::test]
async fn of_many_requests_with_one_key_at_once_one_adjusts_and_all_are_answered_alike() {
    let world = World::quiet().await;
    world.put("mug", 100).await;
    let answers = join_all((0..8).map(|_| adjust(&world, "k", -1))).await;
    let first: Vec<_> = answers.iter().filter(|(_, replayed, _)| !replayed).collect();
    assert_eq!(first.len(), 1, "{answers:?}");
    assert!(answers.iter().all(|(status, _, body)| *status == 200 && body["onHand"] == 99), "{answers:?}");
    assert_eq!(world.stock("mug").await, (99, 0, 0));
}

#[tokio::test]
async fn an_adjustment_without_a_key_is_refused_and_so_is_one_of_what_is_not_there() {
    let world = World::quiet().await;
    world.put("mug", 10).await;
    let path = "/api/inventory/mug/stock";
    let (status, _, problem) = change(&world, "PUT", path, None, &json!({ "adjust": -3 })).await;
    assert_eq!((status, &problem["errors"][0]["header"]), (400, &json!("Idempotency-Key")), "{problem}");
    let (status, _, problem) =
        change(&world, "PUT", "/api/inventory/hat/stock", Some("k"), &json!({ "adjust": 3 })).await;
    assert_eq!((status, &problem["type"]), (404, &json!("/problems/unknown-product")));
    assert_eq!(world.stock("mug").await, (10, 0, 0));
    assert_eq!(world.count("SELECT count(*) FROM stock").await, 1);
}

#[tokio::test]
async fn a_refused_change_leaves_its_key_free_and_says_what_would_fit() {
    let world = World::new().await;
    world.put("mug", 5).await;
    world.ask(&reserve(&[("mug", 3)])).await;
    let (status, _, problem) = adjust(&world, "k", -3).await;
    assert_eq!((status, &problem["type"]), (409, &json!("/problems/below-reserved")));
    assert_eq!(problem["errors"][0], json!({ "pointer": "/adjust", "detail": "must be at least -2" }));
    let (status, replayed, _) = adjust(&world, "k", -2).await;
    assert_eq!((status, replayed), (200, false));
    let (status, _, problem) = add(&world, None, "mug", 1_000_000_000_000).await;
    assert_eq!((status, &problem["type"]), (409, &json!("/problems/stock-too-large")));
    assert_eq!(problem["errors"][0]["pointer"], "/quantity", "{problem}");
    assert_eq!(problem["remaining"], 999_999_999_997_i64, "{problem}");
    assert_eq!(world.stock("mug").await, (3, 3, 0));
    world.assert_books_balance().await;
}

#[tokio::test]
async fn what_is_added_begins_a_product_or_increases_it_and_a_key_works_but_is_not_needed() {
    let world = World::quiet().await;
    let (status, _, first) = add(&world, Some("k"), "mug", 20).await;
    assert_eq!((status, &first["onHand"]), (201, &json!(20)));
    assert_eq!(add(&world, Some("k"), "mug", 20).await, (201, true, first));
    for on_hand in [25, 30] {
        let (status, _, added) = add(&world, None, "mug", 5).await;
        assert_eq!((status, &added["onHand"]), (200, &json!(on_hand)));
    }
    world.assert_books_balance().await;
}

#[tokio::test]
async fn the_ledger_says_what_moved_by_whom_and_why_the_newest_first_page_by_page() {
    let world = World::new().await;
    let set = json!({ "onHand": 10, "reason": "counted" });
    assert_eq!(change(&world, "PUT", "/api/inventory/mug/stock", None, &set).await.0, 200);
    adjust(&world, "k", -1).await;
    let order = reserve(&[("mug", 2)]);
    world.ask(&order).await;
    world.ask(&take(&order)).await;
    world.put("hat", 1).await;

    let (mut met, mut query) = (Vec::new(), "?limit=2".to_owned());
    loop {
        let (status, page) = movements(&world, &query).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        met.extend(page["items"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        query = format!("?limit=2&after={next}");
    }
    let kinds: Vec<(&str, i64)> =
        met.iter().map(|m| (m["kind"].as_str().unwrap(), m["quantity"].as_i64().unwrap())).collect();
    assert_eq!(kinds, [("taken", 2), ("reserved", 2), ("adjusted", -1), ("adjusted", 10)]);
    assert_eq!(met[1]["commandId"], order.command_id.to_string());
    assert_eq!((&met[1]["by"], &met[1]["reason"]), (&Value::Null, &Value::Null));
    assert_eq!((&met[3]["by"], &met[3]["reason"]), (&json!("olga é"), &json!("counted")));
    assert!(met[3]["at"].as_str().unwrap().ends_with('Z') && met[3]["id"].is_string());

    let (status, problem) = movements(&world, "?after=x").await;
    assert_eq!((status, &problem["errors"][0]["parameter"]), (StatusCode::BAD_REQUEST, &json!("after")));
    let (status, _, _) = world.http("GET", "/api/inventory/cup/movements", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn products_of_which_few_are_available_are_listed_whatever_is_on_hand() {
    let world = World::new().await;
    for (product, on_hand) in [("a", 3), ("b", 50), ("c", 12), ("d", 0)] {
        world.put(product, on_hand).await;
    }
    world.ask(&reserve(&[("c", 5)])).await;
    let below = async |query: &str| {
        let (status, _, page) = world.http("GET", &format!("/api/inventory?{query}"), "").await;
        assert_eq!(status, StatusCode::OK, "{page}");
        let ids =
            page["items"].as_array().unwrap().iter().map(|p| p["productId"].as_str().unwrap().to_owned());
        (ids.collect::<Vec<_>>(), page["next"].clone())
    };
    assert_eq!(below("below=10").await, (vec!["a".into(), "c".into(), "d".into()], Value::Null));
    assert_eq!(below("below=10&limit=2").await, (vec!["a".into(), "c".into()], json!("c")));
    assert_eq!(below("below=10&limit=2&after=c").await, (vec!["d".into()], Value::Null));
    for query in ["below=-1", "below=0", "below=x", "below=1&below=2"] {
        let (status, ..) = world.http("GET", &format!("/api/inventory?{query}"), "").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
    }
}

#[tokio::test]
async fn a_change_that_cannot_be_is_refused_with_its_place_and_leaves_no_row() {
    let world = World::quiet().await;
    for (method, path, body, pointer) in [
        ("PUT", "/api/inventory/mug/stock", json!({ "onHand": 1, "adjust": 1 }), "/adjust"),
        ("PUT", "/api/inventory/mug/stock", json!({ "adjust": 0 }), "/adjust"),
        ("PUT", "/api/inventory/mug/stock", json!({ "adjust": 1.5 }), "/adjust"),
        ("PUT", "/api/inventory/mug/stock", json!({ "adjust": -1_000_000_000_001_i64 }), "/adjust"),
        ("PUT", "/api/inventory/mug/stock", json!({ "onHand": 1, "reason": " " }), "/reason"),
        ("PUT", "/api/inventory/mug/stock", json!({ "onHand": 1, "by": "me" }), "/by"),
        ("POST", "/api/inventory", json!({ "quantity": 1 }), "/productId"),
        ("POST", "/api/inventory", json!({ "productId": "a/b", "quantity": 1 }), "/productId"),
        ("POST", "/api/inventory", json!({ "productId": "mug" }), "/quantity"),
        ("POST", "/api/inventory", json!({ "productId": "mug", "quantity": 0 }), "/quantity"),
        ("POST", "/api/inventory", json!({ "productId": "mug", "quantity": 1, "onHand": 1 }), "/onHand"),
    ] {
        let (status, _, problem) = change(&world, method, path, Some("k"), &body).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (400, &json!(pointer)), "{body}: {problem}");
    }
    for table in ["SELECT count(*) FROM stock", "SELECT count(*) FROM stock_requests"] {
        assert_eq!(world.count(table).await, 0, "{table}");
    }
}

#[tokio::test]
async fn answers_are_forgotten_once_they_have_expired() {
    let world = World::quiet().await;
    world.put("mug", 10).await;
    adjust(&world, "old", -1).await;
    sqlx::query("UPDATE stock_requests SET expires_at = now() - interval '1 second'")
        .execute(&world.database.pool)
        .await
        .unwrap();
    // An expired key is as good as new, before and after it is deleted.
    assert_eq!(adjust(&world, "old", -2).await.2["onHand"], 7);
    sqlx::query("UPDATE stock_requests SET expires_at = now() - interval '1 second'")
        .execute(&world.database.pool)
        .await
        .unwrap();
    adjust(&world, "young", -1).await;
    let retention = std::time::Duration::from_secs(3600);
    assert_eq!(amends_inventory::expire_books(&world.pool.clone().into(), retention).await.unwrap(), 1);
    assert_eq!(world.count("SELECT count(*) FROM stock_requests").await, 1);
}
