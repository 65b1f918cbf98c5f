//! What clients may use of a listener.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use amends_http::Limits;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Edge, GENEROUS, LONG, answer, is_closed};

const HALF_SENT: &str = "POST /taken HTTP/1.1\r\nHost: localhost\r\n";
const HALF_BODY: &str = "POST /taken HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{";

const SHORT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn at_the_cap_the_oldest_half_sent_connection_makes_room_for_a_good_request() {
    let edge = Edge::start(Limits { connections: 8, ..GENEROUS }).await;
    let mut silent = Vec::new();
    for n in 0..40 {
        silent.push(match n % 3 {
            0 => edge.connect().await,
            1 => edge.send(HALF_SENT).await,
            _ => edge.send(HALF_BODY).await,
        });
    }
    assert_eq!(edge.ask("GET /ok HTTP/1.1\r\n\r\n").await.status, 200);
    for stream in &mut silent[..30] {
        is_closed(stream).await;
    }
}

#[tokio::test]
async fn at_the_cap_a_request_that_is_being_answered_is_left_alone() {
    let edge = Edge::start(Limits { connections: 2, ..GENEROUS }).await;
    let mut slow = Vec::new();
    for _ in 0..2 {
        slow.push(edge.send("GET /slow HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await);
    }
    edge.is_answering(2).await;
    for _ in 0..10 {
        assert_eq!(edge.ask("GET /ok HTTP/1.1\r\n\r\n").await.status, 200);
    }
    edge.slow.add_permits(2);
    for slow in slow {
        assert_eq!(answer(slow).await.body, "slow");
    }
}

#[tokio::test]
async fn a_head_that_stops_halfway_is_answered_408_and_closed() {
    let edge = Edge::start(Limits { head: SHORT, ..GENEROUS }).await;
    let answer = answer(edge.send(HALF_SENT).await).await;
    assert_eq!((answer.status, answer.problem()["type"].as_str()), (408, Some("/problems/request-timeout")));
}

#[tokio::test]
async fn a_head_that_cannot_be_read_is_answered_with_a_problem_and_closed() {
    let edge = Edge::start(GENEROUS).await;
    let headers: String = (0..=100).map(|n| format!("X-{n}: 1\r\n")).collect();
    for (request, status, slug) in [
        (format!("GET /ok HTTP/1.1\r\n{headers}\r\n"), 431, "headers-too-large"),
        ("GET /ok HTTP/1.1\r\nHost: localhost\r\n: 1\r\n\r\n".to_owned(), 400, "invalid-request"),
        ("GET /ok HTTP/3.0\r\nHost: localhost\r\n\r\n".to_owned(), 400, "invalid-request"),
    ] {
        let answer = answer(edge.send(&request).await).await;
        let problem = answer.problem();
        assert_eq!((answer.status, &problem["type"]), (status, &format!("/problems/{slug}").into()));
        assert!(answer.head.contains("connection: close"), "{}", answer.head);
        let id = format!("x-request-id: {}", problem["requestId"].as_str().unwrap());
        assert!(answer.head.contains(&id), "{}", answer.head);
    }
    assert_eq!(edge.ask("GET /ok HTTP/1.1\r\n\r\n").await.status, 200);
}

#[tokio::test]
async fn a_connection_on_which_nothing_comes_is_closed_without_a_word() {
    let edge = Edge::start(Limits { head: SHORT, ..GENEROUS }).await;
    let (mut stream, mut bytes) = (edge.connect().await, Vec::new());
    tokio::time::timeout(LONG, stream.read_to_end(&mut bytes)).await.expect("it is closed").unwrap();
    assert_eq!(bytes, b"");
}

#[tokio::test]
async fn a_connection_that_is_kept_and_not_used_is_closed() {
    let edge = Edge::start(Limits { idle: SHORT, ..GENEROUS }).await;
    let stream = edge.send("GET /ok HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(answer(stream).await.body, "ok");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stops_halfway_is_answered_408_and_changes_nothing() {
    let edge = Edge::start(GENEROUS).await;
    let answer = answer(edge.send(HALF_BODY).await).await;
    assert_eq!((answer.status, answer.problem()["type"].as_str()), (408, Some("/problems/request-timeout")));
    assert!(answer.head.contains("connection: close"), "{}", answer.head);
    assert!(edge.taken.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_given_up() {
    let edge = Edge::start(Limits { write: SHORT, drain: LONG, ..GENEROUS }).await;
    let mut greedy = edge.send("GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    // Nothing is read. The server stops only once no connection is left.
    greedy.peek(&mut [0]).await.unwrap();
    edge.stop.cancel();
    tokio::time::timeout(LONG / 2, edge.serving).await.expect("it is given up").unwrap();
    is_closed(&mut greedy).await;
}

#[tokio::test]
async fn a_stop_drops_what_is_silent_at_once_and_ends_what_is_under_way() {
    let edge = Edge::start(GENEROUS).await;
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(edge.connect().await);
        silent.push(edge.send(HALF_SENT).await);
        silent.push(kept(&edge).await);
    }
    let mut slow = edge.send("GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    edge.is_answering(1).await;
    let began = Instant::now();
    edge.stop.cancel();
    for stream in &mut silent {
        is_closed(stream).await;
    }
    assert!(!edge.serving.is_finished(), "an answer is under way");
    edge.slow.add_permits(1);
    let mut text = String::new();
    slow.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with("slow"), "{text}");
    edge.serving.await.unwrap();
    assert!(began.elapsed() < LONG, "no limit was waited for");
    assert!(TcpStream::connect(edge.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_stop_waits_for_a_body_no_longer_than_the_drain() {
    let edge = Edge::start(Limits { drain: SHORT, ..GENEROUS }).await;
    let mut half = edge.send(HALF_BODY).await;
    assert_eq!(edge.ask("GET /ok HTTP/1.1\r\n\r\n").await.status, 200);
    edge.stop.cancel();
    tokio::time::timeout(LONG / 2, edge.serving).await.expect("it ends").unwrap();
    is_closed(&mut half).await;
}

#[tokio::test]
async fn a_thousand_half_sent_heads_and_slow_bodies_keep_nobody_waiting() {
    amends_http::descriptors::raise_limit();
    let edge = Edge::start(Limits { connections: 256, ..GENEROUS }).await;
    let done = AtomicBool::new(false);
    let attack = async {
        let mut held = Vec::new();
        for n in 0..1_100 {
            held.push(edge.send(if n % 2 == 0 { HALF_SENT } else { HALF_BODY }).await);
            // A body that arrives byte by byte.
            if let Some(slow) = held.len().checked_sub(50).and_then(|n| held.get_mut(n | 1)) {
                let _ = slow.write_all(b" ").await;
            }
        }
        done.store(true, Ordering::Relaxed);
        held
    };
    let good = async {
        let mut served = 0;
        while !done.load(Ordering::Relaxed) || served == 0 {
            assert_eq!(edge.ask("GET /ok HTTP/1.1\r\n\r\n").await.status, 200);
            served += 1;
        }
    };
    let (held, ()) = tokio::join!(attack, good);
    assert_eq!(edge.ask("GET /ok HTTP/1.1\r\n\r\n").await.status, 200);
    drop(held);
}

/// Returns a connection on which a request was answered.
async fn kept(edge: &Edge) -> TcpStream {
    let mut stream = edge.connect().await;
    stream.write_all(b"GET /ok HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"ok") {
        let mut some = [0; 256];
        let length = stream.read(&mut some).await.unwrap();
        assert_ne!(length, 0, "it is kept");
        bytes.extend_from_slice(&some[..length]);
    }
    stream
}
