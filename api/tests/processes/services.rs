//! The services behind the api: stock with the caller's role, the token between services, and circuit breakers.

use amends_api::auth::Role;
use amends_testkit::eventually;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::support::{
    LONG, Process, SERVICE_TOKEN, Stack,
    issuer::token,
    shop::{Shop, read},
};

const STOCK: &str = "/api/inventory/mug/stock";

impl Shop {
    async fn inventory(&self) -> Process {
        self.stack.start(&["worker", "inventory"]).await
    }

    fn by(&self, subject: &str, role: Role, method: Method, path: &str) -> RequestBuilder {
        self.ask(method, path, Some(&token(subject, &[role])))
    }

    fn by_operator(&self, method: Method, path: &str) -> RequestBuilder {
        self.by("olga", Role::Operator, method, path)
    }

    async fn breaker(&self) -> Value {
        let (status, shown) = self.get("/admin/circuit-breakers", &token("vera", &[Role::Viewer])).await;
        assert_eq!((status, &shown["items"][0]["name"]), (200, &json!("inventory")), "{shown}");
        assert_eq!(shown["items"][1]["name"], "notification", "each service has its own");
        shown["items"][0].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inventory_worker_serves_the_api_alone_and_its_health_everyone() {
    let shop = Shop::open().await;
    let worker = shop.inventory().await;
    let direct = |method: Method, path: &str| {
        reqwest::Client::new().request(method, format!("http://{}{path}", worker.address))
    };
    for wrong in [None, Some("service-token-of-a-tes"), Some(token("ada", &[Role::Admin]).as_str())] {
        for (method, path) in [
            (Method::GET, "/api/inventory"),
            (Method::GET, "/api/inventory/mug"),
            (Method::GET, "/api/inventory/mug/movements"),
            (Method::PUT, STOCK),
            (Method::POST, "/api/inventory"),
        ] {
            let request = direct(method.clone(), path).json(&json!({ "onHand": 5 }));
            let request = match wrong {
                Some(token) => request.bearer_auth(token),
                None => request,
            };
            let answer = request.send().await.unwrap();
            assert!(answer.headers().contains_key("www-authenticate"), "{method} {path}");
            let (status, problem) = read(answer).await;
            assert_eq!((status, &problem["type"]), (401, &json!("/problems/service-token")), "{problem}");
        }
    }
    for path in ["/health/live", "/health/ready", "/metrics"] {
        assert_eq!(direct(Method::GET, path).send().await.unwrap().status(), 200, "{path}");
    }
    let put = shop.by_operator(Method::PUT, STOCK).json(&json!({ "onHand": 5 })).send().await.unwrap();
    assert_eq!(put.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_with_another_service_token_is_refused_and_its_callers_do_not_see_why() {
    let mut shop = Shop::open().await;
    shop.stack.set(SERVICE_TOKEN, "service-token-of-another");
    let _worker = shop.inventory().await;
    let (status, problem) =
        read(shop.by_operator(Method::GET, "/api/inventory/mug").send().await.unwrap()).await;
    assert_eq!((status, &problem["type"]), (503, &json!("/problems/service-away")));
    assert!(!problem.to_string().contains("token"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inventory_worker_without_a_service_token_starts_only_if_everyone_may_reach_it() {
    let stack = Stack::embedded().await;
    let closed = [("AMENDS_NO_AUTH", "false")];
    let public = [("AMENDS_LISTEN", "0.0.0.0:0"), ("AMENDS_NO_AUTH", "true")];
    for settings in [&closed[..], &public] {
        let output = stack.output(&["worker", "inventory"], settings);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains("service_token"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_is_adjusted_once_with_a_key_and_the_ledger_names_the_operator() {
    let shop = Shop::open().await;
    let _worker = shop.inventory().await;
    let adjust = async |subject: &str, key: Option<&str>, by: i64| {
        let body = json!({ "adjust": by, "reason": "broken" });
        let mut request = shop.by(subject, Role::Operator, Method::PUT, STOCK).json(&body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let answer = request.send().await.unwrap();
        let replayed = answer.headers().contains_key("idempotency-replayed");
        let (status, body) = read(answer).await;
        (status, replayed, body)
    };
    let add = shop.by_operator(Method::POST, "/api/inventory");
    let added = add.header("idempotency-key", "k").json(&json!({ "productId": "mug", "quantity": 10 }));
    let added = added.send().await.unwrap();
    assert_eq!(
        (added.status().as_u16(), &added.headers()["location"]),
        (201, &"/api/inventory/mug".parse().unwrap())
    );

    let (status, _, problem) = adjust("olga", None, -1).await;
    assert_eq!((status, &problem["errors"][0]["header"]), (400, &json!("Idempotency-Key")), "{problem}");
    let (status, replayed, first) = adjust("olga", Some("k"), -1).await;
    assert_eq!((status, replayed, &first["onHand"]), (200, false, &json!(9)));
    assert_eq!(adjust("olga", Some("k"), -1).await, (200, true, first));
    assert_eq!(adjust("olga", Some("k"), -2).await.0, 422);
    assert_eq!(adjust("oscar", Some("k"), -1).await.2["onHand"], 8, "a key belongs to its subject");

    let viewer = token("vera", &[Role::Viewer]);
    let (_, first) = shop.get("/api/inventory/mug/movements?limit=2", &viewer).await;
    let next = format!("/api/inventory/mug/movements?limit=2&cursor={}", first["next"].as_str().unwrap());
    let (_, second) = shop.get(&next, &viewer).await;
    let of = |page: &Value| -> Vec<Value> {
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| json!([m["quantity"], m["by"], m["reason"]]))
            .collect()
    };
    assert_eq!(of(&first), [json!([-1, "oscar", "broken"]), json!([-1, "olga", "broken"])]);
    assert_eq!((of(&second), &second["next"]), (vec![json!([10, "olga", null])], &Value::Null));
    let (status, problem) = shop.get(&next, &token("vic", &[Role::Viewer])).await;
    assert_eq!((status, &problem["errors"][0]["parameter"]), (400, &json!("cursor")));
    let (status, low) = shop.get("/api/inventory?below=9", &viewer).await;
    assert_eq!((status, &low["items"][0]["productId"], &low["next"]), (200, &json!("mug"), &Value::Null));
    assert_eq!(shop.get("/api/inventory?below=8", &viewer).await.1["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_that_has_no_tag_is_changed_for_any_state_and_for_none_that_a_tag_names() {
    let shop = Shop::open().await;
    let _worker = shop.inventory().await;
    let set = async |on_hand: i64, condition: &str| {
        let put = shop.by_operator(Method::PUT, STOCK).header("if-match", condition);
        read(put.json(&json!({ "onHand": on_hand })).send().await.unwrap()).await
    };
    assert_eq!(set(5, "*").await.0, 200);
    for (condition, status, kind) in [
        ("\"a\"", 412, "/problems/precondition-failed"),
        ("W/\"a\"", 412, "/problems/precondition-failed"),
        ("a", 400, "/problems/invalid-request"),
    ] {
        let (refused, problem) = set(7, condition).await;
        assert_eq!((refused, &problem["type"]), (status, &json!(kind)), "{condition}: {problem}");
    }
    let (_, shown) = shop.get("/api/inventory/mug", &token("vera", &[Role::Viewer])).await;
    assert_eq!(shown["onHand"], 5, "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_away_is_soon_not_asked_until_it_is_back_or_an_admin_says_so() {
    let shop = Shop::open().await;
    assert_eq!(shop.breaker().await["state"], "closed");
    let read_stock = async || {
        let answer = shop.by_operator(Method::GET, "/api/inventory").send().await.unwrap();
        let waits = answer.headers().contains_key("retry-after");
        let (status, body) = read(answer).await;
        (status, waits, body["type"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(read_stock().await, (503, true, "/problems/service-away".into()));
    eventually("the breaker opens", LONG, || async {
        (read_stock().await.2 == "/problems/circuit-open").then_some(())
    })
    .await;
    let _worker = shop.inventory().await;
    eventually("the service is asked again", LONG, || async { (read_stock().await.0 == 200).then_some(()) })
        .await;
    assert_eq!(shop.breaker().await["state"], "closed");

    let hold = async |role: Role, body: &Value| {
        let request = shop.by("ada", role, Method::PUT, "/admin/circuit-breakers/inventory").json(body);
        read(request.send().await.unwrap()).await
    };
    let open = json!({ "mode": "open", "reason": "stock is being counted" });
    assert_eq!(hold(Role::Operator, &open).await.0, 403);
    let (status, held) = hold(Role::Admin, &open).await;
    assert_eq!((status, &held["state"], &held["mode"]), (200, &json!("open"), &json!("open")));
    assert_eq!(read_stock().await, (503, true, "/problems/circuit-open".into()));
    assert_eq!(hold(Role::Admin, &json!({ "mode": "automatic", "reason": "counted" })).await.0, 200);
    assert_eq!(read_stock().await.0, 200);
    for (body, pointer) in [
        (json!({ "mode": "ajar", "reason": "x" }), "/mode"),
        (json!({ "mode": "open" }), "/reason"),
        (json!({ "mode": "open", "reason": "" }), "/reason"),
    ] {
        let (status, problem) = hold(Role::Admin, &body).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (400, &json!(pointer)), "{problem}");
    }
    let unknown = shop.by("ada", Role::Admin, Method::PUT, "/admin/circuit-breakers/payment").json(&open);
    assert_eq!(unknown.send().await.unwrap().status(), 404);
}
