//! Table `deferred_replies`: replies that could not be judged on arrival.

use amends_engine::port::{DeferredId, DeferredReply, DeferredScan};
use amends_pool::Pool;
use amends_protocol::transport::Inbound;
use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use crate::{
    Database, Error, Homes,
    columns::{each, int, small},
    error,
    homes::{Answers, answering_homes, answers_of_homes, each_home},
    sagas::mask,
};

/// Number of other homes that are tried where a home does not take its replies.
const ELSEWHERE_MOST: usize = 4;

/// Stores replies. A reply that is already stored is due again after its rest, for any program that can judge it then.
/// What a home does not take is stored in another one that answers, because its messages will not come again.
pub(crate) async fn keep(
    Database { pool, homes, .. }: &Database,
    replies: &[DeferredReply],
) -> Result<(), Error> {
    let mut replies: Vec<(DeferredId, &DeferredReply)> = replies.iter().map(|r| (r.id(), r)).collect();
    replies.sort_by_key(|(id, _)| *id);
    replies.dedup_by_key(|(id, _)| *id);
    let parts = homes.divide(replies, |(id, _)| homes.of(id.saga_id));
    let keep = |home, replies| keep_home(pool, home, replies);
    let Answers { failed, .. } = answers_of_homes(*homes, parts, keep).await?;
    for (replies, error) in failed {
        keep_elsewhere(pool, *homes, replies, error).await?;
    }
    Ok(())
}

/// Stores replies of a home that has failed in the next of the others that answers.
async fn keep_elsewhere(
    pool: &Pool,
    homes: Homes,
    replies: Vec<(DeferredId, &DeferredReply)>,
    mut error: Error,
) -> Result<(), Error> {
    let Some(own) = replies.first().map(|(id, _)| homes.of(id.saga_id)) else { return Ok(()) };
    let count = homes.count() as i16;
    for home in (1..count).take(ELSEWHERE_MOST).map(|next| (own + next) % count) {
        match keep_home(pool, home, replies.clone()).await {
            Ok(()) => return Ok(()),
            Err(other) => error = other,
        }
    }
    Err(error)
}

async fn keep_home(pool: &Pool, home: i16, replies: Vec<(DeferredId, &DeferredReply)>) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO deferred_replies AS d (home, saga_id, digest, slot, workflow, workflow_version, core_version,
                                            state_version, why, due_at, topic, partition, \"offset\", reply)
         SELECT $1, saga_id, digest, slot, workflow, workflow_version, core_version, state_version, why,
                clock_timestamp() + make_interval(secs => rest), topic, partition, at, reply
         FROM UNNEST($2::uuid[], $3::uuid[], $4::int2[], $5::text[], $6::int4[], $7::int2[], $8::int2[], $9::text[],
                     $10::float8[], $11::text[], $12::int4[], $13::int8[], $14::text[])
              AS w (saga_id, digest, slot, workflow, workflow_version, core_version, state_version, why, rest, topic,
                    partition, at, reply)
         ON CONFLICT (saga_id, digest, home) DO UPDATE
         SET why = EXCLUDED.why, due_at = EXCLUDED.due_at, workflow = EXCLUDED.workflow,
             workflow_version = EXCLUDED.workflow_version, core_version = EXCLUDED.core_version,
             state_version = EXCLUDED.state_version",
    )
    .bind(home)
    .bind(each(&replies, |(id, _)| id.saga_id))
    .bind(each(&replies, |(id, _)| id.digest))
    .bind(each(&replies, |(_, r)| small(r.slot)))
    .bind(each(&replies, |(_, r)| r.requires.workflow.as_str()))
    .bind(each(&replies, |(_, r)| int(r.requires.workflow_version)))
    .bind(each(&replies, |(_, r)| small(r.requires.core_version)))
    .bind(each(&replies, |(_, r)| small(r.requires.state_version)))
    .bind(each(&replies, |(_, r)| r.why.as_str()))
    .bind(each(&replies, |(_, r)| r.rest.as_secs_f64()))
    .bind(each(&replies, |(_, r)| r.message.topic.as_str()))
    .bind(each(&replies, |(_, r)| r.message.partition))
    .bind(each(&replies, |(_, r)| r.message.offset))
    .bind(each(&replies, |(_, r)| String::from_utf8_lossy(&r.message.bytes)))
    .execute(pool)
    .await
    .map_err(error::of)?;
    Ok(())
}

