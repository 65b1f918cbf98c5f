//! The server: HTTP/1.1 on one listener, for clients that may be slow, silent or hostile.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body as ResponseBody, http::Request};
use bytes::Bytes;
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::{HttpService, service_fn},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use crate::{
    ProblemDetails,
    connections::{Connection, Connections, Open, Phase},
    descriptors,
    socket::Socket,
};

/// What clients may use of a listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum number of connections. At the limit, the oldest half-sent one is closed, then the one that is idle
    /// longest.
    pub connections: usize,
    /// How long the head of a request may take to arrive.
    pub head: Duration,
    /// How long a connection is kept for the next request.
    pub idle: Duration,
    /// How long a client may read nothing of an answer.
    pub write: Duration,
    /// How long answers in progress may take once the listener stops.
    pub drain: Duration,
}

impl Limits {
    /// Returns the default limits, with this maximum of connections, or fewer if the limit of descriptors is lower.
    pub fn new(connections: usize) -> Self {
        Self {
            connections: descriptors::connections(connections),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            write: Duration::from_secs(20),
            drain: Duration::from_secs(5),
        }
    }

    /// Returns the interval between checks of the connections.
    fn sweep(&self) -> Duration {
        (self.head.min(self.idle) / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }
}

/// The address from which a connection was made: an extension of each of its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress(pub IpAddr);

/// The largest head of a request, in bytes; a larger one is answered with 431.
const HEAD_LARGEST: usize = 64 << 10;
/// The maximum number of headers of a request.
const HEADERS_MOST: usize = 100;
/// Pause after an error of the listener itself, such as a lack of descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(50);
/// How long the last answer to a client that is given up may take.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Serves until `stop` is cancelled and the answers in progress are sent. All other connections are dropped at once
/// then.
pub async fn serve(listener: TcpListener, app: Router, limits: Limits, stop: CancellationToken) {
    let connections = Connections::new(limits.connections);
    let tasks = TaskTracker::new();
    let mut sweep = interval(limits.sweep());
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut refusals = 0_u32;
    loop {
        let has_room = connections.has_room();
        tokio::select! {
            () = stop.cancelled() => break,
            _ = sweep.tick() => connections.sweep(limits.head, limits.idle),
            () = connections.one_ended(), if !has_room => {}
            accepted = listener.accept(), if has_room => match accepted {
                Ok((stream, peer)) => {
                    refusals = 0;
                    let open = connections.opened();
                    let peer = PeerAddress(peer.ip());
                    tasks.spawn(connection(stream, peer, open, app.clone(), limits, stop.clone()));
                }
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => {
                    refusals += 1;
                    if refusals.is_power_of_two() {
                        tracing::warn!(%error, refusals, "connections cannot be accepted");
                    }
                    sleep(ACCEPT_REST).await;
                }
            },
        }
        connections.make_room();
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// Returns whether the client went away before it was accepted.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn connection(
    stream: TcpStream,
    peer: PeerAddress,
    open: Open,
    app: Router,
    limits: Limits,
    stop: CancellationToken,
) {
    let this = &open.connection;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::trace!(%error, "a connection without nodelay");
    }
    let socket = TokioIo::new(Socket::new(stream, Arc::clone(this), limits.write));
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        this.enter(if request.body().is_end_stream() { Phase::Answering } else { Phase::Body });
        let body = |incoming| ResponseBody::new(Arriving { incoming, connection: Arc::clone(this) });
        let answer = app.clone().oneshot(request.map(body));
        async move {
            let answer = answer.await;
            // A body without a known length is a stream, and is being answered until it ends.
            if answer.as_ref().is_ok_and(|answer| answer.body().size_hint().exact().is_none()) {
                return answer.map(|a| {
                    a.map(|body| ResponseBody::new(Leaving { body, connection: Arc::clone(this) }))
                });
            }
            this.enter(Phase::Idle);
            answer
        }
    });
    // Our own sweep closes silent connections: hyper's timer does not distinguish an idle connection from a half-sent
    // head.
    let mut serving = http1::Builder::new()
        .header_read_timeout(None)
        .max_headers(HEADERS_MOST)
        .max_buf_size(HEAD_LARGEST)
        .serve_connection(socket, service);
    tokio::select! {
        served = &mut serving => {
            if let Err(error) = served {
                tracing::trace!(%error, "a connection ended early");
            }
            return;
        }
        () = this.closing() => return close(serving, this.phase()).await,
        () = stop.cancelled() => {}
    }
    if matches!(this.phase(), Phase::Opened | Phase::Head) {
        return;
    }
    Pin::new(&mut serving).graceful_shutdown();
    if timeout(limits.drain, serving).await.is_err() {
        tracing::warn!(phase = ?this.phase(), "closed a connection while stopping");
    }
}

/// Closes a connection that is not being answered.
async fn close<S>(mut serving: http1::Connection<TokioIo<Socket>, S>, phase: Phase)
where
    S: HttpService<Incoming, ResBody = ResponseBody>,
    S::Error: Into<axum::BoxError>,
{
    match phase {
        // An incomplete head. A client that has sent nothing gets no answer.
        Phase::Head => {
            let mut socket = serving.into_parts().io.into_inner();
            let last = ProblemDetails::too_slow().to_last_response();
            let _ = timeout(LAST_WORD, socket.write_all(&last)).await;
        }
        Phase::Opened | Phase::Body => {}
        // Its answer may still be on its way.
        Phase::Idle | Phase::Answering => {
            Pin::new(&mut serving).graceful_shutdown();
            let _ = timeout(LAST_WORD, serving).await;
        }
    }
}

/// A request's body, whose end is recorded.
struct Arriving {
    incoming: Incoming,
    connection: Arc<Connection>,
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        if frame.is_none() || self.incoming.is_end_stream() {
            self.connection.enter(Phase::Answering);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// An answer's body without a known length, whose end is recorded.
struct Leaving {
    body: ResponseBody,
    connection: Arc<Connection>,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.connection.enter(Phase::Idle);
    }
}

impl Body for Leaving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
