//! Webhooks and their deliveries: planned once, leased by one process, sent again on demand, and deleted in time.

use std::time::Duration;

use amends_orders::{
    webhook_deliveries::{Attempt, DeliveryStatus, DeliveryStore, NewDelivery},
    webhooks::{NewWebhook, WEBHOOKS_MOST, WebhookChange, WebhookStore},
};
use amends_testkit::TestDatabase;
use uuid::Uuid;

const NOTHING: [Uuid; 0] = [];
const LEASE: Duration = Duration::from_secs(60);

struct World {
    _database: TestDatabase,
    webhooks: WebhookStore,
    deliveries: DeliveryStore,
}

async fn world() -> World {
    let database = amends_testkit::database(&amends_postgres::MIGRATOR, "engine").await;
    let pool = amends_pool::connect(&database.role_url("amends_engine"), 4, "test").unwrap();
    let (webhooks, deliveries) = (WebhookStore::new(pool.clone()), DeliveryStore::new(pool));
    World { _database: database, webhooks, deliveries }
}

impl World {
    async fn webhook(&self) -> Uuid {
        let new = NewWebhook {
            id: Uuid::now_v7(),
            url: "https://a.example/".into(),
            types: vec!["order.*".into()],
            format: "event".into(),
            secret: "sealed".into(),
        };
        self.webhooks.create(&new).await.unwrap().unwrap().id
    }

    /// Plans events of one order for a webhook.
    async fn plan(&self, webhook: Uuid, numbers: std::ops::Range<i64>) -> Vec<Uuid> {
        let order = Uuid::now_v7();
        let new = |sequence| NewDelivery {
            id: Uuid::now_v7(),
            webhook_id: webhook,
            order_id: Some(order),
            sequence,
            event_type: "order.paid".into(),
            event_id: format!("event {sequence}"),
            event: "{}".into(),
        };
        let deliveries: Vec<NewDelivery> = numbers.map(new).collect();
        self.deliveries.plan(&deliveries).await.unwrap();
        deliveries.iter().map(|delivery| delivery.id).collect()
    }

    async fn record(&self, id: Uuid, status: DeliveryStatus, pause: Option<Duration>) {
        let attempt =
            Attempt { id, status, pause, answer_status: Some(500), answer: Some("no".into()), failure: None };
        self.deliveries.record(&attempt).await.unwrap();
    }
}

#[tokio::test]
async fn an_event_that_is_planned_again_is_one_delivery_for_each_webhook() {
    let world = world().await;
    let (one, other) = (world.webhook().await, world.webhook().await);
    let first = world.plan(one, 1..4).await;
    world.plan(one, 1..5).await;
    world.plan(other, 1..2).await;
    let due = world.deliveries.due(one, 10).await.unwrap();
    assert_eq!(due.len(), 4);
    assert_eq!(
        due.iter().map(|due| due.id).take(3).collect::<Vec<_>>(),
        first,
        "in the order of their events"
    );
    assert_eq!(world.deliveries.due(other, 10).await.unwrap().len(), 1);
    let of_none = world.plan(Uuid::now_v7(), 1..2).await;
    assert_eq!(
        world.deliveries.resend_from(Uuid::nil(), of_none[0], 1).await.unwrap(),
        NOTHING,
        "it is not planned"
    );
    assert_eq!(world.deliveries.waiting(3).await.unwrap(), 3);
    assert_eq!(world.deliveries.waiting(100).await.unwrap(), 5);
}

#[tokio::test]
async fn a_webhook_is_leased_by_one_process_until_it_is_released_lost_or_disabled() {
    let world = world().await;
    let hook = world.webhook().await;
    let (one, other) = (Uuid::now_v7(), Uuid::now_v7());
    let leased = async |owner, lease| {
        world
            .webhooks
            .lease(owner, lease, 10)
            .await
            .unwrap()
            .into_iter()
            .map(|hook| hook.id)
            .collect::<Vec<_>>()
    };
    assert_eq!(leased(one, LEASE).await, NOTHING, "nothing is due");
    world.plan(hook, 1..2).await;
    assert_eq!(leased(one, LEASE).await, [hook]);
    assert_eq!((leased(other, LEASE).await, leased(one, LEASE).await), (NOTHING.to_vec(), NOTHING.to_vec()));
    assert!(world.webhooks.renew(other, hook, LEASE).await.unwrap().is_none());
    // A lease that ends at once: its owner has said nothing.
    assert!(world.webhooks.renew(one, hook, Duration::ZERO).await.unwrap().is_some());
    assert_eq!(leased(other, LEASE).await, [hook]);
    assert!(world.webhooks.renew(one, hook, LEASE).await.unwrap().is_none(), "it is another's");
    world.webhooks.release(one, hook).await.unwrap();
    assert_eq!(leased(one, LEASE).await, NOTHING);
    world.webhooks.release(other, hook).await.unwrap();
    assert_eq!(leased(one, LEASE).await, [hook]);
    assert!(world.webhooks.note_failure(hook, Duration::ZERO, "gone").await.unwrap());
    assert!(world.webhooks.renew(one, hook, LEASE).await.unwrap().is_none(), "nothing may be sent");
    world.webhooks.release(one, hook).await.unwrap();
    assert_eq!(leased(one, LEASE).await, NOTHING);
    let missed = world.plan(hook, 2..3).await;
    let noted = world.deliveries.get(hook, missed[0]).await.unwrap().unwrap();
    assert_eq!((noted.status.as_str(), noted.due_at), ("SKIPPED", None));
}

