//! Deliveries over a real Postgres, to a receiver that the test holds up.

use std::{collections::HashMap, io, net::IpAddr, sync::Mutex};

use amends_orders::{webhook_deliveries::NewDelivery, webhooks::NewWebhook};
use amends_postgres::MIGRATOR;
use amends_testkit::{
    TestDatabase, TlsHttp, eventually,
    tls::{Authority, Flaw},
};
use amends_webhooks::{Resolver, RetryPolicy, SigningSecret};
use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use futures::{FutureExt, future::BoxFuture};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::*;

const LONG: Duration = Duration::from_secs(90);

struct World {
    test: TestDatabase,
    webhooks: WebhookStore,
    deliveries: DeliveryStore,
    database: Database,
    keys: Arc<SealingKeys>,
}

impl World {
    async fn new() -> Self {
        let test = amends_testkit::database(&MIGRATOR, "engine").await;
        let pool = amends_pool::connect(&test.role_url("amends_engine"), 4, "test").unwrap();
        let (webhooks, deliveries) = (WebhookStore::new(pool.clone()), DeliveryStore::new(pool.clone()));
        let keys = Arc::new(SealingKeys::read(&"5a".repeat(32).into()).unwrap());
        Self { test, webhooks, deliveries, database: pool.into(), keys }
    }

    async fn webhook(&self, url: &str) -> Uuid {
        let id = Uuid::now_v7();
        let secret = self.keys.seal(&secret_place(id), SigningSecret::draw().show());
        let (url, format) = (url.to_owned(), "event".to_owned());
        let new = NewWebhook { id, url, types: vec!["order.*".into()], format, secret };
        self.webhooks.create(&new).await.unwrap().unwrap().id
    }

    /// Plans events of an order, of which the first has this number.
    async fn plan(&self, webhook: Uuid, numbers: std::ops::RangeInclusive<i64>) -> Uuid {
        let order = Uuid::now_v7();
        let new = |sequence: i64| NewDelivery {
            id: fan_out::delivery_id(chrono::Utc::now(), sequence),
            webhook_id: webhook,
            order_id: Some(order),
            sequence,
            event_type: "order.paid".into(),
            event_id: format!("{order}/{sequence}"),
            event: json!({ "order": order, "sequence": sequence }).to_string(),
        };
        self.deliveries.plan(&numbers.map(new).collect::<Vec<_>>()).await.unwrap();
        order
    }

    /// Delivers until the token is cancelled.
    fn deliver(&self, sender: Sender) -> (CancellationToken, JoinHandle<()>) {
        let second = Duration::from_secs(1);
        let deliverer = Arc::new(Deliverer {
            webhooks: self.webhooks.clone(),
            deliveries: self.deliveries.clone(),
            orders: OrderStore::new(self.database.clone()),
            keys: Arc::clone(&self.keys),
            sender,
            policy: RetryPolicy { least: second, most: second, patience: LONG },
            planned: Arc::new(Notify::new()),
        });
        let stop = CancellationToken::new();
        (stop.clone(), tokio::spawn(deliverer.run(stop)))
    }

    async fn statuses(&self, webhook: Uuid) -> Vec<(String, i32)> {
        let all = amends_orders::webhook_deliveries::DeliveryStatus::ALL;
        let page = self.deliveries.list(webhook, &all, None, 100).await.unwrap();
        page.items.into_iter().map(|delivery| (delivery.status, delivery.attempts)).collect()
    }
}

fn sender(resolver: Arc<dyn Resolver>) -> Sender {
    Sender::new(resolver, Reach::Anywhere, LONG).unwrap()
}

/// What a receiver has got, in order; and how many of an order's events it is answering.
#[derive(Default)]
struct Got {
    events: Vec<(String, i64)>,
    answering: HashMap<String, usize>,
    /// Whether it got an event of an order while it was answering another one of it.
    overlapped: bool,
}

#[derive(Clone)]
struct Receiver {
    got: Arc<Mutex<Got>>,
    number: watch::Sender<usize>,
    /// The first event of the first order is answered when it has got this many.
    answers_first_after: usize,
}

async fn receive(State(receiver): State<Receiver>, Json(event): Json<Value>) -> StatusCode {
    let (order, sequence) =
        (event["order"].as_str().unwrap().to_owned(), event["sequence"].as_i64().unwrap());
    let number = {
        let mut got = receiver.got.lock().unwrap();
        got.events.push((order.clone(), sequence));
        let answering = got.answering.entry(order.clone()).or_default();
        *answering += 1;
        got.overlapped |= *answering > 1;
        got.events.len()
    };
    receiver.number.send_replace(number);
    if number == 1 {
        let mut numbers = receiver.number.subscribe();
        numbers.wait_for(|number| *number >= receiver.answers_first_after).await.unwrap();
    }
    *receiver.got.lock().unwrap().answering.get_mut(&order).unwrap() -= 1;
    StatusCode::NO_CONTENT
}

