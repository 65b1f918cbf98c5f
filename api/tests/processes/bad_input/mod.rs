//! Bad input on every route. The cases are made from the api's own OpenAPI document: a new route, parameter or field has
//! them without a line here. Each is refused with a documented problem that names its place, and changes nothing.
//!
//! Two answers are not here, because no whole request has them: too slow (408, in the tests of `amends-http`) and one too
//! many (429, `crate::limits`). Here a role that only reads is refused on every route that writes; which other role is
//! refused where is the matrix of `crate::callers`.

mod bodies;
mod cases;

use std::net::SocketAddr;

use amends_api::auth::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    Stack,
    document::Documented,
    headers,
    issuer::{self, token},
    shop::Shop,
};
use cases::{Case, Target};

/// Sends a case, and checks its answer. Returns what is wrong with it.
async fn fault_of(route: &Documented, case: Case) -> Option<String> {
    let Case { what, request, status, slug, place } = case;
    let answer = request.send().await.unwrap();
    let (answered, of_answer) = (answer.status().as_u16(), answer.headers().clone());
    let text = answer.text().await.unwrap();
    let problem: Value = serde_json::from_str(&text).unwrap_or_default();
    let uri = json!(format!("/problems/{slug}"));
    let mut faults = headers::faults(&route.path, &of_answer);
    let mut expect = |holds: bool, fault: &str| {
        if !holds {
            faults.push(fault.to_owned());
        }
    };
    expect(answered == status && problem["type"] == uri, &format!("it should be {status} {slug}"));
    expect(
        of_answer.get("content-type").is_some_and(|kind| kind == "application/problem+json"),
        "no problem",
    );
    expect(problem["status"] == answered, "the status in the body is another");
    expect(
        problem["requestId"].as_str() == of_answer.get("x-request-id").and_then(|id| id.to_str().ok()),
        "the request's id is another",
    );
    expect(
        of_answer.contains_key("www-authenticate") == (answered == 401 || slug == "forbidden"),
        "WWW-Authenticate",
    );
    expect(route.refuses_with(answered, &problem["type"]), "the document does not say so");
    if let Some((member, place)) = place {
        expect(problem["errors"][0][member] == json!(place), &format!("the place should be {place}"));
    }
    for leak in ["evil", "postgres", "sqlx", "panicked", "/src/", "Long Street"] {
        expect(!text.contains(leak), &format!("it says {leak}"));
    }
    (!faults.is_empty())
        .then(|| format!("{} with {what}: {answered} {text}\n    {}", route.name(), faults.join("; ")))
}

