//! Bad input: a precise, typed error that names the location, and no row in any table.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::support::{AWAY, Stack, client::order};

/// The setting under which requests without a token are refused.
const NO_AUTH: (&str, &str) = ("AMENDS_NO_AUTH", "false");

/// Returns a body that differs from a valid one in one place.
fn bad(change: impl Fn(&mut Value)) -> String {
    let mut body = order("mug", 1, "card_approved", "AT");
    change(&mut body);
    body.to_string()
}

fn bad_bodies() -> Vec<(&'static str, String)> {
    let line = json!({ "productId": "mug", "quantity": 1, "unitPrice": 1 });
    let nested = format!("{}{}", "[".repeat(40), "]".repeat(40));
    vec![
        ("missing", String::new()),
        ("not JSON", "{\"customerId\":".to_owned()),
        ("not an object", "[]".to_owned()),
        (
            "fields without names",
            json!([
                "c-1",
                "EUR",
                [["mug", 1, 1]],
                ["card_approved"],
                order("mug", 1, "x", "AT")["shippingAddress"]
            ])
            .to_string(),
        ),
        ("a line without names", bad(|b| b["lines"][0] = json!(["mug", 1, 1250]))),
        ("nested too deep", nested),
        ("more after the end", format!("{} {{}}", order("mug", 1, "card_approved", "AT"))),
        ("a NUL", bad(|b| b["customerId"] = json!("c\0"))),
        ("unknown field", bad(|b| b["status"] = json!("PAID"))),
        ("unknown field of a line", bad(|b| b["lines"][0]["discount"] = json!(5))),
        ("no customer", bad(|b| drop(b.as_object_mut().unwrap().remove("customerId")))),
        ("a customer of the wrong type", bad(|b| b["customerId"] = json!(7))),
        ("a customer of spaces", bad(|b| b["customerId"] = json!("  "))),
        ("an empty customer", bad(|b| b["customerId"] = json!(""))),
        ("a customer of 201 characters", bad(|b| b["customerId"] = json!("c".repeat(201)))),
        (
            "a product without a price",
            bad(|b| drop(b["lines"][0].as_object_mut().unwrap().remove("unitPrice"))),
        ),
        ("no lines", bad(|b| b["lines"] = json!([]))),
        ("101 lines", bad(|b| b["lines"] = json!(vec![line.clone(); 101]))),
        ("a product with a slash", bad(|b| b["lines"][0]["productId"] = json!("a/b"))),
        ("quantity 0", bad(|b| b["lines"][0]["quantity"] = json!(0))),
        ("quantity 1,000,001", bad(|b| b["lines"][0]["quantity"] = json!(1_000_001))),
        ("a broken quantity", bad(|b| b["lines"][0]["quantity"] = json!(1.5))),
        ("a negative price", bad(|b| b["lines"][0]["unitPrice"] = json!(-1))),
        (
            "a total beyond i64",
            bad(|b| {
                b["lines"] = json!([{ "productId": "mug", "quantity": 1_000_000, "unitPrice": i64::MAX }])
            }),
        ),
        ("currency in lower case", bad(|b| b["currency"] = json!("eur"))),
        ("an unknown currency", bad(|b| b["currency"] = json!("ABC"))),
        ("an unknown country", bad(|b| b["shippingAddress"]["country"] = json!("XX"))),
        ("a country in lower case", bad(|b| b["shippingAddress"]["country"] = json!("at"))),
        ("no address", bad(|b| drop(b.as_object_mut().unwrap().remove("shippingAddress")))),
        (
            "an address without a city",
            bad(|b| drop(b["shippingAddress"].as_object_mut().unwrap().remove("city"))),
        ),
        ("a name with a control character", bad(|b| b["shippingAddress"]["name"] = json!("a\nb"))),
        ("a name of 201 characters", bad(|b| b["shippingAddress"]["name"] = json!("n".repeat(201)))),
        ("no payment", bad(|b| drop(b.as_object_mut().unwrap().remove("payment")))),
        ("an empty method", bad(|b| b["payment"]["method"] = json!(""))),
        (
            "two faults",
            bad(|b| {
                b["currency"] = json!("eur");
                b["lines"][0]["quantity"] = json!(0);
            }),
        ),
    ]
}

