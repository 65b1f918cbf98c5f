//! A world in Postgres, seen as the service sees it: with its role's rights and its pool's settings.
#![allow(dead_code)]

use amends_engine::core::{Change, Entry};
use amends_postgres::{Birth, MIGRATOR, PgSagaStore, conformance::World, pool};
use amends_protocol::Json;
use amends_testkit::{TestDatabase, database};
use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

pub struct Postgres {
    pub database: TestDatabase,
    pub store: PgSagaStore,
}

pub async fn world() -> Postgres {
    let database = database(&MIGRATOR, "engine").await;
    let store = PgSagaStore::new(connect(&database.role_url("amends_engine")));
    Postgres { database, store }
}

pub fn connect(url: &str) -> PgPool {
    pool::connect(url, 5, "test").unwrap()
}

impl Postgres {
    /// The service's connections.
    pub fn pool(&self) -> PgPool {
        self.store.pool().clone()
    }

    /// The owner's.
    pub fn owner(&self) -> &PgPool {
        &self.database.pool
    }
}

impl World for Postgres {
    type Store = PgSagaStore;

    fn store(&self) -> &PgSagaStore {
        &self.store
    }

    async fn create(&self, change: &Change, data: &Json, personal: &Json) {
        self.store.create(&[Birth { change, data, personal: Some(personal) }]).await.unwrap();
    }

    async fn timeline(&self, saga_id: Uuid) -> Vec<Entry> {
        let rows: Vec<(i32, DateTime<Utc>, String)> = sqlx::query_as(
            "SELECT revision, at, body::text FROM timeline WHERE saga_id = $1 ORDER BY revision",
        )
        .bind(saga_id)
        .fetch_all(self.owner())
        .await
        .unwrap();
        rows.into_iter()
            .map(|(revision, at, body)| {
                Entry::from_stored(u32::try_from(revision).unwrap(), at, &body).unwrap()
            })
            .collect()
    }

    async fn strays(&self) -> usize {
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM strays").fetch_one(self.owner()).await.unwrap();
        usize::try_from(count).unwrap()
    }
}
