//! Inserts new sagas: row, personal fields and first entry, many in one statement.

use amends_engine::core::{Change, state_version};
use amends_pool::Connection;
use amends_protocol::Json;
use sqlx::{
    Postgres,
    postgres::{PgArguments, PgQueryResult},
    query::Query,
};

use crate::{
    columns::{each, int, small},
    timeline,
};

/// A saga to insert.
#[derive(Debug, Clone, Copy)]
pub struct Birth<'a> {
    /// Its row and its first entry, which contains its input, as returned by [`amends_engine::core::start`].
    pub change: &'a Change,
    /// Its personal fields.
    pub personal: Option<&'a Json>,
}

/// The parameters of [`births::bind`](crate::births::bind), as the columns of a table function.
#[macro_export]
macro_rules! birth_columns {
    () => {
        "UNNEST($1::uuid[], $2::int2[], $3::text[], $4::text[], $5::int4[], $6::text[], $7::timestamptz[], $8::text[],
                $9::timestamptz[], $10::text[], $11::text[], $12::text[], $13::bool[], $14::int2[], $15::int2[]"
    };
}
/// The names of [`birth_columns!`].
#[macro_export]
macro_rules! birth_names {
    () => {
        "saga_id, slot, business_key, workflow, workflow_version, label, wake_at, step, at, state, personal, body, live, \
         core_version, state_version"
    };
}
/// Parts of a statement that insert the sagas in `new`. New rows block no other transaction, so the slots are locked
/// late, and the entries are appended after that.
#[macro_export]
macro_rules! birth_rows {
    () => {
        "rows AS (
            INSERT INTO sagas (id, slot, business_key, workflow, workflow_version, revision, label, parked, live, wake_at,
                               step, since, born_at, updated_at, state, core_version, state_version)
            SELECT saga_id, slot, business_key, workflow, workflow_version, 1, label, false, live, wake_at,
                   step, at, at, at, state, core_version, state_version FROM new
        ), personal_fields AS (
            INSERT INTO personal (saga_id, data) SELECT saga_id, personal FROM new WHERE personal IS NOT NULL
        ), locked AS MATERIALIZED (
            SELECT pg_advisory_xact_lock($16, slot) FROM (SELECT DISTINCT slot::int4 FROM new ORDER BY 1) AS slots
        ), appended AS (
            INSERT INTO timeline (saga_id, slot, revision, at, body, batch)
            SELECT e.saga_id, e.slot, 1, e.at, e.body, $17 FROM (SELECT count(*) FROM locked) AS held, new AS e
        )"
    };
}
const INSERT: &str = concat!(
    "WITH new AS MATERIALIZED (SELECT * FROM ",
    birth_columns!(),
    ") AS w (",
    birth_names!(),
    ")), ",
    birth_rows!(),
    " SELECT FROM new"
);

/// Binds the parameters of these parts: the first seventeen.
pub fn bind<'q>(
    query: Query<'q, Postgres, PgArguments>,
    births: &[Birth<'q>],
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
        .bind(each(births, |birth| birth.change.entry.body()))
        .bind(each(&sagas, |saga| saga.live))
        .bind(each(&sagas, |saga| small(saga.core_version)))
        .bind(each(&sagas, |saga| small(state_version(saga.core_version))))
        .bind(timeline::LOCK)
        .bind(batch)
}

/// Inserts sagas in a transaction of its own.
pub(crate) async fn insert(
    connection: &mut Connection,
    births: &[Birth<'_>],
    batch: i64,
) -> Result<PgQueryResult, sqlx::Error> {
    bind(sqlx::query(INSERT), births, batch).execute(connection).await
}
