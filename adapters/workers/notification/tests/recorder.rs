//! Events in, rows out: over a real Postgres and a transport controlled by the test.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use amends_notification::{MIGRATOR, OpenChannels, Recorder, TOPICS, has_template, preview};
use amends_protocol::transport::{Assignment, Batch, Error, Inbound, Outbound, Sink, Source};
use chrono::{TimeDelta, Utc};
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

const ORDER: Uuid = Uuid::from_u128(0x01a2_0191_dc04_70a7_b9de_b929_99bc_7f56);
const BOTH: OpenChannels = OpenChannels { email: true, sms: true };

/// Returns one batch after the other, and records the calls.
#[derive(Default)]
struct Script {
    batches: Vec<Vec<Inbound>>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Source for Script {
    async fn receive(&mut self, _: usize, _: Duration) -> Result<Batch, Error> {
        match self.batches.first() {
            Some(messages) => Ok(Batch { messages: messages.clone(), receipt: 1 }),
            None => Ok(Batch::default()),
        }
    }
    fn commit(&mut self, _: u64) -> Result<(), Error> {
        self.log.lock().unwrap().push("commit".to_owned());
        self.batches.remove(0);
        Ok(())
    }
    fn rewind(&mut self) -> Result<(), Error> {
        self.log.lock().unwrap().push("rewind".to_owned());
        Ok(())
    }
    fn assignment(&self) -> Assignment {
        Assignment::default()
    }
}

struct DeadLetters(Arc<Mutex<Vec<String>>>);

impl Sink for DeadLetters {
    async fn send(&self, _: Vec<Outbound>) -> Result<(), Error> {
        Ok(())
    }
    async fn dead_letter(&self, message: &Inbound, reason: &str) -> Result<(), Error> {
        self.0.lock().unwrap().push(format!("dead {}: {reason}", message.offset));
        Ok(())
    }
}

fn message(offset: i64, bytes: impl Into<Vec<u8>>) -> Inbound {
    Inbound {
        topic: "order.created".to_owned(),
        partition: 0,
        offset,
        traceparent: None,
        signature: None,
        bytes: bytes.into(),
    }
}

fn event(kind: &str, number: i64) -> String {
    let id = format!("saga/{number}/{kind}");
    json!({ "specversion": "1.0", "id": id, "type": kind, "sequence": number.to_string(),
            "time": "2026-11-27T12:00:00.000Z",
            "data": { "orderId": ORDER, "amount": 1250, "currency": "EUR", "status": "FULFILLED" } })
    .to_string()
}

fn recorder(
    pool: &PgPool,
    batches: Vec<Vec<Inbound>>,
    open: OpenChannels,
) -> (Recorder<Script, DeadLetters>, Arc<Mutex<Vec<String>>>) {
    let log = Arc::default();
    let source = Script { batches, log: Arc::clone(&log) };
    (Recorder::new(pool.clone(), source, DeadLetters(Arc::clone(&log)), open, Arc::default()), log)
}

async fn rows(pool: &PgPool) -> Vec<(String, String, String, Option<String>)> {
    sqlx::query_as("SELECT event_type, channel, status, reason FROM notifications ORDER BY event_id, channel")
        .fetch_all(pool)
        .await
        .unwrap()
}

fn row(
    kind: &str,
    channel: &str,
    status: &str,
    reason: Option<&str>,
) -> (String, String, String, Option<String>) {
    (kind.to_owned(), channel.to_owned(), status.to_owned(), reason.map(str::to_owned))
}

#[tokio::test]
async fn an_event_is_one_row_a_channel_however_often_it_arrives_and_before_its_offset_moves() {
    let database = amends_testkit::database(&MIGRATOR, "notification").await;
    let created = message(1, event("order.created", 1));
    let batches = vec![
        vec![created.clone(), created.clone()],
        vec![created, message(2, event("order.fulfilled", 4)), message(3, event("order.paid", 3))],
    ];
    let service = PgPool::connect(&database.role_url("amends_notification")).await.unwrap();
    let (mut recorder, log) = recorder(&service, batches, OpenChannels { email: true, sms: false });
    assert_eq!(recorder.run_once().await.unwrap(), 2);
    assert_eq!(recorder.run_once().await.unwrap(), 3);
    assert_eq!(recorder.run_once().await.unwrap(), 0);
    let expected = [
        row("order.created", "email", "QUEUED", None),
        row("order.created", "sms", "SKIPPED", Some("not_configured")),
        row("order.fulfilled", "email", "QUEUED", None),
        row("order.fulfilled", "sms", "SKIPPED", Some("not_configured")),
    ];
    assert_eq!(rows(&database.pool).await, expected);
    assert_eq!(*log.lock().unwrap(), ["commit", "commit"]);
}

#[tokio::test]
async fn what_cannot_be_read_is_a_dead_letter_and_the_rest_is_recorded() {
    let database = amends_testkit::database(&MIGRATOR, "notification").await;
    let created = || event("order.created", 1);
    let batch = vec![
        message(1, "{"),
        message(2, created().replace("2026-11-27T12", "2026-11-31T12")),
        message(3, event("order.unheard-of", 4)),
        message(4, created()),
        message(5, created().replace("saga/1", &"o".repeat(5000))),
        message(6, created().replace(&ORDER.to_string(), "order-1")),
    ];
    let (mut recorder, log) = recorder(&database.pool, vec![batch], BOTH);
    recorder.run_once().await.unwrap();
    let channels = ["email", "sms"].map(|channel| row("order.created", channel, "QUEUED", None));
    assert_eq!(rows(&database.pool).await, channels);
    let log = log.lock().unwrap().clone();
    for (said, begins) in
        log.iter().zip(["dead 1: ", "dead 2: ", "dead 5: id, type, currency", "dead 6: ", "commit"])
    {
        assert!(said.starts_with(begins), "{log:?}");
    }
    assert_eq!(log.len(), 5, "{log:?}");
}

#[tokio::test]
async fn without_its_database_nothing_is_committed_and_the_batch_comes_again() {
    let database = amends_testkit::database(&MIGRATOR, "notification").await;
    let pool = PgPool::connect(&database.url).await.unwrap();
    pool.close().await;
    let (mut recorder, log) = recorder(&pool, vec![vec![message(1, event("order.created", 1))]], BOTH);
    recorder.run_once().await.unwrap_err();
    assert_eq!(*log.lock().unwrap(), ["rewind"]);
}

#[test]
fn every_topic_has_a_template_on_every_channel() {
    for topic in TOPICS {
        assert!(has_template(topic), "{topic}");
        for channel in amends_notification::Channel::ALL {
            preview(topic, channel, "en").unwrap();
        }
    }
}

#[tokio::test]
async fn notifications_of_old_events_go() {
    let database = amends_testkit::database(&MIGRATOR, "notification").await;
    let now = Utc::now();
    for days in [0, 399, 401, 800] {
        let millis = u128::try_from((now - TimeDelta::days(days)).timestamp_millis()).unwrap();
        sqlx::query(
            "INSERT INTO notifications (id, order_id, event_id, event_type, channel, status)
             VALUES ($1, $2, 'e', 'order.created', 'email', 'SKIPPED')",
        )
        .bind(Uuid::from_u128(millis << 80 | 7 << 76 | 5))
        .bind(ORDER)
        .execute(&database.pool)
        .await
        .unwrap();
    }
    let pool = PgPool::connect(&database.role_url("amends_notification")).await.unwrap();
    let retention = Duration::from_hours(400 * 24);
    assert_eq!(
        amends_notification::expire_notifications(&pool.clone().into(), now, retention).await.unwrap(),
        2
    );
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM notifications").fetch_one(&pool).await.unwrap();
    assert_eq!(left, 2);
}
