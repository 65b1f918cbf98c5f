//! The engine's `SagaStore`.

use sqlx::PgPool;

/// Sagas in Postgres.
#[derive(Debug, Clone)]
pub struct PgSagaStore {
    pool: PgPool,
}

impl PgSagaStore {
    /// Over these connections.
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Its connections.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }
}
