//! A receiver of webhooks: what it gets, and what it answers.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use amends_testkit::eventually;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Response},
    routing::post,
};
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::support::LONG;

/// What a receiver answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// A status, without a body.
    Status(u16),
    /// 200 with ten megabytes.
    TenMegabytes,
    /// Nothing, ever.
    Nothing,
}

/// A message as it was received.
#[derive(Debug, Clone)]
pub struct Received {
    headers: HeaderMap,
    body: Bytes,
}

/// A receiver.
pub struct Receiver {
    pub address: SocketAddr,
    state: Arc<Mutex<ReceiverState>>,
    serving: JoinHandle<()>,
}

#[derive(Debug)]
struct ReceiverState {
    received: Vec<Received>,
    says: Says,
    /// Number of requests that are not answered yet, and the highest that it was.
    open: usize,
    most_open: usize,
}

/// A request, until it is answered or its sender has gone.
struct OpenRequest(Arc<Mutex<ReceiverState>>);

impl OpenRequest {
    fn of(state: &Arc<Mutex<ReceiverState>>) -> Self {
        let mut locked = state.lock().unwrap();
        locked.open += 1;
        locked.most_open = locked.most_open.max(locked.open);
        Self(Arc::clone(state))
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.lock().unwrap().open -= 1;
    }
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// The id of the message.
    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Returns whether the standard's own library accepts it for this secret.
    pub fn is_by(&self, secret: &str) -> bool {
        Webhook::new(secret).unwrap().verify(&self.body, &self.headers).is_ok()
    }
}

impl Receiver {
    /// Listens on any address.
    pub async fn start() -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Listens on this address.
    pub async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (received, says) = (Vec::new(), Says::Status(204));
        let state = Arc::new(Mutex::new(ReceiverState { received, says, open: 0, most_open: 0 }));
        let router = Router::new().route("/hook", post(receive)).with_state(Arc::clone(&state));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, state, serving }
    }

    pub fn url(&self) -> String {
        url_at(self.address)
    }

    /// Makes it answer this way from now on.
    pub fn says(&self, says: Says) {
        self.state.lock().unwrap().says = says;
    }

    /// Returns how many requests it had to answer at once, at most.
    pub fn most_at_once(&self) -> usize {
        self.state.lock().unwrap().most_open
    }

    /// Returns what it has received.
    pub fn received(&self) -> Vec<Received> {
        self.state.lock().unwrap().received.clone()
    }

    /// Waits until it has received messages of which this holds.
    pub async fn gets(&self, what: &str, holds: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        eventually(what, LONG, || {
            let received = self.received();
            let found = holds(&received).then_some(received);
            async move { found }
        })
        .await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Returns the URL of a receiver at this address.
pub fn url_at(address: SocketAddr) -> String {
    format!("http://{address}/hook")
}

async fn receive(
    State(state): State<Arc<Mutex<ReceiverState>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let _open = OpenRequest::of(&state);
    let says = {
        let mut state = state.lock().unwrap();
        state.received.push(Received { headers, body });
        state.says
    };
    let (status, body) = match says {
        Says::Status(status) => (status, Body::empty()),
        Says::TenMegabytes => (200, Body::from("x".repeat(10 << 20))),
        Says::Nothing => std::future::pending().await,
    };
    Response::builder().status(status).header("location", "/elsewhere").body(body).unwrap()
}
