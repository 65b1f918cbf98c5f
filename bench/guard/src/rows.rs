//! What an order writes in the engine's database: a fixed small run on a server of its own.

use amends_embedded::{Postgres, PostgresOptions};
use amends_engine::{
    core::{Change, NewSaga},
    port::{SagaStore, Wants, Write},
};
use amends_postgres::{
    MIGRATOR, PgSagaStore,
    orders::{NewOrder, OrderStore, Placed},
};
use amends_protocol::Json;
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use crate::{Counts, work::Order};

const BATCHES: u16 = 20;
const BATCH: u16 = 25;

/// WAL bytes of an order, and commits of all of them.
pub async fn count() -> Result<Counts> {
    let directory = tempfile::tempdir()?;
    let mut options = PostgresOptions::new(directory.path().join("postgres"));
    options.fsync = false;
    // What is written is the same with commits that wait for the disk; whole pages depend on when checkpoints fall.
    options.settings.push(("autovacuum".into(), "off".into()));
    let server = Postgres::start(options).await?;
    let pool = amends_pool::connect(&server.url("postgres"), 1, "amends-guard")?;
    sqlx::raw_sql("CREATE ROLE amends_engine; CREATE EXTENSION pg_walinspect").execute(&pool).await?;
    MIGRATOR.run(&pool).await?;
    let counts = orders(&pool).await;
    pool.close().await;
    server.stop().await;
    counts
}

async fn orders(pool: &PgPool) -> Result<Counts> {
    let world = World {
        order: Order::new(),
        orders: OrderStore::new(pool.clone()),
        store: PgSagaStore::new(pool.clone()),
    };
    // The first of everything costs more than what follows.
    world.batch(0).await?;
    sqlx::query("CHECKPOINT").execute(pool).await?;
    let from = position(pool).await?;
    for slot in 1..=BATCHES {
        world.batch(slot).await?;
    }
    let to = position(pool).await?;
    let (bytes, commits): (i64, i64) = sqlx::query_as(
        "SELECT (pg_wal_lsn_diff($2::pg_lsn, $1::pg_lsn) - coalesce(sum(fpi_size), 0))::int8,
                coalesce(sum(count) FILTER (WHERE \"resource_manager/record_type\" = 'Transaction/COMMIT'), 0)::int8
         FROM pg_get_wal_stats($1::pg_lsn, $2::pg_lsn, true)",
    )
    .bind(from)
    .bind(to)
    .fetch_one(pool)
    .await
    .context("reading the WAL")?;
    let orders = u64::from(BATCHES * BATCH);
    Ok(Counts::from([
        ("engine's database: WAL bytes an order".to_owned(), bytes.unsigned_abs() / orders),
        (format!("engine's database: commits of {orders} orders"), commits.unsigned_abs()),
    ]))
}

async fn position(pool: &PgPool) -> Result<String> {
    Ok(sqlx::query_scalar("SELECT pg_current_wal_flush_lsn()::text").fetch_one(pool).await?)
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
        for placed in self.orders.place(&orders, birth).await? {
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
            let written = self.store.commit(&writes).await?;
            ensure!(written.len() == writes.len(), "somebody else wrote the same sagas");
        }
        Ok(())
    }

    fn order(&self, slot: u16) -> NewOrder {
        let id = Uuid::now_v7();
        NewOrder {
            id,
            saga: NewSaga { id: Uuid::now_v7(), slot, business_key: id.to_string() },
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