#[tokio::test]
async fn bad_input_is_refused_with_its_place_and_leaves_no_row() {
    let stack = Stack::embedded().await;
    let api = stack.start(&["api"]).await;
    let http = reqwest::Client::new();
    let url = |path: &str| format!("http://{}{path}", api.address);
    let mut table = String::new();
    for (what, body) in bad_bodies() {
        let request = http.post(url("/api/orders")).header("content-type", "application/json").body(body);
        let answer = request.send().await.unwrap();
        let (status, kind) = (answer.status(), answer.headers()["content-type"].to_str().unwrap().to_owned());
        assert_eq!(kind, "application/problem+json", "{what}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["status"], status.as_u16(), "{what}");
        write!(table, "{what}: {} {}", status.as_u16(), problem["type"].as_str().unwrap()).unwrap();
        match problem["errors"].as_array() {
            Some(errors) => {
                for error in errors {
                    write!(
                        table,
                        "\n    {} {}",
                        error["pointer"].as_str().unwrap(),
                        error["detail"].as_str().unwrap()
                    )
                    .unwrap();
                }
            }
            None => write!(table, "\n    {}", problem["detail"].as_str().unwrap()).unwrap(),
        }
        table.push('\n');
    }
    insta::assert_snapshot!("bad_bodies", table);

    let good = order("mug", 1, "card_approved", "AT").to_string();
    let too_long = format!("{good}{}", " ".repeat(64 * 1024));
    let id = "0198c0de-0000-7000-8000-000000000000";
    let mut table = String::new();
    let get = |path: &str| http.get(url(path));
    let post = |path: &str, body: &str| {
        http.post(url(path)).header("content-type", "application/json").body(body.to_owned())
    };
    for (what, request) in [
        ("a body of more than 64 KiB", post("/api/orders", &too_long)),
        (
            "not sent as JSON",
            http.post(url("/api/orders")).header("content-type", "text/plain").body(good.clone()),
        ),
        ("an empty key", post("/api/orders", &good).header("Idempotency-Key", "")),
        ("a key of 256 characters", post("/api/orders", &good).header("Idempotency-Key", "k".repeat(256))),
        (
            "a key that is not ASCII",
            post("/api/orders", &good).header("Idempotency-Key", "k\u{e9}".as_bytes().to_vec()),
        ),
        (
            "two keys",
            post("/api/orders", &good).header("Idempotency-Key", "a").header("Idempotency-Key", "b"),
        ),
        ("a wrong method", http.put(url("/api/orders"))),
        ("a wrong path", get("/api/order")),
        ("an id that is none", get("/api/orders/7")),
        ("an id of nobody", get(&format!("/api/orders/{id}"))),
        ("a timeline of nobody", get(&format!("/api/orders/{id}/timeline"))),
        ("cancelling what is not there", http.delete(url(&format!("/api/orders/{id}")))),
        ("a state that is none", get("/admin/sagas?state=stuck")),
        ("an unknown question", get("/admin/sagas?colour=red")),
        ("too large a page", get("/admin/sagas?limit=501")),
        ("an age that is none", get("/admin/sagas?olderThan=old")),
        ("a saga of nobody", get(&format!("/admin/sagas/{id}"))),
        ("an action without a body", post(&format!("/admin/sagas/{id}/retry"), "")),
        (
            "an action on nobody",
            post(&format!("/admin/sagas/{id}/retry"), "{\"reason\":\"x\",\"revision\":1}"),
        ),
        (
            "an outcome that is none",
            post(&format!("/admin/sagas/{id}/resolve"), "{\"outcome\":\"maybe\",\"reason\":\"x\"}"),
        ),
        ("stock while inventory is away", get("/api/inventory/mug")),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/problem+json", "{what}");
        let (status, retry) = (answer.status().as_u16(), answer.headers().contains_key("retry-after"));
        let problem: Value = answer.json().await.unwrap();
        let place = problem["errors"][0]
            .as_object()
            .map(|e| format!(" {}", Value::Object(e.clone())))
            .unwrap_or_default();
        let retry = if retry { " (Retry-After)" } else { "" };
        writeln!(table, "{what}: {status} {}{place}{retry}", problem["type"].as_str().unwrap()).unwrap();
    }
    insta::assert_snapshot!("bad_requests", table);

    for rows in ["orders", "sagas", "personal", "timeline", "idempotency_keys"] {
        let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {rows}")))
            .fetch_one(stack.pool("engine"))
            .await
            .unwrap();
        assert_eq!(count, 0, "{rows}");
    }
}

#[tokio::test]
async fn what_a_start_cannot_do_without_is_one_line_and_a_status() {
    let stack = Stack::embedded().await;
    let keys = |key: &'static str, value: &'static str| {
        vec![(key, value), ("AMENDS_JWT_ISSUER", "i"), ("AMENDS_JWT_AUDIENCE", "a")]
    };
    let mut both = keys("AMENDS_JWKS_URL", "https://id.example/keys");
    both.push(("AMENDS_JWT_KEY_FILE", "/nowhere/key.pem"));
    for (what, role, settings, says) in [
        (
            "no database",
            "api",
            vec![("AMENDS_ENGINE_DATABASE_URL", "postgres://127.0.0.1:1/x"), AWAY],
            "database",
        ),
        ("no broker", "engine", vec![("KAFKA_BROKERS", "127.0.0.1:1"), AWAY], "127.0.0.1:1"),
        ("an unknown setting", "api", vec![("AMENDS_COLOUR", "red")], "colour"),
        ("a malformed setting", "api", vec![("AMENDS_PENDING_TIMEOUT", "soon")], "pending_timeout"),
        ("a timeout beyond dates", "api", vec![("AMENDS_PENDING_TIMEOUT", "9999999999y")], "pending_timeout"),
        (
            "a URL under a wrong key",
            "api",
            vec![("AMENDS_ADMISSION", "postgres://u:hunter2@h/d")],
            "admission",
        ),
        ("a URL for a filter", "api", vec![("AMENDS_LOG", "postgres://u:hunter2@h/d")], "log"),
        ("everybody let in without a word", "api", vec![NO_AUTH], "--no-auth"),
        ("everybody let in from everywhere", "api", vec![("AMENDS_LISTEN", "0.0.0.0:0")], "jwks_url"),
        ("a worker for everybody", "engine", vec![("AMENDS_LISTEN", "0.0.0.0:0"), NO_AUTH], "--no-auth"),
        (
            "a key file that is not there",
            "api",
            keys("AMENDS_JWT_KEY_FILE", "/nowhere/key.pem"),
            "/nowhere/key.pem",
        ),
        ("keys from two places", "api", both, "jwt_key_file"),
        ("keys without an issuer", "api", vec![("AMENDS_JWKS_URL", "https://id.example/keys")], "jwt_issuer"),
        ("keys at no URL", "api", keys("AMENDS_JWKS_URL", "id.example"), "jwks_url"),
        (
            "keys behind a password",
            "api",
            keys("AMENDS_JWKS_URL", "https://u:hunter2@id.example/"),
            "jwks_url",
        ),
    ] {
        let output = stack.output(&[role], &settings);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{what}: {said}");
        assert_eq!(said.lines().count(), 1, "{what}: {said}");
        assert!(said.contains(says), "{what}: {said}");
        assert!(!said.contains("hunter2"), "{what}: {said}");
    }
    let output = stack.output(&["api", "--set", "postgres://u:hunter2@h/d"], &[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("--set") && !said.contains("hunter2"), "{said}");
    sqlx::query("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'newer', true, '', 0)")
        .execute(stack.pool("engine"))
        .await
        .unwrap();
    // This newer schema does not allow older programs.
    sqlx::query("UPDATE schema_compatibility SET compatible_from = 9999")
        .execute(stack.pool("engine"))
        .await
        .unwrap();
    let output = stack.output(&["engine"], &[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.lines().count() == 1 && said.contains("newer"), "{said}");
}

#[tokio::test]
async fn an_order_leads_an_operator_to_its_saga() {
    let stack = Stack::embedded().await;
    let api = stack.start(&["api"]).await;
    let client = api.client();
    let placed = [
        client.place(&order("mug", 1, "card_approved", "AT")).await,
        client.place(&order("mug", 2, "card_slow", "AT")).await,
    ];
    for order in &placed {
        let saga = client.get(&format!("/api/orders/{order}")).await["sagaId"].clone();
        let listed = client.get(&format!("/admin/sagas?businessKey={order}")).await;
        assert_eq!((listed["items"].as_array().unwrap().len(), &listed["items"][0]["id"]), (1, &saga));
        assert_eq!(
            client.get(&format!("/admin/sagas/{}", saga.as_str().unwrap())).await["businessKey"],
            *order
        );
    }
    for key in ["0198c0de-0000-7000-8000-000000000000", "order-7"] {
        assert_eq!(client.get(&format!("/admin/sagas?businessKey={key}")).await["items"], json!([]), "{key}");
    }
    let filtered = format!("/admin/sagas?businessKey={}&state=parked", placed[0]);
    assert_eq!(client.get(&filtered).await["items"], json!([]), "filters add up");
}
