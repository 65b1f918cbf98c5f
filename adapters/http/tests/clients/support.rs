//! A listener with a few routes, and clients that send exactly what a test wants.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use amends_http::{Limits, ProblemDetails, Rules, accept, body, guarded, query, serve};
use axum::{
    Json, Router,
    body::Body,
    body::Bytes,
    http::HeaderMap,
    middleware::from_fn,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Longer than anything that a test waits for, even on a busy machine.
pub const LONG: Duration = Duration::from_secs(60);

/// Limits that do not interfere with tests of other limits.
pub const GENEROUS: Limits = Limits { connections: 64, head: LONG, idle: LONG, write: LONG, drain: LONG };

pub struct Edge {
    pub address: SocketAddr,
    pub stop: CancellationToken,
    pub serving: JoinHandle<()>,
    /// Permits for the answers of `/slow`, one each.
    pub slow: Arc<Semaphore>,
    /// Number of requests of `/slow` that have been read.
    slow_read: watch::Receiver<usize>,
    /// The numbers that `/taken` received.
    pub taken: Arc<std::sync::Mutex<Vec<i64>>>,
}

#[derive(Serialize, Deserialize, garde::Validate)]
#[serde(deny_unknown_fields)]
struct Taken {
    #[garde(range(min = 0))]
    n: i64,
}

/// Size of the answer of `/large`: more than the sockets of both sides hold.
pub const LARGE: usize = 64 << 20;

impl Edge {
    pub async fn start(limits: Limits) -> Self {
        Self::with(limits, "", "").await
    }

    pub async fn with(limits: Limits, hosts: &str, origins: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, slow, taken) = (CancellationToken::new(), Arc::new(Semaphore::new(0)), Arc::default());
        let (permits, numbers) = (Arc::clone(&slow), Arc::clone(&taken));
        let (read, slow_read) = watch::channel(0);
        let slow_route = get(async move || {
            read.send_modify(|read| *read += 1);
            permits.acquire().await.unwrap().forget();
            "slow"
        });
        let taken_route = post(async move |headers: HeaderMap, bytes: Bytes| {
            let taken: Taken = body::read(&headers, &bytes)?;
            let numbers: Arc<std::sync::Mutex<Vec<i64>>> = numbers;
            numbers.lock().unwrap().push(taken.n);
            Ok::<_, ProblemDetails>(Json(json!({ "n": taken.n })))
        });
        let strict = Router::new()
            .route("/taken", taken_route)
            .route("/shown", get(async || Json(json!({ "shown": true }))))
            .route_layer(from_fn(accept::json))
            .route_layer(from_fn(query::none));
        let routes = strict
            .route("/ok", get(async || "ok"))
            .route("/slow", slow_route)
            .route("/large", get(async || Body::from(vec![0; LARGE])));
        let rules = Rules::new(address, hosts, origins).unwrap();
        let serving = tokio::spawn(serve(listener, guarded(routes, rules), limits, stop.clone()));
        Self { address, stop, serving, slow, slow_read, taken }
    }

    /// Waits until this many requests of `/slow` are being answered.
    pub async fn is_answering(&self, slow: usize) {
        let mut read = self.slow_read.clone();
        timeout(LONG, read.wait_for(|read| *read >= slow)).await.expect("they are read").unwrap();
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes and leaves the connection open.
    pub async fn send(&self, bytes: &str) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_bytes()).await.unwrap();
        stream
    }

    /// Sends a whole request on its own connection.
    pub async fn ask(&self, request: &str) -> HttpAnswer {
        let request =
            request.replacen("\r\n", &format!("\r\nHost: {}\r\nConnection: close\r\n", self.address), 1);
        answer(self.send(&request).await).await
    }
}

pub struct HttpAnswer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl HttpAnswer {
    pub fn problem(&self) -> Value {
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        let problem: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem["status"], self.status);
        problem
    }
}

/// Reads until the other side closes.
pub async fn answer(mut stream: TcpStream) -> HttpAnswer {
    let mut bytes = Vec::new();
    timeout(LONG, stream.read_to_end(&mut bytes)).await.expect("it is answered and closed").unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    HttpAnswer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

/// Waits until the other side has closed, whatever it sent before.
pub async fn is_closed(stream: &mut TcpStream) {
    let mut bytes = [0; 1024];
    let closed = async { while !matches!(stream.read(&mut bytes).await, Ok(0) | Err(_)) {} };
    timeout(LONG, closed).await.expect("it is closed");
}
