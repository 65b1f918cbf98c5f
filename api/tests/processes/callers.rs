//! Who may do what: every route × every kind of caller.

use std::{collections::BTreeMap, net::SocketAddr};

use amends_api::auth::Role;
use amends_proof::deployment::free_address;
use amends_testkit::eventually;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    LONG, Stack,
    document::Documented,
    headers,
    issuer::{self, expired, token},
    shop::Shop,
};

/// The callers of the matrix, in the order of its columns.
const CALLERS: [&str; 8] =
    ["no token", "expired", "customer A", "customer B", "viewer", "storefront", "operator", "admin"];

/// What each caller gets on each route, for an order of customer A. The rows are compared with the api's own OpenAPI
/// document: a route without a row here, or a row without a route, fails the test. Bodies are the document's examples,
/// but an action on a saga is sent an empty object: 400 is the answer to who may act.
const MATRIX: [(&str, [u16; 8]); 66] = [
    ("POST /api/orders", [401, 401, 201, 201, 403, 201, 403, 403]),
    ("GET /api/orders", [401, 401, 200, 200, 200, 200, 200, 200]),
    ("GET /api/orders/{id}", [401, 401, 200, 404, 200, 200, 200, 200]),
    ("DELETE /api/orders/{id}", [401, 401, 202, 404, 403, 202, 202, 202]),
    ("POST /api/orders/{id}/cancel", [401, 401, 202, 404, 403, 202, 202, 202]),
    ("GET /api/orders/{id}/timeline", [401, 401, 200, 404, 200, 200, 200, 200]),
    ("GET /api/orders/{id}/explanation", [401, 401, 200, 404, 200, 200, 200, 200]),
    ("GET /api/orders/{id}/events", [401, 401, 200, 404, 200, 200, 200, 200]),
    ("GET /api/products", [401, 401, 200, 200, 200, 200, 200, 200]),
    ("GET /api/products/{productId}", [401, 401, 200, 200, 200, 200, 200, 200]),
    ("PUT /api/products/{productId}", [401, 401, 403, 403, 403, 403, 200, 200]),
    ("POST /api/orders/{id}/return", [401, 401, 409, 404, 403, 409, 403, 403]),
    ("PUT /api/orders/{id}/return/approve", [401, 401, 403, 403, 403, 403, 409, 409]),
    ("PUT /api/orders/{id}/return/reject", [401, 401, 403, 403, 403, 403, 409, 409]),
    // Without an idempotency key.
    ("POST /api/orders/{id}/refunds", [401, 401, 403, 403, 403, 403, 400, 400]),
    ("POST /api/orders/{id}/refunds/quote", [401, 401, 403, 403, 403, 409, 409, 409]),
    ("GET /api/inventory", [401, 401, 403, 403, 200, 403, 200, 200]),
    ("GET /api/inventory/{productId}", [401, 401, 403, 403, 200, 403, 200, 200]),
    ("PUT /api/inventory/{productId}/stock", [401, 401, 403, 403, 403, 403, 200, 200]),
    ("GET /api/customers/{customerId}/personal-data", [401, 401, 403, 403, 403, 403, 403, 200]),
    ("DELETE /api/customers/{customerId}/personal-data", [401, 401, 403, 403, 403, 403, 403, 409]),
    ("POST /api/inventory", [401, 401, 403, 403, 403, 403, 200, 200]),
    ("GET /api/inventory/{productId}/movements", [401, 401, 403, 403, 200, 403, 200, 200]),
    ("POST /api/webhooks", [401, 401, 403, 403, 403, 403, 201, 201]),
    ("GET /api/webhooks", [401, 401, 403, 403, 200, 403, 200, 200]),
    ("GET /api/webhooks/{id}", [401, 401, 403, 403, 200, 403, 200, 200]),
    ("PATCH /api/webhooks/{id}", [401, 401, 403, 403, 403, 403, 200, 200]),
    ("DELETE /api/webhooks/{id}", [401, 401, 403, 403, 403, 403, 204, 204]),
    ("POST /api/webhooks/{id}/rotate-secret", [401, 401, 403, 403, 403, 403, 200, 200]),
    ("GET /api/webhooks/{id}/deliveries", [401, 401, 403, 403, 200, 403, 200, 200]),
    ("POST /api/webhooks/{id}/deliveries/{deliveryId}/resend", [401, 401, 403, 403, 403, 403, 202, 202]),
    ("POST /api/webhooks/{id}/resend", [401, 401, 403, 403, 403, 403, 202, 202]),
    ("POST /api/webhooks/{id}/test", [401, 401, 403, 403, 403, 403, 202, 202]),
    ("GET /api/notifications", [401, 401, 200, 200, 200, 200, 200, 200]),
    ("GET /api/notifications/{id}", [401, 401, 200, 404, 200, 200, 200, 200]),
    ("GET /admin/circuit-breakers", [401, 401, 403, 403, 200, 403, 200, 200]),
    ("PUT /admin/circuit-breakers/{name}", [401, 401, 403, 403, 403, 403, 403, 200]),
    ("GET /admin/sagas", [401, 401, 403, 403, 200, 403, 200, 200]),
    ("GET /admin/sagas/{id}", [401, 401, 403, 403, 200, 403, 200, 200]),
    ("GET /admin/sagas/{id}/explanation", [401, 401, 403, 403, 200, 403, 200, 200]),
    ("GET /admin/failures", [401, 401, 403, 403, 200, 403, 200, 200]),
    ("GET /admin/participants", [401, 401, 403, 403, 200, 403, 200, 200]),
    ("GET /admin/definitions", [401, 401, 403, 403, 200, 403, 200, 200]),
    ("GET /admin/timers", [401, 401, 403, 403, 200, 403, 200, 200]),
    ("GET /admin/orphans", [401, 401, 403, 403, 200, 403, 200, 200]),
    // Of a saga, and with a hash, that do not exist.
    ("POST /admin/plans", [401, 401, 403, 403, 403, 403, 404, 404]),
    ("POST /admin/plans/{plan}", [401, 401, 403, 403, 403, 403, 404, 404]),
    ("POST /admin/sagas/{id}/retry", [401, 401, 403, 403, 403, 403, 400, 400]),
    ("POST /admin/sagas/{id}/resend", [401, 401, 403, 403, 403, 403, 400, 400]),
    ("POST /admin/sagas/{id}/cancel", [401, 401, 403, 403, 403, 403, 400, 400]),
    ("POST /admin/sagas/{id}/resolve", [401, 401, 403, 403, 403, 403, 400, 400]),
    ("POST /admin/sagas/{id}/signal", [401, 401, 403, 403, 403, 403, 400, 400]),
    ("GET /health/live", [200; 8]),
    ("GET /health/ready", [200; 8]),
    ("GET /metrics", [200; 8]),
    ("GET /openapi.json", [200; 8]),
    ("GET /docs", [200; 8]),
    ("GET /docs/{file}", [200; 8]),
    ("GET /problems", [200; 8]),
    ("GET /problems/{slug}", [200; 8]),
    ("GET /v3/api-docs", [308; 8]),
    ("GET /swagger-ui.html", [308; 8]),
    ("GET /docs/", [308; 8]),
    ("GET /actuator/health", [308; 8]),
    ("GET /actuator/circuitbreakers", [308; 8]),
    ("GET /actuator/metrics", [308; 8]),
];
/// Only `dev` publishes keys of its own.
const KEY_SET: (&str, [u16; 8]) = ("GET /.well-known/jwks.json", [404; 8]);