/// Returns what a request could change: rows of tables, with revisions where they have some, and what operators hold.
async fn state(shop: &Shop) -> Vec<(&'static str, Value)> {
    let mut state = Vec::new();
    for (database, sql) in [
        ("engine", "SELECT count(*) FROM orders"),
        ("engine", "SELECT count(*) FROM sagas"),
        ("engine", "SELECT sum(revision)::bigint FROM sagas"),
        ("engine", "SELECT count(*) FROM timeline"),
        ("engine", "SELECT count(*) FROM idempotency_keys"),
        ("engine", "SELECT count(*) FROM idempotent_answers"),
        ("engine", "SELECT count(*) FROM products"),
        ("engine", "SELECT sum(revision)::bigint FROM products"),
        ("engine", "SELECT count(*) FROM plans"),
        ("engine", "SELECT count(*) FROM personal"),
        ("engine", "SELECT count(*) FROM personal_data_erasures"),
        ("engine", "SELECT sum(revision)::bigint FROM webhooks"),
        ("engine", "SELECT count(*) FROM webhook_deliveries WHERE due_at IS NULL"),
        ("inventory", "SELECT sum(on_hand)::bigint FROM stock"),
        ("notification", "SELECT count(*) FROM notifications"),
        ("inventory", "SELECT count(*) FROM moves WHERE kind = 'adjusted'"),
    ] {
        let rows: i64 = sqlx::query_scalar(sql).fetch_one(shop.stack.pool(database)).await.unwrap();
        state.push((sql, json!(rows)));
    }
    let (status, breakers) = shop.get("/admin/circuit-breakers", &token("dora", &Role::ALL)).await;
    assert_eq!(status, 200, "{breakers}");
    let modes = breakers["items"].as_array().unwrap().iter().map(|breaker| breaker["mode"].clone());
    state.push(("the breakers' modes", modes.collect()));
    state
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_on_every_route_is_refused_with_its_place_and_changes_nothing() {
    let shop = Shop::open().await;
    let _inventory = shop.stack.start(&["worker", "inventory"]).await;
    let _notification = shop.stack.start(&["worker", "notification"]).await;
    shop.stack.stock("mug", 5).await;
    let order = shop.place_for("c-a").await;
    shop.notify(&order, &order).await;
    let saga = shop.saga_of(&order).await;
    let (webhook, delivery) = shop.webhook().await;
    let priced = json!({ "name": "Mug", "unitPrice": 1250, "currency": "EUR" });
    let priced = shop.ask(Method::PUT, "/api/products/mug", Some(&token("dora", &Role::ALL))).json(&priced);
    assert_eq!(priced.send().await.unwrap().status(), 201);
    let before = state(&shop).await;
    let (mut faults, mut sent) = (Vec::new(), 0);
    for route in shop.operations().await {
        let id = match route.path.as_str() {
            path if path.starts_with("/admin/") => &saga,
            path if path.starts_with("/api/webhooks/") => &webhook,
            _ => &order,
        };
        let path = route.filled(&[("id", id), ("productId", "mug"), ("deliveryId", &delivery)]);
        let target = Target { shop: &shop, route: &route, path, token: token("dora", &Role::ALL) };
        for case in target.cases() {
            faults.extend(fault_of(&route, case).await);
            sent += 1;
        }
    }
    assert!(faults.is_empty(), "{} of {sent}:\n{}", faults.len(), faults.join("\n"));
    assert!(sent > 500, "{sent} cases");
    for (after, before) in state(&shop).await.iter().zip(&before) {
        assert_eq!(after, before, "nothing changed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_a_path_does_not_have_is_refused_with_those_that_it_has() {
    let shop = Shop::open().await;
    let order = shop.place_for("c-a").await;
    let caller = token("dora", &Role::ALL);
    let operations = shop.operations().await;
    for route in &operations {
        let mut allowed: Vec<&str> = operations
            .iter()
            .filter(|other| other.path == route.path)
            .map(|other| other.method.as_str())
            .collect();
        if allowed.contains(&"GET") {
            allowed.push("HEAD");
        }
        allowed.sort_unstable();
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "EVIL"] {
            if allowed.contains(&method) {
                continue;
            }
            let path = route.filled(&[("id", &order)]);
            let request = shop.ask(method.parse().unwrap(), &path, Some(&caller));
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 405, "{method} {path}");
            assert_eq!(headers::faults(&path, answer.headers()), Vec::<String>::new(), "{method} {path}");
            let mut said: Vec<String> =
                answer.headers()["allow"].to_str().unwrap().split(',').map(|m| m.trim().to_owned()).collect();
            said.sort_unstable();
            assert_eq!(said, allowed, "{method} {path}");
            let problem: Value = answer.json().await.unwrap();
            assert_eq!(problem["type"], "/problems/method-not-allowed", "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_answers_as_get_on_every_route_and_no_answer_says_what_serves_it() {
    let shop = Shop::open().await;
    let _inventory = shop.stack.start(&["worker", "inventory"]).await;
    let _notification = shop.stack.start(&["worker", "notification"]).await;
    shop.stack.stock("mug", 5).await;
    let order = shop.place_for("c-a").await;
    shop.notify(&order, &order).await;
    let saga = shop.saga_of(&order).await;
    let (webhook, _) = shop.webhook().await;
    let caller = token("dora", &Role::ALL);
    for route in shop.operations().await.iter().filter(|route| route.method == Method::GET) {
        let id = match route.path.as_str() {
            path if path.starts_with("/admin/") => &saga,
            path if path.starts_with("/api/webhooks/") => &webhook,
            _ => &order,
        };
        let path = route.filled(&[("id", id), ("productId", "mug")]);
        let get = shop.ask(Method::GET, &path, Some(&caller)).send().await.unwrap();
        let head = shop.ask(Method::HEAD, &path, Some(&caller)).send().await.unwrap();
        assert_eq!(head.status(), get.status(), "{path}");
        for name in ["content-type", "location", "etag", "content-security-policy"] {
            assert_eq!(head.headers().get(name), get.headers().get(name), "{name} of {path}");
        }
        // Metrics change from one request to the next, a stream has no length, and a problem contains the request's id.
        let is_fixed = get.status() == 200 && path != "/metrics";
        if is_fixed && get.headers().contains_key("content-length") {
            assert_eq!(head.headers()["content-length"], get.headers()["content-length"], "{path}");
            assert_ne!(head.headers()["content-length"], "0", "{path}");
        }
        for answer in [get, head] {
            assert_eq!(headers::faults(&path, answer.headers()), Vec::<String>::new(), "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requests_id_is_taken_or_made_and_stands_in_the_answer_the_problem_and_the_log() {
    let issuer = issuer::serve_at(SocketAddr::from(([127, 0, 0, 1], 0))).await;
    let mut stack = Stack::embedded().await;
    for (key, value) in issuer::settings(issuer) {
        stack.set(key, &value);
    }
    stack.set("AMENDS_LOG_FORMAT", "json");
    let log = tempfile::NamedTempFile::new().unwrap();
    let api = stack.start_with_log(&["api"], log.as_file()).await;
    let http = reqwest::Client::new();
    for (sent, is_taken) in [("shop-42/a", true), ("two words", false), ("", false)] {
        let request = http.get(format!("http://{}/admin/sagas", api.address)).bearer_auth("no token");
        let answer = request.header("x-request-id", sent).send().await.unwrap();
        assert_eq!(answer.status(), 401);
        let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
        assert_eq!((id == sent, id.is_empty()), (is_taken, false), "{id}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["requestId"], id);
    }
    api.stop().await;
    let said = std::fs::read_to_string(log.path()).unwrap();
    let refused = said.lines().find(|line| line.contains("tokens are refused")).expect("it is logged once");
    let refused: Value = serde_json::from_str(refused).unwrap();
    assert_eq!(refused["span"], json!({ "name": "request", "id": "shop-42/a" }), "{refused}");
}
