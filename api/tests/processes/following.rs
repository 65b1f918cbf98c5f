//! An order's events as a stream: each once, in order, from any place on.

use std::time::{Duration, Instant};

use amends_api::{auth::Role, routes::STREAMS_MOST};
use futures::future::join_all;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    LONG,
    issuer::token,
    shop::{Shop, read},
};

/// A stream that is read.
struct Events {
    answer: Response,
    unread: String,
}

/// A part of a stream.
#[derive(Debug, Clone, PartialEq)]
enum Part {
    Event { id: String, data: Value },
    Comment,
}

impl Events {
    async fn of(shop: &Shop, order: &str, token: &str, last: Option<&str>) -> Self {
        let mut request = shop.ask(Method::GET, &format!("/api/orders/{order}/events"), Some(token));
        request = request.header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { answer, unread: String::new() }
    }

    /// Returns the next part; `None` once the stream has ended as a whole.
    async fn part(&mut self) -> Option<Part> {
        loop {
            if let Some((part, rest)) = self.unread.split_once("\n\n") {
                let (part, rest) = (part.to_owned(), rest.to_owned());
                self.unread = rest;
                let field = |name: &str| {
                    part.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
                };
                return Some(match (field("id:"), field("data:")) {
                    (Some(id), Some(data)) => Part::Event { id, data: serde_json::from_str(&data).unwrap() },
                    _ => Part::Comment,
                });
            }
            let chunk = timeout(LONG, self.answer.chunk()).await.expect("a part in time").unwrap()?;
            self.unread.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// Returns the next event.
    async fn event(&mut self) -> (String, Value) {
        loop {
            if let Part::Event { id, data } = self.part().await.expect("an event") {
                return (id, data);
            }
        }
    }

    /// Reads up to the event after which the order has this status.
    async fn up_to(&mut self, status: &str) -> Vec<(String, Value)> {
        let mut met = Vec::new();
        let reading = async {
            while met.last().is_none_or(|(_, data): &(String, Value)| data["status"] != status) {
                met.push(self.event().await);
            }
        };
        let is_met = timeout(LONG, reading).await.is_ok();
        assert!(is_met, "{status} in time, not only {met:?}");
        met
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_followed_to_its_end_and_again_from_any_event_though_the_api_was_killed() {
    let mut shop = Shop::open().await;
    let (customer, viewer) = (token("c-a", &[Role::Customer]), token("vera", &[Role::Viewer]));
    // Stock first: the api sends the reservation by itself, and without stock it would be refused.
    let _inventory = shop.stack.start(&["worker", "inventory"]).await;
    shop.stack.stock("mug", 5).await;
    let order = shop.place_for("c-a").await;
    let mut live = Events::of(&shop, &order, &customer, None).await;
    // Without an engine no reply changes it yet.
    assert_eq!(live.event().await.1["status"], "PENDING", "what has happened comes first");
    let roles = [&["engine"][..], &["worker", "payment"], &["worker", "shipment"]];
    let _running = join_all(roles.into_iter().map(|role| shop.stack.start(role))).await;
    let seen = live.up_to("FULFILLED").await;
    let statuses: Vec<&Value> = seen.iter().map(|(_, data)| &data["status"]).collect();
    assert_eq!(statuses, ["CONFIRMED", "PAID", "FULFILLED"]);
    let text = format!("{seen:?}");
    for hidden in ["reserve", "attempt", "\"sent\"", "commandId"] {
        assert!(!text.contains(hidden), "{hidden}: {text}");
    }
    drop(live);

    shop.api.kill_and_restart(&shop.stack);
    shop.api.ready().await;
    let mut whole = Events::of(&shop, &order, &customer, None).await;
    let all = whole.up_to("FULFILLED").await;
    assert_eq!(all[1..], seen);
    let mut rest = Events::of(&shop, &order, &customer, Some(&all[1].0)).await;
    assert_eq!(rest.up_to("FULFILLED").await, all[2..]);
    let (_, timeline) = shop.get(&format!("/api/orders/{order}/timeline"), &viewer).await;
    let mut full = Events::of(&shop, &order, &viewer, None).await;
    for item in timeline["items"].as_array().unwrap() {
        let (_, data) = full.event().await;
        assert_eq!((&data["revision"], &data["type"]), (&item["revision"], &item["type"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_stream_of_this_order_is_refused() {
    let shop = Shop::open().await;
    let customer = token("c-a", &[Role::Customer]);
    let order = shop.place_for("c-a").await;
    let path = format!("/api/orders/{order}/events");
    let ask = |headers: &[(&str, &str)], query: &str| {
        let request = shop.ask(Method::GET, &format!("{path}{query}"), Some(&customer));
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send()
    };
    let later = format!("{}.1", uuid::Uuid::max());
    for (headers, query, status) in [
        (&[("last-event-id", "7")][..], "", 400),
        (&[("last-event-id", "")], "", 400),
        (&[("last-event-id", &*later)], "", 400),
        (&[("accept", "application/json")], "", 406),
        (&[], "?since=1", 400),
    ] {
        let (answered, problem) = read(ask(headers, query).await.unwrap()).await;
        assert_eq!(answered, status, "{headers:?}{query}: {problem}");
        assert!(problem["type"].is_string(), "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_stream_says_so_every_15_seconds_and_ends_whole_when_the_api_stops() {
    let shop = Shop::open().await;
    let order = shop.place_for("c-a").await;
    // Before the api begins to count.
    let begun = Instant::now();
    let mut events = Events::of(&shop, &order, &token("c-a", &[Role::Customer]), None).await;
    events.event().await;
    assert_eq!(events.part().await, Some(Part::Comment));
    let waited = begun.elapsed();
    // Proxies close a connection that is silent for a minute.
    assert!(Duration::from_secs(15) <= waited && waited < Duration::from_secs(60), "{waited:?}");
    let Shop { api, .. } = shop;
    let (part, ()) = tokio::join!(events.part(), api.stop());
    assert_eq!(part, None, "the stream ended by its last chunk, not by a broken connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_bounded_and_the_rest_of_the_api_goes_on_beside_them() {
    let shop = Shop::open().await;
    let order = shop.place_for("c-a").await;
    let customer = token("c-a", &[Role::Customer]);
    let request = format!(
        "GET /api/orders/{order}/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {customer}\r\n\r\n"
    );
    let open = async || {
        let mut stream = TcpStream::connect(shop.api.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        (stream, String::from_utf8_lossy(&head).into_owned())
    };
    let mut streams = Vec::new();
    while streams.len() < STREAMS_MOST {
        let opened = join_all((0..50).map(|_| open())).await;
        assert!(opened.iter().all(|(_, head)| head == "HTTP/1.1 200"), "{:?}", opened.last());
        streams.extend(opened);
    }
    assert_eq!(open().await.1, "HTTP/1.1 503");
    let (status, now) = shop.get(&format!("/api/orders/{order}"), &customer).await;
    assert_eq!((status, &now["status"]), (200, &json!("PENDING")));
    shop.place_for("c-b").await;
    // A place is free once a client has gone.
    streams.clear();
    amends_testkit::eventually("a place is free", LONG, || async {
        (open().await.1 == "HTTP/1.1 200").then_some(())
    })
    .await;
}
