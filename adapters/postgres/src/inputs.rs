//! Inputs of sagas: stored in their first entry, personal fields separately.

use amends_engine::port::Inputs;
use amends_protocol::Json;
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use crate::{Error, error};

/// The requested input as it is stored.
#[derive(Debug, FromRow)]
pub(crate) struct InputsRow {
    pub(crate) saga_id: Uuid,
    data: Option<String>,
    personal: Option<String>,
}

impl InputsRow {
    /// Returns the input, or why this program cannot read it.
    pub(crate) fn read(self) -> Result<Inputs, Error> {
        let json = |text: Option<String>| text.map(Json::from_text).transpose();
        let unreadable = |why| Error::Unreadable(format!("input of saga {}: {why}", self.saga_id));
        let data = json(self.data).map_err(unreadable)?.unwrap_or_default();
        Ok(Inputs { saga_id: self.saga_id, data, personal: json(self.personal).map_err(unreadable)? })
    }
}

/// Reads inputs, including personal fields.
pub(crate) async fn of(executor: impl PgExecutor<'_>, ids: &[Uuid]) -> Result<Vec<Inputs>, Error> {
    rows(executor, ids).await.map_err(error::of)?.into_iter().map(InputsRow::read).collect()
}

/// Reads the same rows without parsing them.
pub(crate) async fn rows(executor: impl PgExecutor<'_>, ids: &[Uuid]) -> Result<Vec<InputsRow>, sqlx::Error> {
    // In the JSON of an event its name is the key.
    sqlx::query_as(
        "SELECT t.saga_id, t.body::json #>> '{event,started}' AS data, p.data AS personal
         FROM UNNEST($1::uuid[]) AS w (id)
         JOIN timeline AS t ON t.saga_id = w.id AND t.revision = 1 LEFT JOIN personal AS p ON p.saga_id = w.id",
    )
    .bind(ids)
    .fetch_all(executor)
    .await
}
