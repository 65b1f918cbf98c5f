//! Table `odd_replies`: replies that changed nothing, by saga and reason.

use amends_engine::port::{OddAnswer, OddReplies};
use amends_pool::Pool;
use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use crate::{
    Database, Error,
    columns::{each, int},
    error,
    homes::answering_homes,
};

/// Maximum number of rows read for a saga: it has one per reason, including those of newer programs.
const ODD_REPLIES_MOST: i64 = 50;

/// The note of a saga's odd replies for one reason. The words may be a newer program's.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct OddRow {
    /// Why they changed nothing.
    pub reason: String,
    /// Whether they are on the dead letter topic.
    pub dead_lettered: bool,
    /// Minimum number of such replies: a note that fails is lost.
    pub count: i64,
    /// Time of the first note, by the database's clock.
    pub first_at: DateTime<Utc>,
    /// Time of the last note.
    pub last_at: DateTime<Utc>,
    /// Topic of the last reply.
    pub topic: String,
    /// Partition of the last reply.
    pub partition: i32,
    /// Offset of the last reply.
    pub offset: i64,
    /// The command that it answers.
    pub command_id: Option<Uuid>,
    /// The step that it names.
    pub step: Option<String>,
    /// The kind of the command.
    pub kind: Option<String>,
    /// The outcome.
    pub outcome: Option<String>,
    /// The attempt.
    pub attempt: Option<i32>,
}

/// For sagas that exist here: existing rows are incremented, unless another transaction holds them; others are
/// inserted. A row that this statement sees is not inserted, so that it does not wait for a transaction that writes it.
const NOTE: &str = r#"
    WITH w AS MATERIALIZED (
        SELECT w.*, clock_timestamp() AS now
        FROM UNNEST($2::uuid[], $3::text[], $4::boolean[], $5::int8[], $6::text[], $7::int4[], $8::int8[], $9::uuid[],
                    $10::text[], $11::text[], $12::text[], $13::int4[])
             AS w (saga_id, reason, dead_lettered, count, topic, partition, at, command_id, step, kind, outcome, attempt)
        JOIN sagas AS s ON ($1::int2 IS NULL OR s.home = $1) AND s.id = w.saga_id
    ), known AS MATERIALIZED (
        SELECT o.saga_id, o.reason FROM w
        JOIN odd_replies AS o ON ($1::int2 IS NULL OR o.home = $1) AND o.saga_id = w.saga_id AND o.reason = w.reason
    ), free AS MATERIALIZED (
        SELECT o.saga_id, o.reason FROM w
        JOIN odd_replies AS o ON ($1::int2 IS NULL OR o.home = $1) AND o.saga_id = w.saga_id AND o.reason = w.reason
        FOR UPDATE OF o SKIP LOCKED
    ), counted AS (
        UPDATE odd_replies AS o
        SET count = o.count + w.count, last_at = w.now, topic = w.topic, partition = w.partition, "offset" = w.at,
            command_id = w.command_id, step = w.step, kind = w.kind, outcome = w.outcome, attempt = w.attempt
        FROM w JOIN free ON free.saga_id = w.saga_id AND free.reason = w.reason
        WHERE ($1::int2 IS NULL OR o.home = $1) AND o.saga_id = w.saga_id AND o.reason = w.reason
    )
    INSERT INTO odd_replies (home, saga_id, reason, dead_lettered, count, first_at, last_at, topic, partition, "offset",
                             command_id, step, kind, outcome, attempt)
    SELECT $1, saga_id, reason, dead_lettered, count, now, now, topic, partition, at, command_id, step, kind, outcome,
           attempt
    FROM w WHERE (saga_id, reason) NOT IN (SELECT saga_id, reason FROM known)
    ORDER BY saga_id, reason
    ON CONFLICT (saga_id, reason, home) DO NOTHING"#;

/// Counts the replies, and stores the last for each saga and reason.
pub(crate) async fn note(Database { pool, homes, .. }: &Database, odd: &[OddReplies]) -> Result<(), Error> {
    let parts = homes.divide(odd, |odd| homes.of(odd.saga_id));
    answering_homes(parts, |home, odd| note_home(pool, home, odd)).await?;
    Ok(())
}

async fn note_home(pool: &Pool, home: i16, odd: Vec<&OddReplies>) -> Result<(), Error> {
    let odd = &odd;
    let says = |of: fn(&OddAnswer) -> String| each(odd, |o| o.last.says.as_ref().map(of));
    sqlx::query(NOTE)
        .bind(home)
        .bind(each(odd, |o| o.saga_id))
        .bind(each(odd, |o| o.reason.as_str()))
        .bind(each(odd, |o| o.reason.is_dead_lettered()))
        .bind(each(odd, |o| i64::from(o.count)))
        .bind(each(odd, |o| o.last.topic.as_str()))
        .bind(each(odd, |o| o.last.partition))
        .bind(each(odd, |o| o.last.offset))
        .bind(each(odd, |o| o.last.says.as_ref().map(|says| says.command_id)))
        .bind(each(odd, |o| o.last.says.as_ref().and_then(|says| says.step.as_deref())))
        .bind(says(|says| says.kind.as_str().to_owned()))
        .bind(says(|says| says.outcome.as_str().to_owned()))
        .bind(each(odd, |o| o.last.says.as_ref().map(|says| int(says.attempt))))
        .execute(pool)
        .await
        .map_err(error::of)?;
    Ok(())
}

/// Reads the notes of a saga, the latest first.
pub(crate) async fn rows(
    executor: impl PgExecutor<'_>,
    home: i16,
    saga_id: Uuid,
) -> Result<Vec<OddRow>, sqlx::Error> {
    sqlx::query_as(
        r#"SELECT reason, dead_lettered, count, first_at, last_at, topic, partition, "offset", command_id, step, kind,
                  outcome, attempt
           FROM odd_replies WHERE ($1::int2 IS NULL OR home = $1) AND saga_id = $2 ORDER BY last_at DESC, reason LIMIT $3"#,
    )
    .bind(home)
    .bind(saga_id)
    .bind(ODD_REPLIES_MOST)
    .fetch_all(executor)
    .await
}
