//! Events in, rows out: over a real Postgres and a transport controlled by the test.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use amends_notification::{MIGRATOR, Recorder, TOPICS, template};
use amends_protocol::transport::{Assignment, Batch, Error, Inbound, Outbound, Sink, Source};
use serde_json::json;
use sqlx::PgPool;

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

struct Letters(Arc<Mutex<Vec<String>>>);

impl Sink for Letters {
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
        topic: "order.paid".to_owned(),
        partition: 0,
        offset,
        traceparent: None,
        signature: None,
        bytes: bytes.into(),
    }
}

fn event(kind: &str, sequence: &str) -> String {
    let id = format!("saga/{sequence}/{kind}");
    json!({ "specversion": "1.0", "id": id, "type": kind, "sequence": sequence, "data": { "orderId": "order-1" } })
        .to_string()
}

fn recorder(
    pool: &PgPool,
    batches: Vec<Vec<Inbound>>,
) -> (Recorder<Script, Letters>, Arc<Mutex<Vec<String>>>) {
    let log = Arc::default();
    let source = Script { batches, log: Arc::clone(&log) };
    (Recorder::new(pool.clone(), source, Letters(Arc::clone(&log))), log)
}

async fn rows(pool: &PgPool) -> Vec<(String, i64, String)> {
    sqlx::query_as("SELECT event_type, sequence, template FROM notifications ORDER BY sequence")
        .fetch_all(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn an_event_is_recorded_once_however_often_it_arrives_and_before_its_offset_moves() {
    let database = amends_testkit::database(&MIGRATOR, "notification").await;
    let paid = message(1, event("order.paid", "3"));
    let batches =
        vec![vec![paid.clone(), paid.clone()], vec![paid, message(2, event("order.fulfilled", "4"))]];
    let service = PgPool::connect(&database.role_url("amends_notification")).await.unwrap();
    let (mut recorder, log) = recorder(&service, batches);
    assert_eq!(recorder.run_once().await.unwrap(), 2);
    assert_eq!(recorder.run_once().await.unwrap(), 2);
    assert_eq!(recorder.run_once().await.unwrap(), 0);
    let expected = [("order.paid", 3, "payment-received"), ("order.fulfilled", 4, "order-shipped")];
    assert_eq!(rows(&database.pool).await, expected.map(|(t, n, m)| (t.to_owned(), n, m.to_owned())));
    assert_eq!(*log.lock().unwrap(), ["commit", "commit"]);
}

#[tokio::test]
async fn what_cannot_be_read_is_a_dead_letter_and_the_rest_is_recorded() {
    let database = amends_testkit::database(&MIGRATOR, "notification").await;
    let batch = vec![
        message(1, "{"),
        message(2, event("order.paid", "three")),
        message(3, event("order.unheard-of", "4")),
        message(4, event("order.paid", "5")),
        message(5, event("order.paid", "5").replace("order-1", &"o".repeat(5000))),
    ];
    let (mut recorder, log) = recorder(&database.pool, vec![batch]);
    recorder.run_once().await.unwrap();
    assert_eq!(rows(&database.pool).await, [("order.paid".to_owned(), 5, "payment-received".to_owned())]);
    let log = log.lock().unwrap().clone();
    assert!(log[0].starts_with("dead 1: ") && log[1] == "dead 2: sequence: not a number", "{log:?}");
    assert_eq!(log[2..], ["dead 5: id, type, orderId: longer than 300 bytes", "commit"]);
}

#[tokio::test]
async fn without_its_database_nothing_is_committed_and_the_batch_comes_again() {
    let database = amends_testkit::database(&MIGRATOR, "notification").await;
    let pool = PgPool::connect(&database.url).await.unwrap();
    pool.close().await;
    let (mut recorder, log) = recorder(&pool, vec![vec![message(1, event("order.paid", "3"))]]);
    recorder.run_once().await.unwrap_err();
    assert_eq!(*log.lock().unwrap(), ["rewind"]);
}

#[test]
fn every_topic_has_a_template() {
    assert!(TOPICS.iter().all(|topic| template(topic).is_some()));
}

#[tokio::test]
async fn notifications_of_old_orders_go() {
    let database = amends_testkit::database(&MIGRATOR, "notification").await;
    let now = chrono::Utc::now();
    for days in [0, 399, 401, 800] {
        let millis = u128::try_from((now - chrono::TimeDelta::days(days)).timestamp_millis()).unwrap();
        let order = uuid::Uuid::from_u128(millis << 80 | 7 << 76 | 5);
        sqlx::query("INSERT INTO notifications VALUES ($1, 'e', 'order.paid', 1, 't')")
            .bind(order.to_string())
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
