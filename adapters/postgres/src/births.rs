//! Sagas are born: row, input, personal fields and first entry, many in one statement.

use amends_engine::core::Change;
use amends_protocol::Json;
use sqlx::{PgConnection, types};

use crate::{
    sagas::{CORE, STATE_VERSION, each, int, small},
    timeline,
};

/// A saga about to be born.
#[derive(Debug, Clone, Copy)]
pub struct Birth<'a> {
    /// Its row and first entry, by [`amends_engine::core::start`].
    pub change: &'a Change,
    /// Its input: everything but personal fields.
    pub data: &'a Json,
    /// Its personal fields.
    pub personal: Option<&'a Json>,
}

/// Nobody waits for rows that are new: the slots are locked first, and the entries appended behind that.
const INSERT: &str = "
    WITH rows AS (
        INSERT INTO sagas (id, slot, business_key, workflow, workflow_version, revision, label, parked, live, wake_at,
                           step, since, born_at, updated_at, state, core_version, state_version)
        SELECT w.*, $14, $15
        FROM UNNEST($1::uuid[], $2::int2[], $3::text[], $4::text[], $5::int4[], $6::int4[], $7::text[], $8::bool[],
                    $9::bool[], $10::timestamptz[], $11::text[], $12::timestamptz[], $13::timestamptz[],
                    $16::timestamptz[], $17::jsonb[]) AS w
    ), inputs AS (
        INSERT INTO saga_inputs (saga_id, data) SELECT * FROM UNNEST($1::uuid[], $18::jsonb[])
    ), personal_fields AS (
        INSERT INTO personal (saga_id, data)
        SELECT * FROM UNNEST($1::uuid[], $19::jsonb[]) AS w (saga_id, data) WHERE data IS NOT NULL
    ), locked AS MATERIALIZED (
        SELECT pg_advisory_xact_lock($20, slot)
        FROM (SELECT DISTINCT slot::int4 FROM UNNEST($2::int2[]) AS s (slot) ORDER BY 1) AS slots
    )
    INSERT INTO timeline (saga_id, slot, revision, at, body, batch)
    SELECT e.saga_id, e.slot, e.revision, e.at, e.body::jsonb, $21
    FROM (SELECT count(*) FROM locked) AS held,
         UNNEST($1::uuid[], $2::int2[], $6::int4[], $16::timestamptz[], $22::text[])
         AS e (saga_id, slot, revision, at, body)";

/// Inserts them, as part of a transaction or as one of its own.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    births: &[Birth<'_>],
    batch: i64,
) -> Result<(), sqlx::Error> {
    let sagas = each(births, |birth| &birth.change.saga);
    let at = each(births, |birth| birth.change.entry.occurrence.at);
    sqlx::query(INSERT)
        .bind(each(&sagas, |saga| saga.id))
        .bind(each(&sagas, |saga| small(saga.slot)))
        .bind(each(&sagas, |saga| saga.business_key.as_str()))
        .bind(each(&sagas, |saga| saga.workflow.as_str()))
        .bind(each(&sagas, |saga| int(saga.workflow_version)))
        .bind(each(&sagas, |saga| int(saga.revision)))
        .bind(each(&sagas, |saga| saga.label.as_str()))
        .bind(each(&sagas, |saga| saga.parked))
        .bind(each(&sagas, |saga| saga.live))
        .bind(each(&sagas, |saga| saga.wake_at))
        .bind(each(&sagas, |saga| saga.step.as_str()))
        .bind(each(&sagas, |saga| saga.since))
        .bind(each(&sagas, |saga| saga.born_at))
        .bind(CORE)
        .bind(STATE_VERSION)
        .bind(at)
        .bind(each(&sagas, |saga| types::Json(&saga.state)))
        .bind(each(births, |birth| types::Json(birth.data)))
        .bind(each(births, |birth| birth.personal.filter(|json| !json.is_null()).map(types::Json)))
        .bind(timeline::LOCK)
        .bind(batch)
        .bind(each(births, |birth| birth.change.entry.body()))
        .execute(connection)
        .await?;
    Ok(())
}