#[tokio::test]
async fn a_webhook_is_disabled_only_if_every_attempt_has_failed_for_the_patience() {
    let world = world().await;
    let hook = world.webhook().await;
    assert!(!world.webhooks.note_failure(hook, LEASE, "down").await.unwrap());
    world.webhooks.note_success(hook).await.unwrap();
    assert!(!world.webhooks.note_failure(hook, Duration::from_millis(200), "down").await.unwrap());
    amends_testkit::eventually("it is disabled", LEASE, || async {
        let disabled = world.webhooks.note_failure(hook, Duration::from_millis(200), "down").await.unwrap();
        disabled.then_some(())
    })
    .await;
    let seen = world.webhooks.get(hook).await.unwrap().unwrap();
    assert_eq!((seen.is_enabled, seen.disabled_reason.as_deref()), (false, Some("down")));
    let enable = WebhookChange { is_enabled: Some(true), ..WebhookChange::default() };
    assert_eq!(
        world.webhooks.change(hook, seen.revision - 1, &enable).await.unwrap(),
        None,
        "another revision"
    );
    let enabled = world.webhooks.change(hook, seen.revision, &enable).await.unwrap().unwrap();
    assert_eq!((enabled.is_enabled, enabled.disabled_reason), (true, None));
    assert!(!world.webhooks.note_failure(hook, LEASE, "down").await.unwrap(), "it begins anew");
}

#[tokio::test]
async fn what_has_failed_waits_what_is_delivered_ends_and_both_are_sent_again_on_demand() {
    let world = world().await;
    let hook = world.webhook().await;
    let ids = world.plan(hook, 1..5).await;
    world.record(ids[0], DeliveryStatus::Delivered, None).await;
    world.record(ids[1], DeliveryStatus::Pending, Some(LEASE)).await;
    world.record(ids[2], DeliveryStatus::Failed, None).await;
    let due = async || {
        let due = world.deliveries.due(hook, 10).await.unwrap();
        due.into_iter().map(|due| (due.id, due.tries)).collect::<Vec<_>>()
    };
    assert_eq!(due().await, [(ids[3], 0)]);
    let seen = world.deliveries.get(hook, ids[1]).await.unwrap().unwrap();
    assert_eq!((seen.attempts, seen.answer_status, seen.answer.as_deref()), (1, Some(500), Some("no")));
    assert!(seen.due_at > seen.tried_at);
    assert_eq!(world.deliveries.get(Uuid::now_v7(), ids[1]).await.unwrap(), None, "of another webhook");
    assert_eq!(world.deliveries.resend(Uuid::now_v7(), ids[2]).await.unwrap(), None);

    let again = world.deliveries.resend(hook, ids[2]).await.unwrap().unwrap();
    assert_eq!((again.status.as_str(), again.attempts), ("PENDING", 1));
    assert_eq!(world.deliveries.resend_from(hook, ids[1], 2).await.unwrap(), ids[1..3]);
    let again = world.deliveries.resend_from(hook, ids[0], 10).await.unwrap();
    assert_eq!(again, ids, "whatever has become of them");
    assert_eq!(due().await.len(), 4);
}

#[tokio::test]
async fn old_deliveries_go_and_so_does_a_deleted_webhook_with_all_of_its_own() {
    let world = world().await;
    let (kept, deleted) = (world.webhook().await, world.webhook().await);
    let ids = world.plan(kept, 1..4).await;
    world.plan(deleted, 1..4).await;
    assert_eq!(world.deliveries.expire(ids[1]).await.unwrap(), 1);
    assert_eq!(world.deliveries.expire(ids[1]).await.unwrap(), 0);
    assert_eq!(world.deliveries.clear_deleted().await.unwrap(), 0);
    assert!(!world.webhooks.delete(deleted, 7).await.unwrap());
    assert!(world.webhooks.delete(deleted, 1).await.unwrap());
    assert_eq!(world.webhooks.get(deleted).await.unwrap(), None);
    assert_eq!(world.webhooks.subscriptions().await.unwrap().len(), 1);
    assert_eq!(world.deliveries.clear_deleted().await.unwrap(), 3);
    assert_eq!(world.deliveries.clear_deleted().await.unwrap(), 0);
    assert_eq!(world.deliveries.due(kept, 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn there_are_a_hundred_webhooks_at_most() {
    let world = world().await;
    let mut last = Uuid::nil();
    for _ in 0..WEBHOOKS_MOST {
        last = world.webhook().await;
    }
    let one_more = NewWebhook {
        id: Uuid::now_v7(),
        url: "https://a.example/".into(),
        types: vec!["order.*".into()],
        format: "snapshot".into(),
        secret: "sealed".into(),
    };
    assert_eq!(world.webhooks.create(&one_more).await.unwrap(), None);
    assert!(world.webhooks.delete(last, 1).await.unwrap());
    assert!(world.webhooks.create(&one_more).await.unwrap().is_some(), "a deleted one does not count");
}
