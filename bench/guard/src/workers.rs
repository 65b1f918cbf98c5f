//! What an order writes in the workers' databases: the workers that are shipped, over a transport in memory.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use amends_pool::Pool;
use amends_protocol::{
    Command, Json, Kind, Outcome, SCHEMA_VERSION, id,
    transport::{Assignment, Batch, Error, Inbound, Outbound, Sink, Source},
    wire,
};
use anyhow::{Result, bail};
use chrono::Utc;
use serde_json::{Value, json};
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Counts,
    rows::{BATCH, BATCHES},
    wal::{Server, written},
};

/// WAL bytes of an order in each worker's database. (Commits depend on which calls end together.)
pub async fn count(server: &Server) -> Result<Counts> {
    let counts = [inventory(server).await?, payment(server).await?, shipment(server).await?];
    let name = |worker| format!("{worker}'s database: WAL bytes an order");
    Ok(["inventory", "payment", "shipment"].map(name).into_iter().zip(counts).collect())
}

async fn inventory(server: &Server) -> Result<u64> {
    let pool = server.database("inventory", &amends_inventory::MIGRATOR).await?;
    let stock = "INSERT INTO stock (product_id, adjusted, on_hand)
                 SELECT 'product-' || n, 1000000, 1000000 FROM generate_series(0, 24) AS n";
    sqlx::query(stock).execute(&pool).await?;
    let (topic, stop) = (Topic::default(), CancellationToken::new());
    let worker =
        amends_inventory::worker(pool.clone(), topic.clone(), topic.clone(), amends_inventory::settings());
    let running = tokio::spawn(worker.run(stop.clone()));
    let line = |n, _| json!({ "lines": [{ "productId": format!("product-{n}"), "quantity": 2 }] });
    let reserved = |_, saga| json!({ "reservation": id::execute(saga, "reserve", 0, 1) });
    let bytes = an_order(&pool, async || {
        let sagas = sagas();
        topic.ask(&commands(&sagas, "reserve", &line)).await?;
        topic.ask(&commands(&sagas, "take", &reserved)).await
    });
    let bytes = bytes.await?;
    end(running, &stop, &pool).await?;
    Ok(bytes)
}

async fn payment(server: &Server) -> Result<u64> {
    let pool = server.database("payment", &amends_payment::MIGRATOR).await?;
    let (topic, stop) = (Topic::default(), CancellationToken::new());
    let worker =
        amends_payment::worker(pool.clone(), topic.clone(), topic.clone(), amends_payment::settings());
    let running = tokio::spawn(worker.run(stop.clone()));
    let charge = |_, _| json!({ "amount": 2500, "currency": "EUR", "method": "card_approved" });
    let bytes = an_order(&pool, async || topic.ask(&commands(&sagas(), "pay", &charge)).await).await?;
    end(running, &stop, &pool).await?;
    Ok(bytes)
}

async fn shipment(server: &Server) -> Result<u64> {
    let pool = server.database("shipment", &amends_shipment::MIGRATOR).await?;
    let (topic, stop) = (Topic::default(), CancellationToken::new());
    let worker =
        amends_shipment::worker(pool.clone(), topic.clone(), topic.clone(), amends_shipment::settings());
    let running = tokio::spawn(worker.run(stop.clone()));
    let address = json!({ "name": "Test Customer", "line1": "1 Long Street", "city": "Vienna",
                          "postalCode": "1010", "country": "AT" });
    let parcel = |_, _| json!({ "shippingAddress": address, "lines": [] });
    let bytes = an_order(&pool, async || topic.ask(&commands(&sagas(), "ship", &parcel)).await).await?;
    end(running, &stop, &pool).await?;
    Ok(bytes)
}

/// What an order writes, of batches that are asked one after the other.
async fn an_order(pool: &Pool, batch: impl AsyncFn() -> Result<()>) -> Result<u64> {
    // The first batch pays for prepared statements and cold caches.
    batch().await?;
    let written = written(pool, async {
        for _ in 0..BATCHES {
            batch().await?;
        }
        Ok(())
    });
    Ok(written.await?.bytes / u64::from(BATCHES * BATCH))
}

async fn end(running: JoinHandle<()>, stop: &CancellationToken, pool: &Pool) -> Result<()> {
    stop.cancel();
    running.await?;
    pool.close().await;
    Ok(())
}

fn sagas() -> Vec<Uuid> {
    (0..BATCH).map(|_| Uuid::now_v7()).collect()
}

fn commands(sagas: &[Uuid], step: &str, payload: &dyn Fn(usize, Uuid) -> Value) -> Vec<Command> {
    sagas.iter().enumerate().map(|(n, saga)| execute(*saga, step, payload(n, *saga))).collect()
}

/// The commands of one worker, and the number of replies it has sent.
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
    /// Sends commands, and waits for a reply to each.
    async fn ask(&self, commands: &[Command]) -> Result<()> {
        let inbound = |command: &Command| Inbound {
            topic: "commands".to_owned(),
            partition: 0,
            offset: 0,
            traceparent: None,
            signature: None,
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
        sent_at: Some(Utc::now()),
        target_issued_at: None,
        resolved: None,
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
