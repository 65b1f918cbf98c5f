//! What sagas were given: in their first entry, personal fields apart.

use amends_engine::port::Inputs;
use amends_protocol::Json;
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use crate::{Error, error};

/// The body of a first entry, of a table called `t`: its input as text. (The JSON of an event has its name for a key.)
macro_rules! input {
    () => {
        "(body::json #>> '{event,started}')"
    };
}
pub(crate) use input;

/// An input as it is stored, as far as it is wanted.
#[derive(Debug, FromRow)]
pub(crate) struct InputsRow {
    pub(crate) saga_id: Uuid,
    data: Option<String>,
    personal: Option<String>,
}

impl InputsRow {
    /// The input, or why this program cannot read it.
    pub(crate) fn read(self) -> Result<Inputs, Error> {
        let json = |text: Option<String>| text.map(Json::from_text).transpose();
        let unreadable = |why| Error::Unreadable(format!("input of saga {}: {why}", self.saga_id));
        let data = json(self.data).map_err(unreadable)?.unwrap_or_default();
        Ok(Inputs { saga_id: self.saga_id, data, personal: json(self.personal).map_err(unreadable)? })
    }
}

/// Inputs, personal fields included.
pub(crate) async fn of(executor: impl PgExecutor<'_>, ids: &[Uuid]) -> Result<Vec<Inputs>, Error> {
    rows(executor, ids).await.map_err(error::of)?.into_iter().map(InputsRow::read).collect()
}

/// The same as it is stored.
pub(crate) async fn rows(executor: impl PgExecutor<'_>, ids: &[Uuid]) -> Result<Vec<InputsRow>, sqlx::Error> {
    sqlx::query_as(concat!(
        "SELECT t.saga_id, ",
        input!(),
        " AS data, p.data AS personal
         FROM UNNEST($1::uuid[]) AS w (id)
         JOIN timeline AS t ON t.saga_id = w.id AND t.revision = 1 LEFT JOIN personal AS p ON p.saga_id = w.id"
    ))
    .bind(ids)
    .fetch_all(executor)
    .await
}
