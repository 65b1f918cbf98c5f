//! Tables `saga_inputs` and `personal`: what sagas were given.

use amends_engine::port::Inputs;
use amends_protocol::Json;
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use crate::{Error, error};

/// An input as it is stored, as far as it is wanted.
#[derive(Debug, FromRow)]
pub(crate) struct Row {
    saga_id: Uuid,
    data: Option<sqlx::types::Json<Json>>,
    personal: Option<sqlx::types::Json<Json>>,
}

impl From<Row> for Inputs {
    fn from(row: Row) -> Self {
        let data = row.data.map(|json| json.0).unwrap_or_default();
        Inputs { saga_id: row.saga_id, data, personal: row.personal.map(|json| json.0) }
    }
}

/// Inputs, personal fields included.
pub(crate) async fn of(executor: impl PgExecutor<'_>, ids: &[Uuid]) -> Result<Vec<Inputs>, Error> {
    Ok(rows(executor, ids).await.map_err(error::of)?.into_iter().map(Inputs::from).collect())
}

/// The same as it is stored.
pub(crate) async fn rows(executor: impl PgExecutor<'_>, ids: &[Uuid]) -> Result<Vec<Row>, sqlx::Error> {
    sqlx::query_as(
        "SELECT i.saga_id, i.data, p.data AS personal
         FROM UNNEST($1::uuid[]) AS w (id)
         JOIN saga_inputs AS i ON i.saga_id = w.id LEFT JOIN personal AS p ON p.saga_id = w.id",
    )
    .bind(ids)
    .fetch_all(executor)
    .await
}
