//! Lists of orders over HTTP: page by page, by their links, each order once.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use amends_api::auth::Role;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::{LONG, Process, Stack, client::order, issuer};

/// The longest wait for a status (`routes/order_read.rs`).
const WAIT_BOUND: Duration = Duration::from_secs(28);

async fn get(api: &Process, path: &str) -> (StatusCode, Option<String>, Value) {
    let answer = reqwest::get(format!("http://{}{path}", api.address)).await.unwrap();
    let link = answer.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
    (answer.status(), link, answer.json().await.unwrap())
}

fn ids(page: &Value) -> Vec<String> {
    page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

/// Follows the links from here to the end; returns the orders met.
async fn walk(api: &Process, path: &str) -> Vec<String> {
    let (mut met, mut path) = (Vec::new(), path.to_owned());
    loop {
        let (status, link, page) = get(api, &path).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        met.extend(ids(&page));
        assert_eq!(link.is_some(), page["next"].is_string(), "{link:?} {page}");
        let Some(link) = link else { return met };
        let target = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
        path = target.unwrap_or_else(|| panic!("{link}")).to_owned();
        assert!(path.contains(page["next"].as_str().unwrap()), "{link}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_listed_by_customer_and_status_and_each_page_leads_to_the_next() {
    let stack = Stack::embedded().await;
    let api = stack.start(&["api"]).await;
    let client = api.client();
    let of = |customer: &str| {
        let mut body = order("mug", 1, "card_approved", "AT");
        body["customerId"] = json!(customer);
        body
    };
    let mut placed = BTreeSet::new();
    for _ in 0..7 {
        placed.insert(client.place(&of("c-1")).await);
    }
    let other = client.place(&of("c-2")).await;

    let met = walk(&api, "/api/orders?customerId=c-1&limit=3").await;
    assert_eq!(met.len(), 7);
    assert_eq!(met.into_iter().collect::<BTreeSet<_>>(), placed);
    assert_eq!(walk(&api, "/api/orders?customerId=c-2&status=PENDING").await, [&*other]);
    assert_eq!(walk(&api, "/api/orders?customerId=c-2&status=PAID&status=FULFILLED").await, [""; 0]);
    assert_eq!(walk(&api, "/api/orders").await[0], other, "the newest first, as soon as it is answered");
    let (_, _, page) = get(&api, "/api/orders?limit=1").await;
    let (_, _, single) = get(&api, &format!("/api/orders/{other}")).await;
    assert_eq!(page["items"][0], single, "a list shows an order as it is read alone");

    // A cursor belongs to its list.
    let cursor = page["next"].as_str().unwrap();
    assert_eq!(get(&api, &format!("/api/orders?limit=2&cursor={cursor}")).await.0, StatusCode::OK);
    for query in [format!("status=PAID&cursor={cursor}"), format!("cursor={}", &cursor[1..])] {
        let (status, _, problem) = get(&api, &format!("/api/orders?{query}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
        assert_eq!(problem["errors"][0]["parameter"], "cursor", "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sagas_are_listed_page_by_page_and_each_page_leads_to_the_next() {
    let stack = Stack::embedded().await;
    let api = stack.start(&["api"]).await;
    let mut placed = BTreeSet::new();
    for _ in 0..5 {
        let id = api.client().place(&order("mug", 1, "card_approved", "AT")).await;
        placed.insert(
            api.client().get(&format!("/api/orders/{id}")).await["sagaId"].as_str().unwrap().to_owned(),
        );
    }
    for path in ["/admin/sagas?limit=2", "/admin/sagas?state=running&limit=2", "/admin/sagas"] {
        let met = walk(&api, path).await;
        assert_eq!((met.len(), met.into_iter().collect::<BTreeSet<_>>()), (5, placed.clone()), "{path}");
    }
    assert_eq!(walk(&api, "/admin/sagas?state=parked&limit=2").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_lists_own_orders_only_and_no_cursor_of_somebody_else() {
    let mut stack = Stack::embedded().await;
    let keys = issuer::serve_at(([127, 0, 0, 1], 0).into()).await;
    for (key, value) in issuer::settings(keys) {
        stack.set(key, &value);
    }
    let api = stack.start(&["api"]).await;
    let http = reqwest::Client::new();
    let url = |path: &str| format!("http://{}{path}", api.address);
    for customer in ["c-a", "c-b", "c-a"] {
        let mut body = order("mug", 1, "card_approved", "AT");
        body["customerId"] = json!(customer);
        let placing = http.post(url("/api/orders")).bearer_auth(issuer::token("shop", &[Role::Storefront]));
        assert_eq!(placing.json(&body).send().await.unwrap().status(), StatusCode::CREATED);
    }
    let list = async |subject: &str, role: Role, path: &str| -> (StatusCode, Value) {
        let asked = http.get(url(path)).bearer_auth(issuer::token(subject, &[role]));
        let answer = asked.send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    };
    let (_, own) = list("c-a", Role::Customer, "/api/orders").await;
    let whose = |page: &Value| -> Vec<Value> {
        page["items"].as_array().unwrap().iter().map(|item| item["customerId"].clone()).collect()
    };
    assert_eq!(whose(&own), ["c-a", "c-a"]);
    assert_eq!(list("c-a", Role::Customer, "/api/orders?customerId=c-a").await.1["items"], own["items"]);
    assert_eq!(list("c-a", Role::Customer, "/api/orders?customerId=c-b").await.0, StatusCode::FORBIDDEN);
    assert_eq!(whose(&list("vera", Role::Viewer, "/api/orders").await.1).len(), 3);
    let (_, first) = list("c-a", Role::Customer, "/api/orders?limit=1").await;
    let next = format!("/api/orders?limit=1&cursor={}", first["next"].as_str().unwrap());
    assert_eq!(list("c-a", Role::Customer, &next).await.0, StatusCode::OK);
    assert_eq!(list("c-b", Role::Customer, &next).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_sent_again_only_if_it_has_changed_and_a_wait_ends_with_its_next_status() {
    let stack = Stack::embedded().await;
    let api = stack.start(&["api"]).await;
    let id = api.client().place(&order("mug", 1, "card_approved", "AT")).await;
    let http = reqwest::Client::new();
    let url = |query: &str| format!("http://{}/api/orders/{id}{query}", api.address);
    let first = http.get(url("")).send().await.unwrap();
    let tag = first.headers()["etag"].to_str().unwrap().to_owned();
    let known = http.get(url("")).header("if-none-match", &tag).send().await.unwrap();
    assert_eq!(
        (known.status(), known.headers()["etag"].to_str().unwrap()),
        (StatusCode::NOT_MODIFIED, &*tag)
    );
    assert_eq!(known.bytes().await.unwrap(), "");

    // No engine runs yet: the order stays as it is, and is answered with the same status in the end.
    let (_, _, same) = get(&api, &format!("/api/orders/{id}?wait=300ms&status=PENDING")).await;
    assert_eq!(same["status"], "PENDING");
    let (_, _, at_once) = get(&api, &format!("/api/orders/{id}?wait=30s&status=PAID")).await;
    assert_eq!(at_once["status"], "PENDING");
    let path = format!("/api/orders/{id}?wait=30s&status=PENDING");
    // A wait ends after less than 30 seconds, in which a busy machine may not have started all that changes the order.
    let waiting = async {
        loop {
            let begun = Instant::now();
            let (status, _, shown) = get(&api, &path).await;
            assert_eq!(status, StatusCode::OK);
            if shown["status"] != "PENDING" {
                return begun.elapsed();
            }
        }
    };
    let starting = async {
        let inventory = stack.start(&["worker", "inventory"]).await;
        stack.stock("mug", 5).await;
        let roles = [&["engine"][..], &["worker", "payment"], &["worker", "shipment"]];
        let started = futures::future::join_all(roles.into_iter().map(|role| stack.start(role))).await;
        (inventory, started)
    };
    let (waited, _running) = tokio::join!(timeout(LONG * 2, waiting), starting);
    let waited = waited.expect("a wait ends with a status");
    assert!(waited < WAIT_BOUND, "it ended with its time, after {waited:?}");
    let changed = http.get(url("")).header("if-none-match", &tag).send().await.unwrap();
    assert_eq!(changed.status(), StatusCode::OK);
}
