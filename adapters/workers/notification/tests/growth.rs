//! A million events, each recorded, sent and published: what grows, and what does not.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use amends_notification::{MIGRATOR, OpenChannels, Recorder, events::Publisher};
use amends_protocol::transport::{Assignment, Batch, Error, Inbound, Outbound, Sink, Source};
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

const BOTH: OpenChannels = OpenChannels { email: true, sms: true };
/// Number of events that are received at once, and of messages that are settled at once.
const EVENTS_BATCH: i64 = 500;
const SETTLED_BATCH: i64 = 500;
/// How much `notif_sent` may take: its one row is updated in place, and old versions of it go with the next ones.
const MARKS_BYTES_MOST: i64 = 128 << 10;

/// Returns one batch, once.
struct Once(Vec<Inbound>);

impl Source for Once {
    async fn receive(&mut self, _: usize, _: Duration) -> Result<Batch, Error> {
        Ok(Batch { messages: std::mem::take(&mut self.0), receipt: 1 })
    }
    fn commit(&mut self, _: u64) -> Result<(), Error> {
        Ok(())
    }
    fn rewind(&mut self) -> Result<(), Error> {
        panic!("nothing fails here")
    }
    fn assignment(&self) -> Assignment {
        Assignment::default()
    }
}

/// Counts what is published.
#[derive(Default)]
struct Count(AtomicUsize);

impl Sink for &Count {
    async fn send(&self, messages: Vec<Outbound>) -> Result<(), Error> {
        self.0.fetch_add(messages.len(), Ordering::Relaxed);
        Ok(())
    }
    async fn dead_letter(&self, message: &Inbound, reason: &str) -> Result<(), Error> {
        panic!("dead letter {}: {reason}", message.offset)
    }
}

fn event(number: i64) -> Inbound {
    let order = Uuid::from_u128(0x01a2_0191_dc04_70a7_b9de_b929_99bc_7f56);
    let event = json!({
        "specversion": "1.0", "id": format!("saga/{number}/order.created"), "type": "order.created",
        "sequence": number.to_string(), "time": "2026-11-27T12:00:00.000Z",
        "data": { "orderId": order, "amount": 1250, "currency": "EUR", "status": "PENDING" },
    });
    Inbound {
        topic: "order.created".to_owned(),
        partition: 0,
        offset: number,
        traceparent: None,
        signature: None,
        bytes: event.to_string().into_bytes(),
    }
}

/// Settles every queued message as sent, as senders do, but for the sending.
async fn settle(pool: &PgPool) {
    loop {
        let settled = sqlx::query(
            "UPDATE notifications SET status = 'SENT', sent_at = clock_timestamp(), due_at = NULL, attempts = 1,
                    address = 'm***@e***.org'
             WHERE id = ANY (ARRAY(SELECT id FROM notifications WHERE due_at IS NOT NULL ORDER BY due_at LIMIT $1))",
        )
        .bind(SETTLED_BATCH)
        .execute(pool)
        .await
        .unwrap();
        if settled.rows_affected() == 0 {
            return;
        }
    }
}

/// Returns the size of each table with its indexes, except that of the notifications.
async fn sizes_of_other_tables(pool: &PgPool) -> Vec<(String, i64)> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class
         WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'notifications' ORDER BY 1",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let mut sizes = Vec::new();
    for table in tables {
        let sql = format!("SELECT pg_total_relation_size('\"{table}\"')");
        let size: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(pool).await.unwrap();
        sizes.push((table, size));
    }
    sizes
}

/// `make test` does it with 20,000 events, `make notifications` with a million (AMENDS_TEST_EVENTS).
#[tokio::test]
async fn however_many_events_are_sent_and_published_no_table_grows_but_that_of_the_notifications() {
    let number: i64 = std::env::var("AMENDS_TEST_EVENTS").map_or(20_000, |number| number.parse().unwrap());
    let database = amends_testkit::database(&MIGRATOR, "notification").await;
    let (before, marks) = parted(sizes_of_other_tables(&database.pool).await);
    assert!(!before.is_empty() && marks > 0, "{before:?}");
    let service = PgPool::connect(&database.role_url("amends_notification")).await.unwrap();
    let topic = Count::default();
    let publisher = Publisher::new(service.clone(), &topic);
    let begun = Instant::now();
    for first in (0..number).step_by(usize::try_from(EVENTS_BATCH).unwrap()) {
        let source = Once((first..number.min(first + EVENTS_BATCH)).map(event).collect());
        let mut recorder = Recorder::new(service.clone(), source, &topic, BOTH, Default::default());
        recorder.run_once().await.unwrap();
        settle(&service).await;
        while publisher.run_once().await.unwrap() > 0 {}
    }
    let took = begun.elapsed();

    let (rows, bytes): (i64, i64) = sqlx::query_as(
        "SELECT count(*), pg_total_relation_size('notifications') FROM notifications
         WHERE status = 'SENT' AND number IS NOT NULL",
    )
    .fetch_one(&service)
    .await
    .unwrap();
    println!("{number} events in {took:?}: {rows} notifications of {} bytes each", bytes / rows.max(1));
    assert_eq!(rows, 2 * number, "each is recorded for both channels, sent and numbered");
    let published: i64 =
        sqlx::query_scalar("SELECT published FROM notif_sent").fetch_one(&service).await.unwrap();
    assert_eq!((published, topic.0.load(Ordering::Relaxed) as i64), (rows, rows), "each is an event, once");
    let (after, marks) = parted(sizes_of_other_tables(&database.pool).await);
    assert_eq!(after, before);
    assert!(marks <= MARKS_BYTES_MOST, "notif_sent has grown to {marks} bytes");
}

/// Parts the size of `notif_sent` from the others.
fn parted(sizes: Vec<(String, i64)>) -> (Vec<(String, i64)>, i64) {
    let (marks, others): (Vec<_>, Vec<_>) = sizes.into_iter().partition(|(table, _)| table == "notif_sent");
    (others, marks.iter().map(|(_, size)| size).sum())
}
