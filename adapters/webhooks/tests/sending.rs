//! A sender against real receivers that are slow, large, elsewhere, or hostile.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use amends_testkit::{
    TlsHttp,
    tls::{Authority, Flaw},
};
use amends_webhooks::{
    Answer, CertificateFault, Reach, Resolver, SendFault, Sender, SenderError, SigningSecret, SystemResolver,
    sender::Message,
    signature::{ID, SIGNATURE, TIMESTAMP},
};
use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse, Redirect},
    routing::any,
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const PATIENT: Duration = Duration::from_secs(30);
const HASTY: Duration = Duration::from_millis(300);

/// A resolver that returns the next of these addresses at each look-up, and the last one from then on.
#[derive(Default)]
struct Scripted {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    asked: AtomicUsize,
}

impl Scripted {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |answer: &&[&str]| answer.iter().map(|address| address.parse().unwrap()).collect();
        Arc::new(Self {
            answers: Mutex::new(answers.iter().map(parse).collect()),
            asked: AtomicUsize::new(0),
        })
    }
}

impl Resolver for Scripted {
    fn resolve(&self, _: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        async move { answer.ok_or_else(|| io::Error::other("no such name")) }.boxed()
    }
}

/// A receiver, and the number of connections that it has accepted.
async fn listening() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn serving(router: Router) -> String {
    let (listener, address) = listening().await;
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}/hook")
}

fn sender(reach: Reach, timeout: Duration) -> Sender {
    Sender::new(Arc::new(SystemResolver), reach, timeout).unwrap()
}

async fn send(sender: &Sender, url: &str) -> Result<Answer, SendFault> {
    let message = Message { id: "msg_1", timestamp: 1_700_000_000, body: b"{}", traceparent: None };
    sender.send(url, &[SigningSecret::draw()], message).await
}

#[tokio::test]
async fn a_message_arrives_whole_with_the_standards_headers_and_its_answer_comes_back() {
    let echo = async |request: Request| {
        let (head, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let mut said = String::from_utf8(body.to_vec()).unwrap();
        for name in [ID, TIMESTAMP, SIGNATURE, "content-type", "user-agent"] {
            said.push_str(&format!("\n{name}: {}", head.headers[name].to_str().unwrap()));
        }
        (StatusCode::ACCEPTED, said)
    };
    let url = serving(Router::new().route("/hook", axum::routing::post(echo))).await;
    let answer = send(&sender(Reach::Anywhere, PATIENT), &url).await.unwrap();
    assert_eq!(answer.status, 202);
    let lines: Vec<&str> = answer.body.lines().collect();
    assert_eq!(lines[..3], ["{}", "webhook-id: msg_1", "webhook-timestamp: 1700000000"]);
    assert!(lines[3].starts_with("webhook-signature: v1,"), "{lines:?}");
    assert_eq!(lines[4], "content-type: application/json");
    assert!(lines[5].starts_with("user-agent: Amends/"), "{lines:?}");
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let followed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&followed);
    let router = Router::new().route("/hook", any(async || Redirect::temporary("/other"))).route(
        "/other",
        any(move || {
            count.fetch_add(1, Ordering::SeqCst);
            async { "followed" }
        }),
    );
    let answer = send(&sender(Reach::Anywhere, PATIENT), &serving(router).await).await.unwrap();
    assert_eq!((answer.status, followed.load(Ordering::SeqCst)), (307, 0));
}

#[tokio::test]
async fn of_an_answer_of_ten_megabytes_only_the_beginning_is_read_and_the_connection_is_closed() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let large = move || {
        let count = Arc::clone(&count);
        let chunks = stream::iter(0..10_000).map(move |_| {
            count.fetch_add(1_000, Ordering::SeqCst);
            Ok::<_, io::Error>("\u{0}a".repeat(500))
        });
        async move { (StatusCode::OK, Body::from_stream(chunks)).into_response() }
    };
    let url = serving(Router::new().route("/hook", any(large))).await;
    let answer = send(&sender(Reach::Anywhere, PATIENT), &url).await.unwrap();
    assert_eq!((answer.status, answer.body), (200, "a".repeat(1_000)));
    assert!(sent.load(Ordering::SeqCst) < 10_000_000, "the rest was not asked for");
}

#[tokio::test]
async fn a_receiver_that_hangs_before_its_answer_is_late_and_one_that_hangs_in_its_body_has_answered() {
    let hang = async || std::future::pending::<()>().await;
    let url = serving(Router::new().route("/hook", any(hang))).await;
    let begun = Instant::now();
    assert_eq!(send(&sender(Reach::Anywhere, HASTY), &url).await, Err(SendFault::Late));
    assert!(begun.elapsed() < PATIENT);

    let endless = async || {
        ([(header::CONTENT_TYPE, "text/plain")], Body::from_stream(stream::pending::<io::Result<String>>()))
    };
    let url = serving(Router::new().route("/hook", any(endless))).await;
    // Long enough for the head of the answer, also on a busy machine.
    let answer = send(&sender(Reach::Anywhere, PATIENT / 3), &url).await;
    assert_eq!(answer, Ok(Answer { status: 200, body: String::new() }));
}

