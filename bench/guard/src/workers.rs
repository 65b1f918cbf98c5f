//! What an order writes in the workers' databases: the workers that are shipped, over a transport in memory.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use amends_protocol::{
    Command, Json, Kind, Outcome, SCHEMA_VERSION, id,
    transport::{Assignment, Batch, Error, Inbound, Outbound, Sink, Source},
    wire,
};
use anyhow::{Result, bail};
use chrono::Utc;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Counts,
    rows::{BATCH, BATCHES},
    wal::{Server, written},
};

/// WAL bytes of an order in each worker's database. (Commits depend on which calls end together.)
pub async fn count(server: &Server) -> Result<Counts> {
    let orders = usize::from(BATCHES) * usize::from(BATCH);
    let mut counts = Counts::new();
    for name in ["inventory", "payment", "shipment"] {
        let (topic, stop) = (Topic::default(), CancellationToken::new());
        let (source, sink) = (topic.clone(), topic.clone());
        let (pool, worker) = match name {
            "inventory" => {
                let pool = server.database(name, &amends_inventory::MIGRATOR).await?;
                let stock = "INSERT INTO stock (product_id, adjusted, on_hand)
                             SELECT 'product-' || n, 1000000, 1000000 FROM generate_series(0, 24) AS n";
                sqlx::query(stock).execute(&pool).await?;
                let worker =
                    amends_inventory::worker(pool.clone(), source, sink, amends_inventory::settings());
                (pool, tokio::spawn(worker.run(stop.clone())))
            }
            "payment" => {
                let pool = server.database(name, &amends_payment::MIGRATOR).await?;
                let worker = amends_payment::worker(pool.clone(), source, sink, amends_payment::settings());
                (pool, tokio::spawn(worker.run(stop.clone())))
            }
            _ => {
                let pool = server.database(name, &amends_shipment::MIGRATOR).await?;
                let worker = amends_shipment::worker(pool.clone(), source, sink, amends_shipment::settings());
                (pool, tokio::spawn(worker.run(stop.clone())))
            }
        };
        // The first of everything costs more than what follows.
        topic.batch(name).await?;
        let written = written(&pool, async {
            for _ in 0..BATCHES {
                topic.batch(name).await?;
            }
            Ok(())
        })
        .await?;
        stop.cancel();
        worker.await?;
        pool.close().await;
        counts.insert(format!("{name}'s database: WAL bytes an order"), written.bytes / orders as u64);
    }
    Ok(counts)
}

/// The commands of one worker, and how many replies it has given.
#[derive(Clone, Default)]
struct Topic(Arc<Inner>);

#[derive(Default)]
struct Inner {
    commands: Mutex<Vec<Inbound>>,
    arrived: Notify,
    replies: AtomicUsize,
    replied: Notify,
    refused: Mutex<Option<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Topic {
    /// What a batch of orders asks of this worker.
    async fn batch(&self, worker: &str) -> Result<()> {
        let sagas: Vec<Uuid> = (0..BATCH).map(|_| Uuid::now_v7()).collect();
        let of = |step: &'static str, payload: &dyn Fn(usize, Uuid) -> Value| -> Vec<Command> {
            sagas.iter().enumerate().map(|(n, saga)| execute(*saga, step, payload(n, *saga))).collect()
        };
        match worker {
            "inventory" => {
                let line =
                    |n, _| json!({ "lines": [{ "productId": format!("product-{n}"), "quantity": 2 }] });
                self.ask(&of("reserve", &line)).await?;
                let reserved = |_, saga| json!({ "reservation": id::execute(saga, "reserve", 0, 1) });
                self.ask(&of("take", &reserved)).await
            }
            "payment" => {
                let charge = |_, _| json!({ "amount": 2500, "currency": "EUR", "method": "card_approved" });
                self.ask(&of("pay", &charge)).await
            }
            _ => {
                let address = json!({ "name": "Test Customer", "line1": "1 Long Street", "city": "Vienna",
                                      "postalCode": "1010", "country": "AT" });
                let parcel = |_, _| json!({ "shippingAddress": address, "lines": [] });
                self.ask(&of("ship", &parcel)).await
            }
        }
    }

    /// Sends commands, and waits for a reply to each.
    async fn ask(&self, commands: &[Command]) -> Result<()> {
        let inbound = |command: &Command| Inbound {
            topic: "commands".to_owned(),
            partition: 0,
            offset: 0,
            traceparent: None,
            bytes: wire::write(command),
        };
        self.0.replies.store(0, Ordering::SeqCst);
        let messages = commands.iter().map(inbound);
        lock(&self.0.commands).extend(messages);
        self.0.arrived.notify_one();
        while self.0.replies.load(Ordering::SeqCst) < commands.len() {
            self.0.replied.notified().await;
        }
        match lock(&self.0.refused).take() {
            Some(why) => bail!(why),
            None => Ok(()),
        }
    }
}

fn execute(saga_id: Uuid, step: &str, payload: Value) -> Command {
    Command {
        schema_version: SCHEMA_VERSION,
        command_id: id::execute(saga_id, step, 0, 1),
        kind: Kind::Execute,
        target: None,
        saga_id,
        slot: 7,
        business_key: saga_id.to_string(),
        workflow: "order_fulfilment".to_owned(),
        workflow_version: 1,
        step: step.to_owned(),
        part: 0,
        generation: 1,
        attempt: 1,
        epoch: 0,
        issued_at: Utc::now(),
        deadline: Utc::now(),
        reply_token: "2f74a5f6618243729c1f7c42155dc83d".to_owned(),
        payload: Json::from(payload),
    }
}

impl Source for Topic {
    async fn receive(&mut self, max: usize, patience: Duration) -> Result<Batch, Error> {
        let waiting = || lock(&self.0.commands);
        if waiting().is_empty() {
            let _ = tokio::time::timeout(patience, self.0.arrived.notified()).await;
        }
        let mut commands = waiting();
        let most = commands.len().min(max);
        Ok(Batch { messages: commands.drain(..most).collect(), receipt: 1 })
    }

    fn commit(&mut self, _: u64) -> Result<(), Error> {
        Ok(())
    }

    fn rewind(&mut self) -> Result<(), Error> {
        Err(Error("nothing comes twice here".to_owned()))
    }

    fn assignment(&self) -> Assignment {
        Assignment::default()
    }
}

impl Sink for Topic {
    async fn send(&self, messages: Vec<Outbound>) -> Result<(), Error> {
        let mut replies = messages.iter().filter_map(|message| wire::reply(&message.bytes).ok());
        if let Some(reply) = replies.find(|reply| reply.outcome != Outcome::Succeeded) {
            *lock(&self.0.refused) = Some(format!("{} was answered {:?}", reply.step, reply));
        }
        self.0.replies.fetch_add(messages.len(), Ordering::SeqCst);
        self.0.replied.notify_one();
        Ok(())
    }

    async fn dead_letter(&self, _: &Inbound, reason: &str) -> Result<(), Error> {
        Err(Error(reason.to_owned()))
    }
}
