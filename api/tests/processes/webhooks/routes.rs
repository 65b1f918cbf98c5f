//! The routes of webhooks: created once, shown without secrets, changed in the state that was seen.

use std::collections::BTreeSet;

use amends_api::auth::Role;
use amends_testkit::eventually;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    LONG, Stack,
    issuer::token,
    shop::{Shop, read},
};

fn webhook() -> Value {
    json!({ "url": "http://127.0.0.1:9/hook", "types": ["order.*"] })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_shown_at_its_creation_and_to_the_same_request_again_and_never_otherwise() {
    let shop = Shop::open().await;
    let operator = token("olga", &[Role::Operator]);
    let create = async |key: &str| {
        let request = shop.ask(Method::POST, "/api/webhooks", Some(&operator)).header("idempotency-key", key);
        request.json(&webhook()).send().await.unwrap()
    };
    let first = create("a").await;
    let (location, tag) = (first.headers()["location"].clone(), first.headers()["etag"].clone());
    let (status, created) = read(first).await;
    assert_eq!((status, &created["format"], &created["enabled"]), (201, &json!("event"), &json!(true)));
    let again = create("a").await;
    assert_eq!(
        (&again.headers()["idempotency-replayed"], &again.headers()["etag"]),
        (&"true".parse().unwrap(), &tag)
    );
    assert_eq!(read(again).await, (201, created.clone()));
    let (_, other) = read(create("b").await).await;
    assert_ne!((&other["id"], &other["secret"]), (&created["id"], &created["secret"]));

    let path = location.to_str().unwrap();
    let shown = shop.ask(Method::GET, path, Some(&operator)).send().await.unwrap();
    assert_eq!(shown.headers()["etag"], tag, "the tag of the creation is that of a read");
    let mut without = created.clone();
    without.as_object_mut().unwrap().remove("secret");
    assert_eq!(read(shown).await, (200, without));
    let secret = created["secret"].as_str().unwrap().trim_start_matches("whsec_").to_owned();
    let (_, list) = shop.get("/api/webhooks", &operator).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    let stored: Vec<String> = sqlx::query_scalar(
        "SELECT row_to_json(w)::text FROM webhooks AS w UNION ALL SELECT row_to_json(a)::text FROM idempotent_answers AS a",
    )
    .fetch_all(shop.stack.pool("engine"))
    .await
    .unwrap();
    assert_eq!(stored.len(), 4);
    for text in stored.iter().chain([&list.to_string()]) {
        assert!(!text.contains(&secret), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_no_webhook_is_created_and_the_problem_names_the_setting() {
    let mut stack = Stack::embedded().await;
    stack.unset("AMENDS_WEBHOOK_KEY");
    let api = stack.start(&["api"]).await;
    let (status, problem) = api.client().post("/api/webhooks", &webhook()).await;
    assert_eq!((status, &problem["type"]), (409, &json!("/problems/webhooks-not-configured")));
    assert!(problem["detail"].as_str().unwrap().contains("webhook_key"), "{problem}");
    assert_eq!(api.client().get("/api/webhooks").await["items"], json!([]));
    let output = stack.output(&["config"], &[("AMENDS_WEBHOOK_KEY", &"7c".repeat(32))]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("webhook_key = \"<hidden>\"") && !said.contains("7c7c"), "{said}");
    let output = stack.output(&["api"], &[("AMENDS_WEBHOOK_KEY", "hunter2")]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("webhook_key") && !said.contains("hunter2"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_that_lead_into_a_private_network_are_refused_at_their_place() {
    let mut stack = Stack::embedded().await;
    stack.unset("AMENDS_WEBHOOK_ALLOW_PRIVATE");
    let api = stack.start(&["api"]).await;
    let client = api.client();
    for url in [
        "http://hooks.shop.example/",
        "https://user:secret@hooks.shop.example/",
        "https://127.0.0.1/",
        "https://0x7f.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::ffff:10.0.0.1]/",
        "https://localhost:8443/",
        "https://hooks.shop.example:22/",
    ] {
        let (status, problem) =
            client.post("/api/webhooks", &json!({ "url": url, "types": ["order.*"] })).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (400, &json!("/url")), "{url}: {problem}");
        assert!(!problem.to_string().contains("secret@"), "{problem}");
    }
    let (status, created) = client
        .post("/api/webhooks", &json!({ "url": "https://hooks.shop.example/", "types": ["refund.*"] }))
        .await;
    assert_eq!(status, 201, "{created}");
    let path = format!("/api/webhooks/{}", created["id"].as_str().unwrap());
    let (status, problem) = client.patch(&path, &json!({ "url": "https://10.0.0.1/" })).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (400, &json!("/url")), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_changed_and_deleted_in_the_state_that_was_seen_and_then_gone() {
    let shop = Shop::open().await;
    let operator = token("olga", &[Role::Operator]);
    let ask = |method: Method, path: &str| shop.ask(method, path, Some(&operator));
    let created = ask(Method::POST, "/api/webhooks").json(&webhook()).send().await.unwrap();
    let path = created.headers()["location"].to_str().unwrap().to_owned();
    let old = created.headers()["etag"].clone();
    let patch = json!({ "enabled": false, "types": ["order.paid", "refund.*"] });
    let changed = ask(Method::PATCH, &path).header("if-match", &old).json(&patch).send().await.unwrap();
    let tag = changed.headers()["etag"].clone();
    let (status, shown) = read(changed).await;
    assert_eq!((status, &shown["enabled"], &shown["types"]), (200, &json!(false), &patch["types"]));
    assert_eq!((&shown["url"], shown.get("disabledReason")), (&webhook()["url"], None), "the rest stays");
    for (method, path) in [
        (Method::PATCH, path.clone()),
        (Method::DELETE, path.clone()),
        (Method::POST, format!("{path}/rotate-secret")),
        (Method::POST, format!("{path}/test")),
    ] {
        let request = ask(method.clone(), &path).header("if-match", &old).json(&json!({ "enabled": true }));
        assert_eq!(request.send().await.unwrap().status(), 412, "{method} {path}");
    }
    assert_eq!(ask(Method::GET, &path).send().await.unwrap().headers()["etag"], tag);
    let tested = ask(Method::POST, &format!("{path}/test")).header("if-match", &tag).send().await.unwrap();
    assert_eq!(tested.status(), 202);
    let deleted = ask(Method::DELETE, &path).header("if-match", &tag).send().await.unwrap();
    assert_eq!(deleted.status(), 204);
    for (method, path) in [
        (Method::GET, path.clone()),
        (Method::DELETE, path.clone()),
        (Method::GET, format!("{path}/deliveries")),
        (Method::POST, format!("{path}/test")),
    ] {
        assert_eq!(ask(method.clone(), &path).send().await.unwrap().status(), 404, "{method} {path}");
    }
    assert_eq!(shop.get("/api/webhooks", &operator).await.1["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_webhooks_and_deliveries_are_paged_without_gaps_and_a_deleted_webhooks_rows_go() {
    let shop = Shop::open().await;
    let viewer = token("vera", &[Role::Viewer]);
    let mut hooks = BTreeSet::new();
    for _ in 0..5 {
        hooks.insert(shop.webhook().await.0);
    }
    let hook = hooks.first().unwrap().clone();
    sqlx::query(
        "INSERT INTO webhook_deliveries (id, webhook_id, sequence, status, event_type, event_id, event)
         SELECT gen_random_uuid(), $1::uuid, n, CASE WHEN n % 3 = 0 THEN 'SKIPPED' ELSE 'DELIVERED' END, 'order.paid', n::text,
                '{}' FROM generate_series(1, 23) AS n",
    )
    .bind(&hook)
    .execute(shop.stack.pool("engine"))
    .await
    .unwrap();
    let deliveries = format!("/api/webhooks/{hook}/deliveries");
    for (path, filter, number) in [
        ("/api/webhooks", "", 5),
        (deliveries.as_str(), "", 24),
        (deliveries.as_str(), "&status=SKIPPED", 7),
        (deliveries.as_str(), "&status=SKIPPED&status=FAILED", 8),
        (deliveries.as_str(), "&status=PENDING", 0),
    ] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let (status, page) = shop.get(&format!("{path}?limit=2{filter}{cursor}"), &viewer).await;
            assert_eq!(status, 200, "{page}");
            seen.extend(
                page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()),
            );
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(seen.len(), number, "{path} {filter}");
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), number, "{path} {filter}");
        let mut sorted = seen.clone();
        sorted.sort_unstable();
        if path == deliveries {
            sorted.reverse();
        }
        assert_eq!(seen, sorted, "{path} {filter}");
    }
    let operator = token("olga", &[Role::Operator]);
    let deleted = shop.ask(Method::DELETE, &format!("/api/webhooks/{hook}"), Some(&operator));
    assert_eq!(deleted.send().await.unwrap().status(), 204);
    let _engine = shop.stack.start(&["engine"]).await;
    eventually("the deleted webhook's rows are gone", LONG, || async {
        let rows: (i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM webhooks), (SELECT count(*) FROM webhook_deliveries WHERE webhook_id = $1::uuid)",
        )
        .bind(&hook)
        .fetch_one(shop.stack.pool("engine"))
        .await
        .unwrap();
        (rows == (4, 0)).then_some(())
    })
    .await;
}
