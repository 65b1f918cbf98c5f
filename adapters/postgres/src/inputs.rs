//! Inputs of sagas: stored in their first entry, personal fields separately.

use amends_engine::port::Inputs;
use amends_pool::Pool;
use amends_protocol::Json;
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use crate::{
    Error, error,
    homes::{Database, each_home},
};

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
pub(crate) async fn of(Database { pool, homes, .. }: &Database, ids: &[Uuid]) -> Result<Vec<Inputs>, Error> {
    let read = |home, ids: Vec<Uuid>| async move { of_home(pool, home, &ids).await };
    Ok(each_home(homes.divide_ids(ids), read).await?.into_iter().flatten().collect())
}

/// Reads inputs of one home.
pub(crate) async fn of_home(pool: &Pool, home: i16, ids: &[Uuid]) -> Result<Vec<Inputs>, Error> {
    rows(pool, home, ids).await.map_err(error::of)?.into_iter().map(InputsRow::read).collect()
}

/// Reads the same rows without parsing them.
pub(crate) async fn rows(
    executor: impl PgExecutor<'_>,
    home: i16,
    ids: &[Uuid],
) -> Result<Vec<InputsRow>, sqlx::Error> {
    // In the JSON of an event its name is the key.
    sqlx::query_as(
        "SELECT t.saga_id, t.body::json #>> '{event,started}' AS data, p.data AS personal
         FROM UNNEST($2::uuid[]) AS w (id)
         JOIN timeline AS t ON ($1::int2 IS NULL OR t.home = $1) AND t.saga_id = w.id AND t.revision = 1
         LEFT JOIN personal AS p ON ($1::int2 IS NULL OR p.home = $1) AND p.saga_id = w.id",
    )
    .bind(home)
    .bind(ids)
    .fetch_all(executor)
    .await
}
