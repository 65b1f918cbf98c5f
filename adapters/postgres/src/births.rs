//! Inserts new sagas: row, personal fields and first entry, many in one statement.

use amends_engine::core::{Change, state_version};
use amends_protocol::Json;
use sqlx::{Postgres, postgres::PgArguments, query::Query};

use crate::{
    Database, Error,
    columns::{each, int, small},
    error, timeline,
};

/// A saga to insert.
#[derive(Debug, Clone, Copy)]
pub struct Birth<'a> {
    /// Its row and its first entry, which contains its input, as returned by [`amends_engine::core::start`].
    pub change: &'a Change,
    /// Its personal fields.
    pub personal: Option<&'a Json>,
}

/// Inserts sagas (function `bear_sagas`). Its first parameters are their home and the epoch; [`bind`] binds the others.
pub const INSERT: &str = "SELECT bear_sagas($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, NULL)";

/// Binds the next sixteen parameters: those of the function `bear_sagas`, but for home and epoch before them and the
/// last. The entries are written in this epoch. A function that inserts more with the sagas ends with the same.
pub fn bind<'q>(
    query: Query<'q, Postgres, PgArguments>,
    births: &[Birth<'q>],
    epoch: u32,
    batch: i64,
) -> Query<'q, Postgres, PgArguments> {
    let sagas = each(births, |birth| &birth.change.saga);
    query
        .bind(each(&sagas, |saga| saga.id))
        .bind(each(&sagas, |saga| small(saga.slot)))
        .bind(each(&sagas, |saga| saga.business_key.as_str()))
        .bind(each(&sagas, |saga| saga.workflow.as_str()))
        .bind(each(&sagas, |saga| int(saga.workflow_version)))
        .bind(each(&sagas, |saga| saga.label.as_str()))
        .bind(each(&sagas, |saga| saga.wake_at))
        .bind(each(&sagas, |saga| saga.step.as_str()))
        .bind(each(births, |birth| birth.change.entry.occurrence.at))
        .bind(each(&sagas, |saga| saga.state.to_json()))
        .bind(each(births, |birth| birth.personal.filter(|json| !json.is_null()).map(Json::get)))
        .bind(each(births, |birth| birth.change.entry.body(epoch)))
        .bind(each(&sagas, |saga| saga.live))
        .bind(each(&sagas, |saga| small(saga.core_version)))
        .bind(each(&sagas, |saga| small(state_version(saga.core_version))))
        .bind(batch)
}

/// Inserts sagas of one home in a transaction of its own.
pub(crate) async fn insert(
    Database { pool, epoch, .. }: &Database,
    home: i16,
    births: Vec<Birth<'_>>,
) -> Result<(), Error> {
    let query = sqlx::query(INSERT).bind(home).bind(int(*epoch));
    let query = bind(query, &births, *epoch, timeline::new_batch());
    query.execute(pool).await.map_err(error::of)?;
    Ok(())
}
