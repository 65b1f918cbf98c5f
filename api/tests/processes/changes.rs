//! Changes under a deployment while orders run, on a real broker: members of groups, partitions of topics, versions of
//! programs.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use amends_kafka::{KafkaSettings, KafkaSink, KafkaSource};
use amends_protocol::{
    transport::{Assignment, Batch, Error, Source},
    wire,
};
use amends_testkit::eventually;
use futures::future::join;
use sqlx::postgres::PgPoolOptions;
use tokio_util::sync::CancellationToken;

use crate::{
    books,
    support::{
        Broker, LONG, Stack,
        client::order,
        clients,
        load::{self, every_order_is_there, place_all, place_until, reaches},
        on_apache,
    },
};

on_apache!(
    no_order_is_lost_while_a_member_joins_and_leaves_every_second,
    no_order_is_lost_when_topics_are_made_again_with_more_partitions,
    old_workers_beside_a_new_engine_delay_orders_and_fail_none,
);

/// Waits until a group is at rest with this many members.
async fn has_members(stack: &Stack, group: &str, count: usize) {
    let admin = &stack.broker.real().expect("a real broker").admin;
    eventually(&format!("{group} has {count} members"), LONG, || async {
        (admin.members(group).await == Ok(Some(count))).then_some(())
    })
    .await;
}

async fn no_order_is_lost_while_a_member_joins_and_leaves_every_second(broker: Broker) {
    /// About one per second on two cores: a process starts, joins, and leaves.
    const CHANGES: usize = 16;
    let stack = Stack::new(broker).await;
    let all = stack.start_all().await;
    load::stock(&stack).await;
    let changes = AtomicUsize::new(0);
    let come_and_go = async |guests: &[(&[&str], &str)]| {
        for (role, group) in guests.iter().cycle() {
            let guest = stack.spawn(role);
            has_members(&stack, group, 3).await;
            guest.stop().await;
            has_members(&stack, group, 2).await;
            if changes.fetch_add(2, Ordering::Relaxed) + 2 >= CHANGES {
                return;
            }
        }
    };
    let over = AtomicBool::new(false);
    let rebalancing = async {
        let workers: [(&[&str], &str); 3] = [
            (&["worker", "inventory"], "amends-inventory"),
            (&["worker", "payment"], "amends-payment"),
            (&["worker", "shipment"], "amends-shipment"),
        ];
        join(come_and_go(&[(&["engine"], "amends-engine")]), come_and_go(&workers)).await;
        over.store(true, Ordering::Relaxed);
    };
    let clients = clients(&all);
    let (ids, ()) = join(place_until(&over, &clients), rebalancing).await;
    books::settle(&stack).await;
    every_order_is_there(&stack, &ids).await;
    books::balance(&stack).await;
}

async fn no_order_is_lost_when_topics_are_made_again_with_more_partitions(broker: Broker) {
    const ORDERS: usize = 300;
    /// All of them began with four.
    const AGAIN: [(&str, usize); 4] =
        [("saga.replies", 7), ("inventory.commands", 5), ("payment.commands", 6), ("shipment.commands", 8)];
    let stack = Stack::new(broker).await;
    let admin = &stack.broker.real().expect("a real broker").admin;
    let all = stack.start_all().await;
    load::stock(&stack).await;
    let placed = AtomicUsize::new(0);
    // A topic that was just created answers once it has a leader.
    let lengths = |topic: &'static str| {
        eventually("the topic can be read", LONG, move || async move { admin.lengths(topic).await.ok() })
    };
    let growing = async {
        for (at, (topic, partitions)) in AGAIN.into_iter().enumerate() {
            reaches(&placed, ORDERS * (at + 1) / 5).await;
            assert_eq!(lengths(topic).await.len(), 4, "{topic}");
            admin.recreate(topic, partitions).await.unwrap();
        }
    };
    let clients = clients(&all);
    let (ids, ()) = join(place_all(&clients, ORDERS, &placed), growing).await;
    books::settle(&stack).await;
    every_order_is_there(&stack, &ids).await;

    // Every partition of the new topics is used, and its messages are read.
    for (topic, partitions) in AGAIN {
        eventually(&format!("all {partitions} partitions of {topic} carry something"), LONG, || async {
            // One that is turned away is not missed: the next round places another.
            let _ = clients[0].try_place(&order("mug", 1, "card_approved", "AT"), None).await;
            let lengths = lengths(topic).await;
            assert_eq!(lengths.len(), partitions, "{topic}");
            lengths.iter().all(|length| *length > 0).then_some(())
        })
        .await;
    }
    books::settle(&stack).await;
    books::balance(&stack).await;
}