/// What a stack trace, a panic or an error of the database would say.
const LEAKS: [&str; 7] = ["panicked", "stack backtrace", "/src/", ".rs:", "sqlx", "postgres", "SQLSTATE"];

/// Returns the token of a caller of the matrix.
fn token_of(caller: &str) -> Option<String> {
    Some(match caller {
        "no token" => return None,
        "expired" => expired("c-a", &Role::ALL),
        "customer A" => token("c-a", &[Role::Customer]),
        "customer B" => token("c-b", &[Role::Customer]),
        "viewer" => token("vera", &[Role::Viewer]),
        "storefront" => token("shop", &[Role::Storefront]),
        "operator" => token("olga", &[Role::Operator]),
        "admin" => token("ada", &[Role::Admin]),
        other => panic!("{other}"),
    })
}

/// Returns the body that a caller sends, if the route takes one.
fn body_of(route: &Documented, caller: &str) -> Option<Value> {
    let mut body = route.body()?;
    if route.path.starts_with("/admin/sagas/") {
        body = json!({});
    }
    if route.id() == "placeOrder" && caller.starts_with("customer") {
        body.as_object_mut().unwrap().remove("customerId");
        body["lines"][0].as_object_mut().unwrap().remove("unitPrice");
    }
    Some(body)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_answers_every_caller_as_its_row_says() {
    let shop = Shop::open().await;
    let _inventory = shop.stack.start(&["worker", "inventory"]).await;
    let _notification = shop.stack.start(&["worker", "notification"]).await;
    shop.stack.stock("mug", 5).await;
    shop.stack.stock("mug-blue", 5).await;
    let operator = token("olga", &[Role::Operator]);
    for product in ["mug", "mug-blue"] {
        let mug = json!({ "name": "Blue mug", "unitPrice": 1250, "currency": "EUR" });
        let path = format!("/api/products/{product}");
        let priced = shop.ask(Method::PUT, &path, Some(&operator)).json(&mug).send().await.unwrap();
        assert_eq!(priced.status(), 201);
    }
    let mut rows: BTreeMap<_, _> = MATRIX.into_iter().chain([KEY_SET]).collect();
    for route in shop.operations().await {
        let name = route.name();
        let row = rows.remove(name.as_str()).unwrap_or_else(|| panic!("{name} has no row in the matrix"));
        for (caller, expected) in CALLERS.into_iter().zip(row) {
            let order = shop.place_for("c-a").await;
            // Its id is the order's.
            shop.notify(&order, &order).await;
            let (id, delivery) = match route.path.as_str() {
                path if path.starts_with("/admin") => (shop.saga_of(&order).await, String::new()),
                path if path.starts_with("/api/webhooks/") => shop.webhook().await,
                _ => (order, String::new()),
            };
            let path = route.filled(&[
                ("id", &id),
                ("productId", "mug"),
                ("customerId", "c-a"),
                ("deliveryId", &delivery),
            ]);
            let before = shop.rows().await;
            let mut request = shop.ask(route.method.clone(), &path, token_of(caller).as_deref());
            if let Some(body) = body_of(&route, caller) {
                request = request.json(&body);
            }
            let mut answer = request.send().await.unwrap();
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            // A stream has no end.
            let is_stream = headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
            let text = match is_stream {
                true => String::from_utf8(answer.chunk().await.unwrap().unwrap().to_vec()).unwrap(),
                false => answer.text().await.unwrap(),
            };
            assert_eq!(status, expected, "{name} by {caller}: {text}");
            assert_eq!(headers::faults(&path, &headers), Vec::<String>::new(), "{name} by {caller}");
            for leak in LEAKS {
                // Metrics have names of ours.
                let may_say =
                    ["readDocsFile", "readOpenApi"].contains(&route.id()) || route.path == "/metrics";
                assert!(may_say || !text.contains(leak), "{name} by {caller} says {leak}: {text}");
            }
            let challenge = headers.get("www-authenticate").map(|value| value.to_str().unwrap());
            match (status, caller) {
                (401, "no token") => assert_eq!(challenge, Some("Bearer realm=\"amends\"")),
                (401, _) => assert!(challenge.unwrap().contains("invalid_token"), "{challenge:?}"),
                (403, _) => assert!(challenge.unwrap().contains("insufficient_scope"), "{challenge:?}"),
                _ => assert_eq!(challenge, None),
            }
            if status >= 400 {
                assert_eq!(headers["content-type"], "application/problem+json", "{name} by {caller}");
                assert_eq!(shop.rows().await, before, "{name} by {caller} changed something");
            }
            let may_show = route.path.ends_with("/personal-data") && caller == "admin"
                || ["readOpenApi"].contains(&route.id());
            assert!(may_show || !text.contains("Long Street"), "{name} by {caller} shows an address");
        }
    }
    assert!(rows.is_empty(), "rows without a route: {rows:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_services_ask_of_the_api_is_no_callers_whatever_their_role() {
    // A path that is added has to be looked at here: it is in no document, and has none of the limits of the others.
    let paths: Vec<&str> = amends_api::routes::internal_paths().collect();
    assert_eq!(paths, ["/internal/orders/{id}/addressee"]);
    let shop = Shop::open().await;
    let order = shop.place_for("c-a").await;
    for (path, caller) in paths.iter().flat_map(|path| CALLERS.map(|caller| (path, caller))) {
        let path = path.replace("{id}", &order);
        for method in [Method::GET, Method::HEAD, Method::POST, Method::DELETE, Method::OPTIONS] {
            let answer = shop.ask(method.clone(), &path, token_of(caller).as_deref()).send().await.unwrap();
            let (status, headers) = (answer.status(), answer.headers().clone());
            let text = answer.text().await.unwrap();
            assert_eq!(status, 401, "{method} {path} by {caller}: {text}");
            assert_eq!(headers::faults(&path, &headers), Vec::<String>::new(), "{method} {path} by {caller}");
            assert!(method == Method::HEAD || text.contains("/problems/service-token"), "{text}");
            assert!(LEAKS.iter().chain(&["Long Street"]).all(|leak| !text.contains(leak)), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_is_told_nothing_even_if_it_asks_first() {
    let shop = Shop::open().await;
    let token = token("ada", &Role::ALL);
    for route in shop.operations().await {
        let path = route.filled(&[]);
        let asks = [
            shop.ask(Method::OPTIONS, &path, None)
                .header("access-control-request-method", route.method.as_str()),
            shop.ask(route.method.clone(), &path, Some(&token)),
        ];
        for ask in asks {
            let answer = ask.header("origin", "https://evil.example").send().await.unwrap();
            assert_eq!(answer.status(), 403, "{}", route.name());
            assert_eq!(headers::faults(&path, answer.headers()), Vec::<String>::new(), "{}", route.name());
            let problem: Value = answer.json().await.unwrap();
            assert_eq!(problem["type"], "/problems/foreign-origin", "{}", route.name());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_below_api_and_admin_tell_nothing_to_who_may_not_enter() {
    let shop = Shop::open().await;
    let order = shop.place_for("c-a").await;
    let paths = [
        "/admin",
        "/admin/",
        "/admin/nothing",
        "/admin/sagas",
        "/admin/sagas/7",
        "/api",
        "/api/nothing",
        "/api/orders/7",
        &format!("/api/orders/{order}"),
    ];
    for path in paths {
        for method in [Method::GET, Method::HEAD, Method::POST, Method::PATCH, Method::OPTIONS] {
            let unknown = shop.ask(method.clone(), path, None).send().await.unwrap();
            assert_eq!(unknown.status(), 401, "{method} {path}");
            let nobody = token("nobody", &[]);
            let roleless = shop.ask(method.clone(), path, Some(&nobody)).send().await.unwrap();
            assert_eq!(roleless.status(), 403, "{method} {path}");
            if path.starts_with("/admin") {
                for role in [Role::Customer, Role::Storefront] {
                    let token = token("c-a", &[role]);
                    let answer = shop.ask(method.clone(), path, Some(&token)).send().await.unwrap();
                    assert_eq!(answer.status(), 403, "{method} {path} by {role:?}");
                }
            }
        }
    }
    let viewer = token("vera", &[Role::Viewer]);
    assert_eq!(shop.get("/admin/nothing", &viewer).await.0, 404);
    let wrong = shop.ask(Method::PATCH, "/admin/sagas", Some(&viewer)).send().await.unwrap();
    assert_eq!((wrong.status().as_u16(), wrong.headers()["allow"].to_str().unwrap()), (405, "GET,HEAD"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_starts_while_its_issuer_is_down_and_serves_once_the_issuer_is_back() {
    let issuer = free_address().unwrap();
    let shop = Shop::open_for(issuer).await;
    let viewer = token("vera", &[Role::Viewer]);
    let (status, problem) = shop.get("/admin/sagas", &viewer).await;
    assert_eq!((status, &problem["type"]), (503, &json!("/problems/unavailable")));
    assert_eq!(shop.ask(Method::GET, "/admin/sagas", None).send().await.unwrap().status(), 401);
    issuer::serve_at(issuer).await;
    eventually("the token is accepted", LONG, || async {
        (shop.get("/admin/sagas", &viewer).await.0 == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_and_nothing_of_it_is_ever_logged_or_answered() {
    let issuer = issuer::serve_at(SocketAddr::from(([127, 0, 0, 1], 0))).await;
    let mut stack = Stack::embedded().await;
    for (key, value) in issuer::settings(issuer) {
        stack.set(key, &value);
    }
    stack.set("AMENDS_LOG", "debug,hyper=trace,h2=trace");
    let log = tempfile::NamedTempFile::new().unwrap();
    let api = stack.start_with_log(&["api"], log.as_file()).await;
    let http = reqwest::Client::new();
    let url = |path: &str| format!("http://{}{path}", api.address);
    let good = token("zebra-subject", &[Role::Viewer]);
    let bad = [expired("zebra-subject", &[Role::Viewer]), format!("{good}x"), good.replace('.', "!")];
    for (token, status) in bad.iter().map(|bad| (bad, 401)).chain([(&good, 200)]) {
        let answer = http.get(url("/admin/sagas")).bearer_auth(token).send().await.unwrap();
        assert_eq!(answer.status(), status);
        let text = format!("{:?} {}", answer.headers().clone(), answer.text().await.unwrap());
        assert!(token.split(['.', '!']).all(|part| !text.contains(part)), "{text}");
    }
    let metrics = http.get(url("/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("amends_auth_requests_total{outcome=\"expired\"} 1"), "{metrics}");
    api.stop().await;
    let said = std::fs::read_to_string(log.path()).unwrap();
    assert!(said.contains("tokens are refused"), "{said}");
    for secret in bad.iter().chain([&good]).flat_map(|token| token.split(['.', '!'])) {
        assert!(!said.contains(secret), "{secret}");
    }
    assert!(!said.contains("zebra-subject"), "a subject is a person");
}
