//! The limits of the gateway, as they are set.

use amends_api::auth::Role;
use amends_testkit::redis::RedisServer;
use reqwest::{Method, Response};

use crate::support::{
    Process,
    issuer::token,
    shop::{Shop, read},
};

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

async fn list(api: &Process, subject: &str) -> Response {
    let url = format!("http://{}/api/orders", api.address);
    reqwest::Client::new().get(url).bearer_auth(token(subject, &[Role::Customer])).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subjects_requests_are_limited_over_all_apis_and_no_other_subjects_are() {
    let redis = RedisServer::start();
    let mut shop = Shop::open().await;
    shop.stack.set("REDIS_URL", &redis.url()).set("AMENDS_RATE_LIMIT_SUBJECT", "4");
    let (one, other) = (shop.stack.start(&["api"]).await, shop.stack.start(&["api"]).await);
    for (n, api) in [&one, &other, &other, &one].into_iter().enumerate() {
        let answer = list(api, "c-a").await;
        assert_eq!(
            (answer.status().as_u16(), header(&answer, "ratelimit-policy")),
            (200, "\"subject\";q=4;w=60")
        );
        let left = header(&answer, "ratelimit");
        assert!(left.starts_with(&format!("\"subject\";r={};", 3 - n)), "{left}");
    }
    for api in [&one, &other] {
        let refused = list(api, "c-a").await;
        assert!(!header(&refused, "retry-after").is_empty());
        let (status, problem) = read(refused).await;
        assert_eq!((status, &problem["type"]), (429, &"/problems/too-many-requests".into()));
        assert_eq!(list(api, "c-b").await.status(), 200);
    }
    assert!(header(&list(&shop.api, "c-a").await, "ratelimit").is_empty(), "the first api has no limit");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_limited_before_its_tokens_are_looked_at_and_health_never() {
    let mut shop = Shop::open().await;
    shop.stack.set("AMENDS_RATE_LIMIT_ADDRESS", "3").set("AMENDS_FORWARDING_PROXIES", "1");
    let api = shop.stack.start(&["api"]).await;
    let ask = async |from: &str| {
        let request = reqwest::Client::new().get(format!("http://{}/api/orders", api.address));
        request.header("x-forwarded-for", from).send().await.unwrap().status().as_u16()
    };
    for expected in [401, 401, 401, 429, 429] {
        assert_eq!(ask("1.1.1.1").await, expected);
    }
    assert_eq!(ask("1.1.1.2").await, 401);
    for _ in 0..10 {
        let health = reqwest::get(format!("http://{}/health/live", api.address)).await.unwrap();
        assert_eq!(health.status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_compressed_where_it_is_set_and_asked_for_and_tagged_ones_are_not() {
    let mut shop = Shop::open().await;
    shop.stack.set("AMENDS_COMPRESSION", "true");
    let api = shop.stack.start(&["api"]).await;
    let order = shop.place_for("c-a").await;
    let customer = token("c-a", &[Role::Customer]);
    let ask = async |address, path: &str, encoding: &str| {
        let request = reqwest::Client::new().get(format!("http://{address}{path}"));
        request.bearer_auth(&customer).header("accept-encoding", encoding).send().await.unwrap()
    };
    let zipped = ask(api.address, "/api/orders", "gzip").await;
    assert_eq!((header(&zipped, "content-encoding"), header(&zipped, "vary")), ("gzip", "accept-encoding"));
    let bytes = zipped.bytes().await.unwrap();
    assert_eq!(bytes[..2], [0x1f, 0x8b]);
    for (address, path, encoding) in [
        (api.address, "/api/orders", "identity"),
        (api.address, &*format!("/api/orders/{order}"), "gzip"),
        (shop.api.address, "/api/orders", "gzip"),
    ] {
        let plain = ask(address, path, encoding).await;
        assert_eq!(header(&plain, "content-encoding"), "", "{path} {encoding}");
        assert_eq!(read(plain).await.0, 200, "{path} {encoding}");
    }
    let unknown = reqwest::Client::new().request(Method::GET, format!("http://{}/x", api.address));
    assert_eq!(unknown.send().await.unwrap().status(), 404);
}
