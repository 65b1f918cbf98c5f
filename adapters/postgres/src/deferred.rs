//! Table `deferred_replies`: replies that could not be judged on arrival.

use amends_engine::port::{DeferredId, DeferredReply, DeferredScan};
use amends_pool::Pool;
use amends_protocol::transport::Inbound;
use sqlx::FromRow;
use uuid::Uuid;

use crate::{
    Error,
    columns::{each, int, small},
    error,
    sagas::mask,
};

/// Stores replies. A reply that is already stored is due again after its rest, for any program that can judge it then.
pub(crate) async fn keep(pool: &Pool, replies: &[DeferredReply]) -> Result<(), Error> {
    let mut replies: Vec<(DeferredId, &DeferredReply)> = replies.iter().map(|r| (r.id(), r)).collect();
    replies.sort_by_key(|(id, _)| *id);
    replies.dedup_by_key(|(id, _)| *id);
    sqlx::query(
        "INSERT INTO deferred_replies AS d (saga_id, digest, slot, workflow, workflow_version, core_version, state_version,
                                            why, due_at, topic, partition, \"offset\", reply)
         SELECT saga_id, digest, slot, workflow, workflow_version, core_version, state_version, why,
                clock_timestamp() + make_interval(secs => rest), topic, partition, at, reply
         FROM UNNEST($1::uuid[], $2::uuid[], $3::int2[], $4::text[], $5::int4[], $6::int2[], $7::int2[], $8::text[],
                     $9::float8[], $10::text[], $11::int4[], $12::int8[], $13::text[])
              AS w (saga_id, digest, slot, workflow, workflow_version, core_version, state_version, why, rest, topic,
                    partition, at, reply)
         ON CONFLICT (saga_id, digest) DO UPDATE
         SET why = EXCLUDED.why, due_at = EXCLUDED.due_at, workflow = EXCLUDED.workflow,
             workflow_version = EXCLUDED.workflow_version, core_version = EXCLUDED.core_version,
             state_version = EXCLUDED.state_version",
    )
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
    topic: String,
    partition: i32,
    offset: i64,
    reply: String,
}

/// Reads the replies that are due and that the program can judge. No reply rests for a minute or longer: one that is
/// due later than that was stored before the database's clock was set back.
pub(crate) async fn due(pool: &Pool, scan: &DeferredScan) -> Result<Vec<(DeferredId, Inbound)>, Error> {
    let workflows = &scan.known.workflows;
    let rows: Vec<DeferredRow> = sqlx::query_as(
        "SELECT d.* FROM UNNEST($1::text[], $2::int4[]) AS k (workflow, workflow_version)
         CROSS JOIN LATERAL (
             SELECT saga_id, digest, due_at, topic, partition, \"offset\", reply FROM deferred_replies AS d
             WHERE d.workflow = k.workflow AND d.workflow_version = k.workflow_version
               AND d.core_version <= $3 AND d.state_version <= $4
               AND (d.due_at > clock_timestamp() + interval '1 minute'
                    OR d.due_at <= clock_timestamp() - CASE WHEN get_bit($5, d.slot) = 1 THEN interval '0'
                                                            ELSE make_interval(secs => $6) END)
             ORDER BY d.due_at LIMIT $7) AS d
         ORDER BY d.due_at LIMIT $7",
    )
    .bind(each(workflows, |(name, _)| name.as_str()))
    .bind(each(workflows, |(_, version)| int(*version)))
    .bind(small(scan.known.core_version))
    .bind(small(scan.known.state_version))
    .bind(mask(&scan.slots))
    .bind(scan.abroad.as_secs_f64())
    .bind(i64::from(scan.limit))
    .fetch_all(pool)
    .await
    .map_err(error::of)?;
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

/// Deletes replies that were judged.
pub(crate) async fn forget(pool: &Pool, ids: &[DeferredId]) -> Result<(), Error> {
    let mut ids: Vec<&DeferredId> = ids.iter().collect();
    ids.sort();
    sqlx::query(
        "DELETE FROM deferred_replies AS d USING UNNEST($1::uuid[], $2::uuid[]) AS w (saga_id, digest)
         WHERE d.saga_id = w.saga_id AND d.digest = w.digest",
    )
    .bind(each(&ids, |id| id.saga_id))
    .bind(each(&ids, |id| id.digest))
    .execute(pool)
    .await
    .map_err(error::of)?;
    Ok(())
}