#[derive(FromRow)]
struct DeferredRow {
    saga_id: Uuid,
    digest: Uuid,
    due_at: DateTime<Utc>,
    topic: String,
    partition: i32,
    offset: i64,
    reply: String,
}

/// Reads the replies that are due and that the program can judge. No reply rests for a minute or longer: one that is
/// due later than that was stored before the database's clock was set back.
pub(crate) async fn due(
    Database { pool, homes, .. }: &Database,
    scan: &DeferredScan,
) -> Result<Vec<(DeferredId, Inbound)>, Error> {
    let all = homes.all().map(|home| (home, ()));
    let found = answering_homes(all, |home, ()| due_home(pool, home, scan)).await?;
    let mut rows: Vec<DeferredRow> = found.into_iter().flatten().collect();
    rows.sort_by_key(|row| row.due_at);
    rows.truncate(scan.limit as usize);
    let read = |row: DeferredRow| {
        let message = Inbound {
            topic: row.topic,
            partition: row.partition,
            offset: row.offset,
            traceparent: None,
            signature: None,
            bytes: row.reply.into_bytes(),
        };
        (DeferredId { saga_id: row.saga_id, digest: row.digest }, message)
    };
    Ok(rows.into_iter().map(read).collect())
}

async fn due_home(pool: &Pool, home: i16, scan: &DeferredScan) -> Result<Vec<DeferredRow>, Error> {
    let workflows = &scan.known.workflows;
    sqlx::query_as(
        "SELECT d.* FROM UNNEST($2::text[], $3::int4[]) AS k (workflow, workflow_version)
         CROSS JOIN LATERAL (
             SELECT saga_id, digest, due_at, topic, partition, \"offset\", reply FROM deferred_replies AS d
             WHERE ($1::int2 IS NULL OR d.home = $1) AND d.workflow = k.workflow AND d.workflow_version = k.workflow_version
               AND d.core_version <= $4 AND d.state_version <= $5
               AND (d.due_at > clock_timestamp() + interval '1 minute'
                    OR d.due_at <= clock_timestamp() - CASE WHEN get_bit($6, d.slot) = 1 THEN interval '0'
                                                            ELSE make_interval(secs => $7) END)
             ORDER BY d.due_at LIMIT $8) AS d
         ORDER BY d.due_at LIMIT $8",
    )
    .bind(home)
    .bind(each(workflows, |(name, _)| name.as_str()))
    .bind(each(workflows, |(_, version)| int(*version)))
    .bind(small(scan.known.core_version))
    .bind(small(scan.known.state_version))
    .bind(mask(&scan.slots))
    .bind(scan.abroad.as_secs_f64())
    .bind(i64::from(scan.limit))
    .fetch_all(pool)
    .await
    .map_err(error::of)
}

/// Deletes replies that were judged.
pub(crate) async fn forget(Database { pool, homes, .. }: &Database, ids: &[DeferredId]) -> Result<(), Error> {
    let mut ids: Vec<&DeferredId> = ids.iter().collect();
    ids.sort();
    let parts = homes.divide(ids.iter().copied(), |id| homes.of(id.saga_id));
    let deleted = each_home(parts, |home, ids| forget_home(pool, home, ids)).await?;
    if *homes != Homes::ONE && deleted.iter().sum::<u64>() < ids.len() as u64 {
        // The others were stored elsewhere.
        let all = homes.all().map(|home| (home, ids.clone()));
        answering_homes(all, |home, ids| forget_home(pool, home, ids)).await?;
    }
    Ok(())
}

async fn forget_home(pool: &Pool, home: i16, ids: Vec<&DeferredId>) -> Result<u64, Error> {
    let deleted = sqlx::query(
        "DELETE FROM deferred_replies AS d USING UNNEST($2::uuid[], $3::uuid[]) AS w (saga_id, digest)
         WHERE ($1::int2 IS NULL OR d.home = $1) AND d.saga_id = w.saga_id AND d.digest = w.digest",
    )
    .bind(home)
    .bind(each(&ids, |id| id.saga_id))
    .bind(each(&ids, |id| id.digest))
    .execute(pool)
    .await
    .map_err(error::of)?;
    Ok(deleted.rows_affected())
}