async fn receiver(answers_first_after: usize) -> (Receiver, String) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let receiver = Receiver { got: Arc::default(), number: watch::Sender::new(0), answers_first_after };
    let routes = Router::new().route("/hook", post(receive)).with_state(receiver.clone());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (receiver, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orders_events_are_sent_one_after_another_while_those_of_others_go_on() {
    let world = World::new().await;
    // The first order's first event is answered once all of the second order's have arrived.
    let (receiver, url) = receiver(5).await;
    let webhook = world.webhook(&url).await;
    let first = world.plan(webhook, 1..=4).await;
    let second = world.plan(webhook, 1..=4).await;
    let (stop, delivering) = world.deliver(sender(Arc::new(SystemResolver)));
    eventually("everything is delivered", LONG, || async {
        let statuses = world.statuses(webhook).await;
        (statuses.len() == 8 && statuses.iter().all(|(status, _)| status == "DELIVERED")).then_some(())
    })
    .await;
    stop.cancel();
    delivering.await.unwrap();
    let got = receiver.got.lock().unwrap();
    assert!(!got.overlapped, "two of an order's events at once: {:?}", got.events);
    for order in [first, second] {
        let numbers = got.events.iter().filter(|(of, _)| *of == order.to_string()).map(|(_, number)| *number);
        assert_eq!(numbers.collect::<Vec<_>>(), [1, 2, 3, 4]);
    }
}

/// Panics at the first look-up, and then returns this machine's address.
#[derive(Default)]
struct PanicsOnce(Mutex<bool>);

impl Resolver for PanicsOnce {
    fn resolve(&self, _: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let has_panicked = std::mem::replace(&mut *self.0.lock().unwrap(), true);
        async move {
            assert!(has_panicked, "a test");
            Ok(vec![IpAddr::from([127, 0, 0, 1])])
        }
        .boxed()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_sending_ends_a_lease_and_the_delivery_is_sent_by_the_next() {
    let world = World::new().await;
    let (receiver, url) = receiver(1).await;
    let webhook = world.webhook(&url.replace("127.0.0.1", "hooks.shop.example")).await;
    world.plan(webhook, 1..=1).await;
    let resolver = Arc::new(PanicsOnce::default());
    let (stop, delivering) = world.deliver(sender(Arc::clone(&resolver) as Arc<dyn Resolver>));
    eventually("the sender panics", LONG, || async { resolver.0.lock().unwrap().then_some(()) }).await;
    assert_eq!(world.statuses(webhook).await, [("PENDING".to_owned(), 0)]);
    eventually("the delivery is sent", LONG, || async {
        // The lease of what has panicked ends by itself, here at once.
        let ends = "UPDATE webhooks SET leased_until = now() WHERE leased_until IS NOT NULL";
        sqlx::query(ends).execute(&world.test.pool).await.unwrap();
        (receiver.got.lock().unwrap().events.len() == 1).then_some(())
    })
    .await;
    stop.cancel();
    delivering.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_says_why_a_certificate_is_refused_and_succeeds_once_its_authority_is_trusted() {
    let (world, directory) = (World::new().await, tempfile::tempdir().unwrap());
    let authority = Authority::new(directory.path(), "ours");
    let receiver = TlsHttp::start(&authority.issue("receiver", Flaw::None)).await;
    let webhook = world.webhook(&format!("https://localhost:{}/hook", receiver.address.port())).await;
    let order = world.plan(webhook, 1..=1).await;
    let delivery = world.deliveries.due(webhook, 1).await.unwrap()[0].id;
    let (stop, delivering) = world.deliver(sender(Arc::new(SystemResolver)));
    let reason = eventually("the certificate is refused", LONG, || async {
        world.deliveries.get(webhook, delivery).await.unwrap().unwrap().failure
    })
    .await;
    assert_eq!(reason, "the receiver's certificate is refused: no authority that is trusted has signed it");
    stop.cancel();
    delivering.await.unwrap();
    assert_eq!(receiver.received(), Vec::<String>::new());

    let pem = fs::read(authority.file()).unwrap();
    let trusting = Sender::trusting(Arc::new(SystemResolver), Reach::Anywhere, LONG, &pem).unwrap();
    let (stop, delivering) = world.deliver(trusting);
    eventually("it is delivered", LONG, || async {
        (world.statuses(webhook).await[0].0 == "DELIVERED").then_some(())
    })
    .await;
    assert!(receiver.received()[0].contains(&order.to_string()));
    stop.cancel();
    delivering.await.unwrap();
}
