//! The publisher over a real Postgres and a topic that the test breaks: each event of an order is sent once and in order,
//! and planned for the webhooks before the watermark moves.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use amends_engine::{
    core::{Actor, Did, Entry, Event, NewSaga, Occurrence, Saga, start},
    port::{SagaStore, Wants, Write},
};
use amends_orders::{
    NewOrder, Placed,
    webhook_deliveries::{DeliveryStatus, DeliveryStore},
    webhooks::{NewWebhook, WebhookStore},
};
use amends_postgres::{MIGRATOR, PgSagaStore};
use amends_protocol::{
    Json,
    transport::{self, Assignment, Inbound},
};
use amends_testkit::TestDatabase;
use amends_workflows::{Settings, order_fulfilment};
use serde_json::{Value, json};
use tokio::sync::Notify;
use uuid::Uuid;

use super::*;

/// Keeps what is sent.
#[derive(Default)]
struct Topic(Mutex<Vec<Value>>);

impl Sink for &Topic {
    async fn send(&self, messages: Vec<Outbound>) -> Result<(), transport::Error> {
        let events = messages.iter().map(|message| serde_json::from_slice(&message.bytes).unwrap());
        self.0.lock().unwrap().extend(events);
        Ok(())
    }

    async fn dead_letter(&self, _: &Inbound, _: &str) -> Result<(), transport::Error> {
        Ok(())
    }
}

impl Topic {
    /// Returns the number and type of each event, and forgets them.
    fn take(&self) -> Vec<String> {
        let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
        let events = std::mem::take(&mut *self.0.lock().unwrap());
        events.iter().map(|event| format!("{} {}", text(event, "sequence"), text(event, "type"))).collect()
    }
}

struct World {
    test: TestDatabase,
    database: Database,
    webhooks: WebhookStore,
    deliveries: DeliveryStore,
}

impl World {
    async fn new() -> Self {
        let test = amends_testkit::database(&MIGRATOR, "engine").await;
        let pool = amends_pool::connect(&test.role_url("amends_engine"), 4, "test").unwrap();
        let (webhooks, deliveries) = (WebhookStore::new(pool.clone()), DeliveryStore::new(pool.clone()));
        Self { test, database: pool.into(), webhooks, deliveries }
    }

    /// A publisher of all slots.
    fn publisher<'a>(&self, topic: &'a Topic) -> Publisher<&'a Topic> {
        let workflows = amends_workflows::all(&Settings::default());
        let owned = Ownership::of(Assignment { generation: 1, partitions: vec![0], count: 1 });
        let fan_out = FanOut::new(&self.database.pool, Arc::new(Notify::new()));
        Publisher::new(workflows, &self.database, topic, owned, News::default(), fan_out)
    }

    /// Creates a webhook of these types.
    async fn webhook(&self, types: &[&str]) -> Uuid {
        let new = NewWebhook {
            id: Uuid::now_v7(),
            url: "https://a.example/".into(),
            types: types.iter().map(|named| (*named).to_owned()).collect(),
            format: "event".into(),
            secret: "sealed".into(),
        };
        self.webhooks.create(&new).await.unwrap().unwrap().id
    }

    /// Returns the types of the events that are planned for a webhook, in order.
    async fn planned(&self, webhook: Uuid) -> Vec<String> {
        let page = self.deliveries.list(webhook, &DeliveryStatus::ALL, None, 100).await.unwrap();
        page.items.into_iter().rev().map(|delivery| delivery.event_type).collect()
    }

    /// Places an order; returns its saga.
    async fn place(&self) -> Saga {
        let orders = OrderStore::new(self.database.clone());
        let now = orders.now().await.unwrap();
        let mut order = NewOrder {
            id: Uuid::now_v7(),
            saga: NewSaga { id: Uuid::now_v7(), business_key: String::new(), trace: None },
            subject: "storefront".into(),
            idempotency: None,
            customer_id: "c-1".into(),
            currency: "EUR".into(),
            total: 2500,
            lines: Json::from(json!([])),
            data: Json::from(json!({
                "customerId": "c-1", "currency": "EUR", "total": 2500, "paymentMethod": "card_approved",
                "lines": [{ "productId": "mug", "quantity": 2, "unitPrice": 1250 }],
            })),
            personal: Json::from(json!({})),
        };
        order.born(7, now);
        let fulfilment = order_fulfilment::definition(Settings::default());
        let birth = |order: &NewOrder, now| start(&fulfilment, order.saga.clone(), &order.data, now);
        match orders.place(now, &[order], birth).await.unwrap().pop() {
            Some(Placed::New { change, .. }) => change.saga,
            other => panic!("not placed: {other:?}"),
        }
    }

    /// Writes what has happened to a saga, an entry each.
    async fn happens(&self, saga: &mut Saga, what: Vec<(Event, Did)>) {
        let store = PgSagaStore::new(self.database.clone());
        let at = store.now().await.unwrap();
        let read_revision = saga.revision;
        let entry = |(revision, (event, did))| Entry {
            revision,
            core_version: saga.core_version,
            epoch: 0,
            occurrence: Occurrence { event, at, jitter: 0 },
            did,
        };
        let entries: Vec<Entry> = (read_revision + 1..).zip(what).map(entry).collect();
        saga.revision += u32::try_from(entries.len()).unwrap();
        let write = Write { read_revision, saga: saga.clone(), entries, wants: Wants::default() };
        assert_eq!(store.commit(&[write]).await.unwrap().written.len(), 1);
    }
}

