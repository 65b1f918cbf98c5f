//! SMS by a webhook: a real HTTP server that takes, fails, redirects, hangs and answers late.

use std::sync::{Arc, Mutex};

use amends_notification::Channel;
use amends_testkit::eventually;
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::{net::TcpListener, sync::watch};

use crate::world::{HASTY, LONG, World, by_sms, by_sms_within, silent};

/// What the provider does with the next message.
#[derive(Debug, Clone, Copy)]
enum Does {
    Answers(u16),
    /// Sends a body without an end.
    Floods,
    Hangs,
    /// It takes the message, and answers after its caller has given up.
    AnswersLate,
}

#[derive(Clone)]
struct Provider {
    does: watch::Sender<Does>,
    /// Headers and body of each message.
    received: Arc<Mutex<Vec<(HeaderMap, String)>>>,
}

async fn send(State(provider): State<Provider>, headers: HeaderMap, body: String) -> Response {
    provider.received.lock().unwrap().push((headers, body));
    let does = *provider.does.borrow();
    match does {
        Does::Answers(status @ 300..400) => {
            (StatusCode::from_u16(status).unwrap(), [("location", "/elsewhere")]).into_response()
        }
        Does::Answers(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Does::Floods => Body::from_stream(futures::stream::repeat_with(|| {
            Ok::<_, std::convert::Infallible>("x".repeat(1 << 16))
        }))
        .into_response(),
        Does::Hangs => std::future::pending().await,
        Does::AnswersLate => {
            // By then its caller has given up, and the test goes on.
            let mut does = provider.does.subscribe();
            let _ = does.wait_for(|does| !matches!(does, Does::AnswersLate)).await;
            StatusCode::OK.into_response()
        }
    }
}

impl Provider {
    async fn start() -> (Self, String) {
        let provider = Self { does: watch::Sender::new(Does::Answers(204)), received: Arc::default() };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/send", listener.local_addr().unwrap());
        let routes = Router::new().route("/send", post(send)).with_state(provider.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (provider, url)
    }

    fn does(&self, does: Does) {
        self.does.send_replace(does);
    }
}

#[tokio::test]
async fn a_message_is_posted_once_and_signed_as_the_standard_has_it() {
    let (world, (provider, url)) = (World::new().await, Provider::start().await);
    let sender = world.sender(Channel::Sms, &by_sms(&url));
    let id = world.queue("order.refunded", Channel::Sms).await;
    assert_eq!(sender.run_once().await.unwrap(), 1);
    let row = world.row(id).await;
    assert_eq!((row.says(), row.address.as_deref()), (("SENT", None, 1), Some("+4***7")));
    let received = provider.received.lock().unwrap().clone();
    let [(headers, body)] = received.as_slice() else { panic!("{received:?}") };
    let said: Value = serde_json::from_str(body).unwrap();
    let text = format!("We have paid back 12.50 EUR for your order {}.", crate::world::ORDER);
    assert_eq!(said, json!({ "to": "+4366455566677", "text": text }));
    assert_eq!(headers["webhook-id"], id.to_string());
    let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    let at = headers["webhook-timestamp"].to_str().unwrap();
    mac.update(format!("{id}.{at}.{body}").as_bytes());
    let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    assert_eq!(headers["webhook-signature"], signature);
}

#[tokio::test]
async fn what_a_provider_refuses_has_failed_and_what_it_may_take_later_is_posted_again_with_the_same_id() {
    let (world, (provider, url)) = (World::new().await, Provider::start().await);
    let sender = world.sender(Channel::Sms, &by_sms(&url));
    let hasty = world.sender(Channel::Sms, &by_sms_within(&url, HASTY));
    for (does, status, reason) in [
        (Does::Answers(400), "FAILED", "sms_400"),
        (Does::Answers(410), "FAILED", "sms_410"),
        (Does::Answers(408), "QUEUED", "sms_408"),
        (Does::Answers(425), "QUEUED", "sms_425"),
        (Does::Answers(429), "QUEUED", "sms_429"),
        (Does::Answers(302), "QUEUED", "sms_302"),
        (Does::Answers(500), "QUEUED", "sms_500"),
        (Does::Answers(503), "QUEUED", "sms_503"),
        (Does::Hangs, "QUEUED", "sms_timeout"),
        (Does::AnswersLate, "QUEUED", "sms_timeout"),
    ] {
        provider.does(does);
        provider.received.lock().unwrap().clear();
        let id = world.queue("order.created", Channel::Sms).await;
        let first = if reason == "sms_timeout" { &hasty } else { &sender };
        first.run_once().await.unwrap();
        assert_eq!(world.row(id).await.says(), (status, Some(reason), 1), "{does:?}");
        provider.does(Does::Answers(200));
        world.make_due().await;
        sender.run_once().await.unwrap();
        let is_again = status == "QUEUED";
        assert_eq!(world.row(id).await.status == "SENT", is_again, "{does:?}");
        let received = provider.received.lock().unwrap().clone();
        assert_eq!(received.len(), 1 + usize::from(is_again), "{does:?}: no redirect is followed");
        assert!(received.iter().all(|(headers, _)| headers["webhook-id"] == id.to_string()), "{does:?}");
    }
}

#[tokio::test]
async fn an_answer_without_an_end_is_not_read() {
    let (world, (provider, url)) = (World::new().await, Provider::start().await);
    provider.does(Does::Floods);
    let id = world.queue("order.created", Channel::Sms).await;
    world.sender(Channel::Sms, &by_sms(&url)).run_once().await.unwrap();
    assert_eq!(world.row(id).await.says(), ("SENT", None, 1));
}

#[tokio::test]
async fn a_provider_that_hangs_delays_no_e_mail() {
    let (world, (provider, url)) = (World::new().await, Provider::start().await);
    provider.does(Does::Hangs);
    let sms = world.queue("order.created", Channel::Sms).await;
    let email = world.queue("order.created", Channel::Email).await;
    let (hanging, other) =
        (world.sender(Channel::Sms, &by_sms(&url)), world.sender(Channel::Email, &silent()));
    let hanging = tokio::spawn(async move { hanging.run_once().await });
    eventually("the provider is asked", LONG, || async {
        (!provider.received.lock().unwrap().is_empty()).then_some(())
    })
    .await;
    other.run_once().await.unwrap();
    assert_eq!(world.row(email).await.status, "SKIPPED");
    assert_eq!(world.row(sms).await.status, "QUEUED");
    hanging.abort();
}
