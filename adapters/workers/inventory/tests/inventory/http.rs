//! `/api/inventory`: shapes and refusals.

use axum::{
    body::{Body, to_bytes},
    http::StatusCode,
};
use futures::future::join_all;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::world::{World, request, reserve};

const PROBLEM: &str = "application/problem+json";

/// Asserts a refusal: problem details with this status and type, and only the fields of the media type.
async fn refused(world: &World, method: &str, path: &str, body: impl Into<Body>) -> (u16, String, Value) {
    let (status, content_type, problem) = world.http(method, path, body).await;
    assert_eq!(content_type, PROBLEM, "{method} {path}: {problem}");
    assert_eq!(problem["status"], status.as_u16(), "{problem}");
    assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
    let kind = problem["type"].as_str().expect("a stable type").to_owned();
    (status.as_u16(), kind, problem)
}

#[tokio::test]
async fn stock_that_is_put_in_is_shown_as_what_there_is() {
    let world = World::new().await;
    let shown = |on_hand: i64, reserved: i64| {
        let available = on_hand - reserved;
        json!({ "productId": "mug-blue", "onHand": on_hand, "reserved": reserved, "available": available })
    };
    let path = "/api/inventory/mug-blue/stock";
    for on_hand in [100, 100, 40] {
        let put = world.http("PUT", path, json!({ "onHand": on_hand }).to_string()).await;
        assert_eq!(put, (StatusCode::OK, "application/json".to_owned(), shown(on_hand, 0)));
    }
    world.ask(&reserve(&[("mug-blue", 3)])).await;
    let got = world.http("GET", "/api/inventory/mug-blue", "").await;
    assert_eq!(got, (StatusCode::OK, "application/json".to_owned(), shown(40, 3)));
    let (_, _, put) = world.http("PUT", path, r#"{"onHand":3}"#).await;
    assert_eq!(put, shown(3, 3), "as little as is reserved");
    assert_eq!(world.count("SELECT count(*) FROM moves WHERE kind = 'adjusted'").await, 3);
    world.assert_books_balance().await;
}

#[tokio::test]
async fn less_than_is_reserved_is_a_conflict_and_changes_nothing() {
    let world = World::new().await;
    world.put("mug", 5).await;
    world.ask(&reserve(&[("mug", 3)])).await;
    let (status, kind, _) = refused(&world, "PUT", "/api/inventory/mug/stock", r#"{"onHand":2}"#).await;
    assert_eq!((status, kind.as_str()), (409, "/problems/below-reserved"));
    assert_eq!(world.stock("mug").await, (5, 3, 0));
    world.assert_books_balance().await;
}

#[tokio::test]
async fn a_product_that_somebody_holds_is_a_503_that_says_so_and_so_is_a_crowd() {
    let world = World::quiet().await;
    world.put("mug", 5).await;
    let app = world.app();
    let mut holds = world.database.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM stock WHERE product_id = 'mug' FOR UPDATE").execute(&mut *holds).await.unwrap();
    let put = || async {
        let request = request("PUT", "/api/inventory/mug/stock").header("content-type", "application/json");
        let response =
            app.clone().oneshot(request.body(Body::from(r#"{"onHand":7}"#)).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let retry_after = response.headers().contains_key("retry-after");
        let problem: Value =
            serde_json::from_slice(&to_bytes(response.into_body(), 1 << 20).await.unwrap()).unwrap();
        (status, retry_after, problem["type"].as_str().unwrap().to_owned())
    };
    // Each waits for the row for a second; two are served at a time.
    let refused = join_all((0..10).map(|_| put())).await;
    let of_type = |kind: &str| refused.iter().filter(|(.., of)| of == kind).count();
    assert!(refused.iter().all(|(status, retry_after, _)| *status == 503 && *retry_after), "{refused:?}");
    assert!(of_type("/problems/busy") >= 4 && of_type("/problems/unavailable") >= 2, "{refused:?}");
    holds.rollback().await.unwrap();
    world.put("mug", 7).await;
    assert_eq!(world.stock("mug").await, (7, 0, 0));
}

#[tokio::test]
async fn products_are_listed_page_by_page() {
    let world = World::quiet().await;
    for product in ["b", "a", "C"] {
        world.put(product, 1).await;
    }
    let ids = |page: &Value| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|p| p["productId"].as_str().unwrap().into()).collect()
    };
    let (_, _, first) = world.http("GET", "/api/inventory?limit=2", "").await;
    assert_eq!((ids(&first), &first["next"]), (vec!["C".to_owned(), "a".to_owned()], &json!("a")));
    let (_, _, second) = world.http("GET", "/api/inventory?limit=2&after=a", "").await;
    assert_eq!((ids(&second), &second["next"]), (vec!["b".to_owned()], &Value::Null));
    for query in ["limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "after=%00", "page=2"] {
        let (status, kind, problem) = refused(&world, "GET", &format!("/api/inventory?{query}"), "").await;
        assert_eq!((status, kind.as_str()), (400, "/problems/invalid-request"), "{query}");
        assert!(problem["errors"][0]["parameter"].is_string(), "{problem}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let world = World::quiet().await;
    for (path, expected) in [
        ("/api/inventory/unheard-of", "/problems/unknown-product"),
        ("/api/inventory/mug/stocks", "/problems/not-found"),
        ("/", "/problems/not-found"),
    ] {
        let (status, kind, _) = refused(&world, "GET", path, "").await;
        assert_eq!((status, kind.as_str()), (404, expected), "{path}");
    }
}

#[tokio::test]
async fn bad_input_is_refused_with_its_place_and_leaves_no_row() {
    let world = World::quiet().await;
    let put = "/api/inventory/mug/stock";
    for (body, pointer) in [
        (r#"{}"#, "/onHand"),
        (r#"{"onHand":-1}"#, "/onHand"),
        (r#"{"onHand":1.5}"#, "/onHand"),
        (r#"{"onHand":"1"}"#, "/onHand"),
        (r#"{"onHand":null}"#, "/onHand"),
        (r#"{"onHand":1000000000001}"#, "/onHand"),
        (r#"{"onHand":18446744073709551616}"#, "/onHand"),
        (r#"{"onHand":1,"reserved":0}"#, "/reserved"),
        (r#"{"a/b~c":1,"onHand":1}"#, "/a~1b~0c"),
        (r#"{"onHand":5,"onHand":6}"#, "/onHand"),
        (r#"[1]"#, ""),
        ("1", ""),
    ] {
        let (status, kind, problem) = refused(&world, "PUT", put, body).await;
        assert_eq!((status, kind.as_str()), (400, "/problems/invalid-request"), "{body}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}");
    }
    for path in
        ["/api/inventory/mug%20blue/stock", "/api/inventory/m%C3%BCg/stock", "/api/inventory/a%2Fb/stock"]
    {
        let (status, _, problem) = refused(&world, "PUT", path, r#"{"onHand":1}"#).await;
        assert_eq!((status, &problem["errors"][0]["parameter"]), (400, &json!("productId")), "{path}");
    }
    let too_long = format!("/api/inventory/{}", "a".repeat(65));
    assert_eq!(refused(&world, "GET", &too_long, "").await.0, 400);
    assert_eq!(world.count("SELECT count(*) FROM stock").await, 0);
    assert_eq!(world.count("SELECT count(*) FROM moves").await, 0);
}

#[tokio::test]
async fn a_body_that_is_missing_or_cannot_be_read_is_a_bad_request() {
    let world = World::quiet().await;
    let deep = format!("{}1{}", r#"{"onHand":["#, "[".repeat(40));
    for body in ["", " ", "{", r#"{"onHand":1} x"#, "onHand=1", r#"{"on\u0000Hand":1}"#, &deep] {
        let (status, kind, _) = refused(&world, "PUT", "/api/inventory/mug/stock", body.to_owned()).await;
        assert_eq!((status, kind.as_str()), (400, "/problems/unreadable-body"), "{body}");
    }
    let not_utf8 = refused(&world, "PUT", "/api/inventory/mug/stock", vec![0xff, 0xfe]).await;
    assert_eq!(not_utf8.0, 400);
    assert_eq!(world.count("SELECT count(*) FROM stock").await, 0);
}

#[tokio::test]
async fn a_body_of_64_kib_is_read_and_a_longer_one_is_not() {
    let world = World::quiet().await;
    let padded = |length: usize| format!(r#"{{"onHand":1{}}}"#, " ".repeat(length - r#"{"onHand":1}"#.len()));
    let path = "/api/inventory/mug/stock";
    assert_eq!(world.http("PUT", path, padded(64 << 10)).await.0, StatusCode::OK);
    let (status, kind, _) = refused(&world, "PUT", path, padded((64 << 10) + 1)).await;
    assert_eq!((status, kind.as_str()), (413, "/problems/body-too-large"));
}

#[tokio::test]
async fn another_method_is_not_allowed_and_those_that_are_stand_in_the_header() {
    let world = World::quiet().await;
    world.put("mug", 5).await;
    for (method, path, allowed) in [
        ("DELETE", "/api/inventory", "GET"),
        ("PUT", "/api/inventory", "POST"),
        ("POST", "/api/inventory/mug/movements", "GET"),
        ("DELETE", "/api/inventory/mug", "GET"),
        ("GET", "/api/inventory/mug/stock", "PUT"),
        ("POST", "/api/inventory/mug/stock", "PUT"),
    ] {
        let request = request(method, path).body(Body::from(r#"{"onHand":1}"#)).unwrap();
        let response = world.app().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        assert_eq!(response.headers()["content-type"], PROBLEM);
        let allow = response.headers().get("allow").map(|allow| allow.to_str().unwrap().to_owned());
        assert!(allow.as_ref().is_some_and(|a| a.contains(allowed)), "{method} {path}: Allow is {allow:?}");
    }
    assert_eq!(world.stock("mug").await, (5, 0, 0));
}

#[tokio::test]
async fn without_its_database_it_says_that_it_is_unavailable() {
    let world = World::quiet().await;
    world.pool.close().await;
    let request = request("GET", "/api/inventory/mug").body(Body::empty()).unwrap();
    let response = world.app().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["content-type"], PROBLEM);
    assert_eq!(response.headers()["retry-after"], "1");
}

#[tokio::test]
async fn a_body_that_is_not_sent_as_json_is_refused_and_changes_nothing() {
    let world = World::quiet().await;
    for kind in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        let mut put = request("PUT", "/api/inventory/mug/stock");
        if let Some(kind) = kind {
            put = put.header("content-type", kind);
        }
        let response = world.app().oneshot(put.body(Body::from(r#"{"onHand":5}"#)).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind:?}");
    }
    assert_eq!(world.count("SELECT count(*) FROM stock").await, 0);
}

#[tokio::test]
async fn head_answers_as_get_does_without_the_body() {
    let world = World::quiet().await;
    world.put("mug", 5).await;
    for path in ["/api/inventory/mug", "/api/inventory"] {
        let mut lengths = Vec::new();
        for method in ["GET", "HEAD"] {
            let request = request(method, path).body(Body::empty()).unwrap();
            let response = world.app().oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{method} {path}");
            lengths.push(response.headers()["content-length"].clone());
        }
        assert_eq!(lengths[0], lengths[1], "{path}");
        assert_ne!(lengths[0], "0", "{path}");
    }
}