fn becomes(label: &str) -> (Event, Did) {
    (Event::Woke, Did { label: Some(label.to_owned()), ..Did::default() })
}

#[tokio::test]
async fn every_event_of_an_order_is_published_once_with_its_number_and_planned_for_a_webhook() {
    let (world, topic) = (World::new().await, Topic::default());
    let mut publisher = world.publisher(&topic);
    let webhook = world.webhook(&["order.*", "refund.*"]).await;
    let by = Actor { who: "olga".into(), why: "changed her mind".into() };
    let refund = Did { sent: vec!["pay compensate".to_owned()], ..Did::default() };
    for (happens, expected) in [
        (
            vec![
                becomes(order_fulfilment::CONFIRMED),
                becomes(order_fulfilment::PAID),
                becomes(order_fulfilment::FULFILLED),
            ],
            ["1 order.created", "2 order.confirmed", "3 order.paid", "4 order.fulfilled"].as_slice(),
        ),
        (
            vec![(Event::CancelRequested(by), refund), becomes(order_fulfilment::CANCELLED)],
            &["1 order.created", "2 order.cancel.requested", "3 refund.requested", "4 order.cancelled"],
        ),
        (
            vec![becomes(order_fulfilment::CONFIRMED), becomes(order_fulfilment::PAYMENT_FAILED)],
            &["1 order.created", "2 order.confirmed", "3 order.failed"],
        ),
    ] {
        let mut saga = world.place().await;
        publisher.news.mark(7);
        publisher.run_once().await.unwrap();
        for one in happens {
            world.happens(&mut saga, vec![one]).await;
            publisher.news.mark(7);
            publisher.run_once().await.unwrap();
        }
        assert_eq!(topic.take(), expected);
        let types: Vec<&str> = expected.iter().map(|event| event.split_once(' ').unwrap().1).collect();
        let planned = world.planned(webhook).await;
        assert_eq!(planned[planned.len() - types.len()..], types);
    }
    let seen: BTreeSet<String> = world.planned(webhook).await.into_iter().collect();
    assert_eq!(seen, order_fulfilment::events::TYPES.map(str::to_owned).into(), "every type that there is");
}

#[tokio::test]
async fn what_could_not_be_planned_is_planned_by_the_next_publisher_because_the_watermark_stays() {
    let (world, topic) = (World::new().await, Topic::default());
    let webhook = world.webhook(&["order.*"]).await;
    let rename = async |from: &str, to: &str| {
        let sql = format!("ALTER TABLE {from} RENAME TO {to}");
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&world.test.pool).await.unwrap();
    };
    let mut saga = world.place().await;
    world
        .happens(&mut saga, vec![becomes(order_fulfilment::CONFIRMED), becomes(order_fulfilment::PAID)])
        .await;
    rename("webhook_deliveries", "away").await;
    let mut dying = world.publisher(&topic);
    dying.run_once().await.unwrap_err();
    // It stores how far it came, and ends.
    dying.end().await.unwrap();
    assert_eq!(topic.take(), Vec::<String>::new(), "nothing is sent before it is planned");

    rename("away", "webhook_deliveries").await;
    let mut next = world.publisher(&topic);
    next.run_once().await.unwrap();
    assert_eq!(topic.take(), ["1 order.created", "2 order.confirmed", "3 order.paid"]);
    assert_eq!(world.planned(webhook).await, ["order.created", "order.confirmed", "order.paid"]);
    // Published again, it is planned once.
    let mut again = world.publisher(&topic);
    again.run_once().await.unwrap();
    assert_eq!(topic.take().len(), 3);
    assert_eq!(world.planned(webhook).await.len(), 3);
}

#[tokio::test]
async fn a_webhook_gets_what_happens_right_after_its_creation_and_nothing_from_before() {
    let (world, topic) = (World::new().await, Topic::default());
    let mut publisher = world.publisher(&topic);
    let mut early = world.place().await;
    publisher.news.mark(7);
    publisher.run_once().await.unwrap();
    for _ in 0..5 {
        // The publisher has just published something, and goes on at once.
        let webhook = world.webhook(&["order.created"]).await;
        let late = world.place().await;
        world.happens(&mut early, vec![becomes(order_fulfilment::CONFIRMED)]).await;
        publisher.news.mark(7);
        publisher.run_once().await.unwrap();
        let due = world.deliveries.due(webhook, 10).await.unwrap();
        let orders: Vec<Option<String>> =
            due.iter().map(|due| due.order_id.map(|order| order.to_string())).collect();
        assert_eq!(orders, [Some(late.business_key)]);
    }
}
