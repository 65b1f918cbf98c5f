//! What every edge refuses, and how.

use crate::support::{Edge, GENEROUS, answer};

/// Builds headers and body of a request.
fn post(headers: &str, body: &str) -> String {
    format!("POST /taken HTTP/1.1\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

const JSON: &str = "Content-Type: application/json\r\n";

#[tokio::test]
async fn what_is_wrong_is_a_problem_of_its_own_and_changes_nothing() {
    let edge = Edge::start(GENEROUS).await;
    let long = format!("{{\"n\":1{}}}", " ".repeat(64 << 10));
    for (what, request, status, slug) in [
        (
            "a browser's form",
            post("Origin: http://evil.example\r\nSec-Fetch-Site: cross-site\r\n", "{\"n\":1}"),
            403,
            "foreign-origin",
        ),
        ("a page's text", post("Content-Type: text/plain\r\n", "{\"n\":1}"), 415, "not-json"),
        ("no media type", post("", "{\"n\":1}"), 415, "not-json"),
        ("two media types", post(&[JSON, JSON].concat(), "{\"n\":1}"), 415, "not-json"),
        ("no body", post(JSON, ""), 400, "unreadable-body"),
        ("a key twice", post(JSON, "{\"n\":1,\"n\":2}"), 400, "invalid-request"),
        ("an unknown field", post(JSON, "{\"n\":1,\"m\":2}"), 400, "invalid-request"),
        ("a body too long", post(JSON, &long), 413, "body-too-large"),
        ("HTML only", "GET /shown HTTP/1.1\r\nAccept: text/html\r\n\r\n".to_owned(), 406, "not-acceptable"),
        (
            "HTML only, to act",
            post(&[JSON, "Accept: text/html\r\n"].concat(), "{\"n\":1}"),
            406,
            "not-acceptable",
        ),
        ("a parameter that is none", "GET /shown?x=1 HTTP/1.1\r\n\r\n".to_owned(), 400, "invalid-request"),
        ("another method", "PUT /taken HTTP/1.1\r\n\r\n".to_owned(), 405, "method-not-allowed"),
        ("another path", "GET /nowhere HTTP/1.1\r\n\r\n".to_owned(), 404, "not-found"),
        ("dot segments", "GET /shown/%2e%2E/ok HTTP/1.1\r\n\r\n".to_owned(), 404, "not-found"),
        ("two hosts", "GET /ok HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 400, "invalid-request"),
    ] {
        let answer = edge.ask(&request).await;
        let problem = answer.problem();
        assert_eq!(
            (answer.status, problem["type"].as_str().unwrap()),
            (status, format!("/problems/{slug}").as_str()),
            "{what}: {problem}"
        );
        assert!(answer.head.contains("cache-control: no-store"), "{what}: {}", answer.head);
    }
    assert!(edge.ask("PUT /taken HTTP/1.1\r\n\r\n").await.head.contains("allow: post"));
    assert!(edge.taken.lock().unwrap().is_empty());
    assert_eq!(edge.ask(&post(JSON, "{\"n\":1}")).await.status, 200);
    assert_eq!(*edge.taken.lock().unwrap(), [1]);
}

#[tokio::test]
async fn a_host_that_is_not_ours_is_421_and_none_is_400() {
    let edge = Edge::with(GENEROUS, "shop.internal", "").await;
    for (host, status) in [
        ("Host: evil.example\r\n", 421),
        ("Host: shop.internal\r\n", 200),
        ("Host: [::1]:1\r\n", 200),
        ("", 400),
    ] {
        let request = format!("GET /ok HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
        assert_eq!(answer(edge.send(&request).await).await.status, status, "{host:?}");
    }
}

#[tokio::test]
async fn a_listed_origin_may_ask_and_read_and_no_other() {
    let edge = Edge::with(GENEROUS, "", "https://shop.example").await;
    let preflight = |origin: &str| {
        format!("OPTIONS /taken HTTP/1.1\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: POST\r\n\r\n")
    };
    let listed = edge.ask(&preflight("https://shop.example")).await;
    assert_eq!(listed.status, 204);
    assert!(listed.head.contains("access-control-allow-origin: https://shop.example"), "{}", listed.head);
    assert_eq!(edge.ask(&preflight("https://evil.example")).await.status, 403);
    let from = [JSON, "Origin: https://shop.example\r\nSec-Fetch-Site: cross-site\r\n"].concat();
    let asked = edge.ask(&post(&from, "{\"n\":3}")).await;
    assert_eq!(asked.status, 200);
    assert!(asked.head.contains("access-control-allow-origin: https://shop.example"), "{}", asked.head);
    assert!(asked.head.contains("vary: origin"), "{}", asked.head);
}

#[tokio::test]
async fn head_is_get_without_its_body() {
    let edge = Edge::start(GENEROUS).await;
    let (get, head) =
        (edge.ask("GET /shown HTTP/1.1\r\n\r\n").await, edge.ask("HEAD /shown HTTP/1.1\r\n\r\n").await);
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let length = format!("content-length: {}", get.body.len());
    assert!(get.head.contains(&length) && head.head.contains(&length), "{}", head.head);
}