/// A source as an older program sees it: every command has a newer format than it knows.
struct Older(KafkaSource);

impl Source for Older {
    async fn receive(&mut self, max: usize, patience: Duration) -> Result<Batch, Error> {
        let mut batch = self.0.receive(max, patience).await?;
        for message in &mut batch.messages {
            let mut command = wire::command(&message.bytes).expect("only engines send here");
            command.schema_version += 1;
            message.bytes = wire::write(&command);
        }
        Ok(batch)
    }

    fn commit(&mut self, receipt: u64) -> Result<(), Error> {
        self.0.commit(receipt)
    }

    fn rewind(&mut self) -> Result<(), Error> {
        self.0.rewind()
    }

    fn assignment(&self) -> Assignment {
        self.0.assignment()
    }
}

/// There is only one format so far, so no program is older. These are ordinary members of the workers' groups, made
/// with the SDK; only the engine is one version ahead of them.
async fn old_workers_beside_a_new_engine_delay_orders_and_fail_none(broker: Broker) {
    let stack = Stack::new(broker).await;
    let all = stack.start_all().await;
    load::stock(&stack).await;
    let kafka = KafkaSettings::new(stack.broker.bootstrap_servers());
    let member = |name: &str| {
        let pool = PgPoolOptions::new().max_connections(4).connect_lazy(stack.role_url(name)).unwrap();
        let topic = format!("{name}.commands");
        let source = KafkaSource::subscribe(&kafka, &format!("amends-{name}"), &[&topic]).unwrap();
        (pool, Older(source), KafkaSink::new(&kafka).unwrap())
    };
    let stop = CancellationToken::new();
    let (pool, source, sink) = member("inventory");
    let inventory = amends_inventory::worker(pool, source, sink, amends_inventory::settings());
    let (pool, source, sink) = member("payment");
    let payment = amends_payment::worker(pool, source, sink, amends_payment::settings());
    let old = [tokio::spawn(inventory.run(stop.clone())), tokio::spawn(payment.run(stop.clone()))];
    has_members(&stack, "amends-inventory", 3).await;
    has_members(&stack, "amends-payment", 3).await;

    let expected = [
        (order("mug", 1, "card_approved", "AT"), "FULFILLED"),
        (order("mug", 1, "card_declined", "AT"), "PAYMENT_FAILED"),
        (order("mug", 2, "card_approved", "AQ"), "SHIPMENT_FAILED"),
        (order("none-left", 1, "card_approved", "AT"), "FAILED"),
    ];
    let clients = clients(&all);
    let mut placed = Vec::new();
    for n in 0..80 {
        let (order, end) = &expected[n % expected.len()];
        placed.push((clients[n % clients.len()].place(order).await, *end));
    }
    // Both old workers receive commands, including compensations, and do nothing.
    for (step, kind) in
        [("reserve", "execute"), ("reserve", "compensate"), ("pay", "execute"), ("pay", "compensate")]
    {
        eventually(&format!("an old worker was asked to {kind} {step}"), LONG, || async {
            let heard: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM timeline, LATERAL (SELECT body::jsonb -> 'event' -> 'replied' AS reply) AS heard
                 WHERE reply ->> 'outcome' = 'unsupported' AND reply ->> 'step' = $1 AND reply ->> 'kind' = $2",
            )
            .bind(step)
            .bind(kind)
            .fetch_one(stack.pool("engine"))
            .await
            .unwrap();
            (heard > 0).then_some(())
        })
        .await;
    }
    // The upgrade ends. An order that an old worker received again and again would otherwise be delayed without a bound.
    stop.cancel();
    for worker in old {
        worker.await.unwrap();
    }
    for (id, end) in &placed {
        clients[0].becomes(id, end).await;
    }
    books::settle(&stack).await;
    books::balance(&stack).await;
}