#[tokio::test]
async fn a_receiver_that_is_down_breaks_off_or_speaks_no_http_is_a_fault() {
    let (listener, address) = listening().await;
    drop(listener);
    let sender = sender(Reach::Anywhere, PATIENT);
    assert_eq!(send(&sender, &format!("http://{address}/")).await, Err(SendFault::Unconnected));
    for said in ["", "HTTP/1.1 200", "evil\r\n\r\n"] {
        let (listener, address) = listening().await;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(said.as_bytes()).await;
        });
        assert_eq!(send(&sender, &format!("http://{address}/")).await, Err(SendFault::Broken), "{said}");
    }
    // TLS is asked of a receiver that has none.
    let url = serving(Router::new()).await.replace("http:", "https:");
    assert_eq!(send(&sender, &url).await, Err(SendFault::Unconnected));
}

#[tokio::test]
async fn a_name_that_turns_to_this_machine_at_its_second_look_up_is_refused_and_nothing_connects() {
    let (listener, address) = listening().await;
    let url = format!("https://hooks.shop.example:{}/", address.port());
    // The first address is public, and no machine of ours: at best there is no answer in time.
    let resolver = Scripted::new(&[&["240.0.0.1"], &["127.0.0.1"]]);
    let open = Sender::new(Arc::clone(&resolver) as Arc<dyn Resolver>, Reach::Anywhere, HASTY).unwrap();
    assert_ne!(send(&open, &url).await, Err(SendFault::Closed));
    let guarded = Sender::new(Arc::clone(&resolver) as Arc<dyn Resolver>, Reach::Public, PATIENT).unwrap();
    assert_eq!(send(&guarded, &url).await, Err(SendFault::Closed));
    assert_eq!(resolver.asked.load(Ordering::SeqCst), 2, "once for each attempt");
    assert!(listener.accept().now_or_never().is_none(), "something connected");
}

#[tokio::test]
async fn the_address_that_was_checked_is_the_one_that_is_connected_to() {
    let (listener, address) = listening().await;
    // It hangs up at once.
    let accepted = tokio::spawn(async move { drop(listener.accept().await.unwrap()) });
    // A second look-up would lead nowhere.
    let resolver = Scripted::new(&[&["127.0.0.1"], &[]]);
    let sender = Sender::new(Arc::clone(&resolver) as Arc<dyn Resolver>, Reach::Anywhere, PATIENT).unwrap();
    let _ = send(&sender, &format!("http://hooks.shop.example:{}/", address.port())).await;
    assert_eq!(resolver.asked.load(Ordering::SeqCst), 1);
    assert!(accepted.await.is_ok());
}

#[tokio::test]
async fn one_closed_address_among_public_ones_is_enough_to_refuse_a_name() {
    for answer in [
        &["93.184.216.34", "127.0.0.1"][..],
        &["93.184.216.34", "::ffff:127.0.0.1"],
        &["169.254.169.254"],
        &["64:ff9b::a00:1"],
        &["fd00::1"],
    ] {
        let resolver = Scripted::new(&[answer]);
        let sender = Sender::new(resolver, Reach::Public, PATIENT).unwrap();
        let refused = send(&sender, "https://hooks.shop.example/").await;
        assert_eq!(refused, Err(SendFault::Closed), "{answer:?}");
    }
    let sender = Sender::new(Arc::new(Scripted::default()), Reach::Public, PATIENT).unwrap();
    assert_eq!(send(&sender, "https://hooks.shop.example/").await, Err(SendFault::Unresolved));
}

#[tokio::test]
async fn a_url_that_the_settings_no_longer_allow_is_refused_without_a_connection() {
    let (listener, address) = listening().await;
    let sender = sender(Reach::Public, PATIENT);
    for url in [format!("http://{address}/"), format!("https://{address}/"), "https://localhost/".to_owned()]
    {
        assert_eq!(send(&sender, &url).await, Err(SendFault::Closed), "{url}");
    }
    assert!(listener.accept().now_or_never().is_none());
}

#[tokio::test]
async fn an_https_receiver_is_sent_to_if_its_certificate_is_in_order_and_otherwise_the_fault_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let (ours, other) = (Authority::new(directory.path(), "ours"), Authority::new(directory.path(), "other"));
    let pem = std::fs::read(ours.file()).unwrap();
    let of_system = sender(Reach::Anywhere, PATIENT);
    let trusting = Sender::trusting(Arc::new(SystemResolver), Reach::Anywhere, PATIENT, &pem).unwrap();
    let refused = |fault| Err(SendFault::Certificate(fault));
    for (n, (authority, flaw, sender, expected)) in [
        (&ours, Flaw::None, &trusting, Ok(204)),
        (&ours, Flaw::None, &of_system, refused(CertificateFault::Issuer)),
        (&other, Flaw::None, &trusting, refused(CertificateFault::Issuer)),
        (&ours, Flaw::Expired, &trusting, refused(CertificateFault::Time)),
        (&ours, Flaw::OtherHost, &trusting, refused(CertificateFault::Host)),
    ]
    .into_iter()
    .enumerate()
    {
        let server = TlsHttp::start(&authority.issue(&format!("receiver-{n}"), flaw)).await;
        let url = format!("https://localhost:{}/hook", server.address.port());
        let answered = send(sender, &url).await.map(|answer| answer.status);
        assert_eq!(answered, expected, "{n}");
        assert_eq!(server.received().len(), usize::from(expected.is_ok()), "{n}");
    }
    let nothing = Sender::trusting(Arc::new(SystemResolver), Reach::Anywhere, PATIENT, b"no certificate");
    assert!(matches!(nothing, Err(SenderError::NoCertificate)), "{nothing:?}");
}
