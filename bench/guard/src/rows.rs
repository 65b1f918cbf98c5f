//! What an order writes in the engine's database: a fixed small run.

use amends_engine::{
    core::{Change, NewSaga},
    port::{SagaStore, Wants, Write},
};
use amends_orders::{NewOrder, OrderStore, Placed};
use amends_postgres::{MIGRATOR, PgSagaStore};
use amends_protocol::{Json, id};
use anyhow::{Result, bail, ensure};
use serde_json::json;
use uuid::Uuid;

use crate::{
    Counts,
    wal::{Server, written},
    work::Order,
};

/// Number of batches in the run.
pub const BATCHES: u16 = 20;
/// Number of orders in a batch.
pub const BATCH: u16 = 25;

/// WAL bytes of an order, and commits of all of them.
pub async fn count(server: &Server) -> Result<Counts> {
    let pool = server.database("engine", &MIGRATOR).await?;
    let world = World {
        order: Order::new(),
        orders: OrderStore::new(pool.clone()),
        store: PgSagaStore::new(pool.clone()),
    };
    // The first batch pays for prepared statements and cold caches.
    world.batch(0).await?;
    let written = written(&pool, async {
        for slot in 1..=BATCHES {
            world.batch(slot).await?;
        }
        Ok(())
    })
    .await?;
    pool.close().await;
    let orders = u64::from(BATCHES * BATCH);
    Ok(Counts::from([
        ("engine's database: WAL bytes an order".to_owned(), written.bytes / orders),
        (format!("engine's database: commits of {orders} orders"), written.commits),
    ]))
}

struct World {
    order: Order,
    orders: OrderStore,
    store: PgSagaStore,
}

impl World {
    /// Takes a batch of orders from birth to end.
    async fn batch(&self, slot: u16) -> Result<()> {
        let orders: Vec<NewOrder> = (0..BATCH).map(|_| self.order(slot)).collect();
        let birth = |order: &NewOrder, now| self.order.birth(order.saga.clone(), now);
        let mut under_way: Vec<Change> = Vec::new();
        let now = self.orders.now().await?;
        for placed in self.orders.place(now, &orders, birth).await? {
            let Placed::New { change, .. } = placed else { bail!("an order was not placed") };
            under_way.push(*change);
        }
        while under_way.iter().any(|change| !change.sends.is_empty()) {
            let mut writes = Vec::new();
            for before in &mut under_way {
                let (_, _, change) = self.order.succeeds(&before.saga, &before.sends, before.saga.born_at)?;
                writes.push(Write {
                    read_revision: before.saga.revision,
                    saga: change.saga.clone(),
                    entries: vec![change.entry.clone()],
                    wants: Wants { data: true, personal: true },
                });
                *before = change;
            }
            let written = self.store.commit(&writes).await?.written;
            ensure!(written.len() == writes.len(), "somebody else wrote the same sagas");
        }
        Ok(())
    }

    fn order(&self, slot: u16) -> NewOrder {
        let [id, saga] = [(); 2].map(|()| id::at_slot(Uuid::now_v7(), slot));
        NewOrder {
            id,
            saga: NewSaga { id: saga, business_key: id.to_string(), trace: None },
            subject: "guard".to_owned(),
            idempotency: Some((Uuid::new_v4().to_string(), [7; 32])),
            customer_id: "c-1001".to_owned(),
            currency: "EUR".to_owned(),
            total: 2500,
            lines: Json::from(json!([{ "productId": "mug-blue", "quantity": 2, "unitPrice": 1250 }])),
            data: self.order.data.clone(),
            personal: self.order.personal.clone(),
        }
    }
}
