//! `notif.sent`: every sent message is an event, once numbered and at least once sent; nothing else is.

use std::sync::Mutex;

use amends_notification::{Channel, events::Publisher};
use amends_protocol::transport::{Error, Inbound, Outbound, Sink};
use serde_json::{Value, json};

use crate::world::{ORDER, World};

/// Keeps what is sent; while it is broken, it does so and fails.
#[derive(Default)]
struct Topic {
    sent: Mutex<Vec<Outbound>>,
    is_broken: Mutex<bool>,
}

impl Sink for &Topic {
    async fn send(&self, messages: Vec<Outbound>) -> Result<(), Error> {
        self.sent.lock().unwrap().extend(messages);
        match *self.is_broken.lock().unwrap() {
            true => Err(Error("broken".to_owned())),
            false => Ok(()),
        }
    }
    async fn dead_letter(&self, _: &Inbound, _: &str) -> Result<(), Error> {
        Ok(())
    }
}

impl Topic {
    /// Returns the sequence and the notification of each event, and forgets them.
    fn take(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let events = std::mem::take(&mut *self.sent.lock().unwrap());
        let events = events.iter().map(|event| serde_json::from_slice::<Value>(&event.bytes).unwrap());
        events.map(|event| (text(&event["sequence"]), text(&event["data"]["notificationId"]))).collect()
    }
}

impl World {
    async fn settle(&self, id: uuid::Uuid, status: &str) {
        sqlx::query(
            "UPDATE notifications SET status = $2, due_at = NULL,
                    sent_at = CASE WHEN $2 = 'SENT' THEN clock_timestamp() END WHERE id = $1",
        )
        .bind(id)
        .bind(status)
        .execute(&self.pool)
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn every_message_that_was_sent_is_an_event_with_the_next_number_and_keeps_it_when_it_is_sent_again() {
    let world = World::new().await;
    let topic = Topic::default();
    let (publisher, other) =
        (Publisher::new(world.pool.clone(), &topic), Publisher::new(world.pool.clone(), &topic));
    assert_eq!(publisher.run_once().await.unwrap(), 0);
    let mut ids = Vec::new();
    for status in ["SENT", "SKIPPED", "SENT", "FAILED", "QUEUED"] {
        let id = world.queue("order.created", Channel::Email).await;
        if status != "QUEUED" {
            world.settle(id, status).await;
        }
        if status == "SENT" {
            ids.push(id.to_string());
        }
    }
    *topic.is_broken.lock().unwrap() = true;
    publisher.run_once().await.unwrap_err();
    let expected: Vec<_> = (1..).map(|n: i32| n.to_string()).zip(ids).collect();
    assert_eq!(topic.take(), expected);
    *topic.is_broken.lock().unwrap() = false;
    assert_eq!(other.run_once().await.unwrap(), 2, "again, with the same numbers");
    assert_eq!(topic.take(), expected);
    assert_eq!(publisher.run_once().await.unwrap(), 0);
    let id = world.queue("order.created", Channel::Sms).await;
    world.settle(id, "SENT").await;
    assert_eq!(publisher.run_once().await.unwrap(), 1);
    assert_eq!(topic.take(), [("3".to_owned(), id.to_string())]);
}

#[tokio::test]
async fn an_event_says_what_was_sent_and_nothing_of_whom() {
    let (world, topic) = (World::new().await, Topic::default());
    let id = world.queue("order.created", Channel::Email).await;
    world.settle(id, "SENT").await;
    let update = "UPDATE notifications SET address = 'm***@e***.org'";
    sqlx::query(update).execute(&world.pool).await.unwrap();
    Publisher::new(world.pool.clone(), &topic).run_once().await.unwrap();
    let sent = topic.sent.lock().unwrap().clone();
    let event: Value = serde_json::from_slice(&sent[0].bytes).unwrap();
    assert_eq!(
        event["data"],
        json!({ "notificationId": id, "orderId": ORDER, "type": "order.created", "eventId": id.to_string(),
                "channel": "email" })
    );
    assert_eq!((&event["type"], &event["id"]), (&json!("notif.sent"), &json!(format!("notification/{id}"))));
    assert!(!event.to_string().contains("***"), "{event}");
}

#[tokio::test]
async fn two_publishers_number_without_gaps_and_publish_in_order() {
    let (world, topic) = (World::new().await, Topic::default());
    for _ in 0..60 {
        let id = world.queue("order.created", Channel::Email).await;
        world.settle(id, "SENT").await;
    }
    let publish = async || {
        let publisher = Publisher::new(world.pool.clone(), &topic);
        for _ in 0..5 {
            publisher.run_once().await.unwrap();
        }
    };
    tokio::join!(publish(), publish());
    let numbers: Vec<u32> = topic.take().iter().map(|(number, _)| number.parse().unwrap()).collect();
    assert_eq!(numbers, (1..=60).collect::<Vec<_>>());
}
