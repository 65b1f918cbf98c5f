//! The limits of the gateway, as they are set.

use std::sync::atomic::{AtomicU32, Ordering};

use amends_api::auth::Role;
use amends_testkit::{eventually, redis::RedisServer};
use reqwest::{Method, Response};

use crate::support::{
    LONG, Process,
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
    let attempts = AtomicU32::new(0);
    // There is one request more after 15 seconds, and Redis is not waited for: on a busy machine, with another subject.
    eventually("six requests at once of one subject are counted together", LONG, || async {
        let subject = format!("c-a{}", attempts.fetch_add(1, Ordering::Relaxed));
        let mut left = Vec::new();
        for api in [&one, &other, &other, &one] {
            let answer = list(api, &subject).await;
            assert_eq!(header(&answer, "ratelimit-policy"), "\"subject\";q=4;w=60");
            let (status, all) = (answer.status().as_u16(), header(&answer, "ratelimit"));
            left.push((status, all.split(";t=").next().unwrap_or_default().to_owned()));
        }
        let mut refused = Vec::new();
        for api in [&one, &other] {
            let answer = list(api, &subject).await;
            let has_time = !header(&answer, "retry-after").is_empty();
            let (status, problem) = read(answer).await;
            refused.push((status, has_time, problem["type"].clone()));
            assert_eq!(list(api, &format!("another-{subject}")).await.status(), 200);
        }
        println!("{left:?}, {refused:?}");
        let of_four = [3, 2, 1, 0].map(|rest| (200, format!("\"subject\";r={rest}")));
        let too_many = (429, true, "/problems/too-many-requests".into());
        (left == of_four && refused == [too_many.clone(), too_many]).then_some(())
    })
    .await;
    assert!(header(&list(&shop.api, "c-a0").await, "ratelimit").is_empty(), "the first api has no limit");
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
    let attempts = AtomicU32::new(0);
    // There is one request more after 20 seconds: on a busy machine, from another address.
    eventually("five requests at once of one address are counted", LONG, || async {
        let address = format!("1.1.{}.1", attempts.fetch_add(1, Ordering::Relaxed));
        let mut answered = Vec::new();
        for _ in 0..5 {
            answered.push(ask(&address).await);
        }
        (answered == [401, 401, 401, 429, 429]).then_some(())
    })
    .await;
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
