//! What the database says of the same latency: a check on what the load has seen, for rows with one saga in flight.

use std::time::Duration;

use amends_workflows::order_fulfilment::FULFILLED;
use anyhow::Result;
use sqlx::PgPool;

use crate::{args::Mode, meter::latency::Latency, roles::three_steps};

/// From birth to when the decisive reply was decided, by the database's clock, of the last `within`. A little less than
/// what is waited for: the POST before it and the commit after it are not in it.
pub async fn latency(engine: &PgPool, mode: Mode, within: Duration) -> Result<Option<Latency>> {
    let label = if mode == Mode::Engine { three_steps::DONE } else { FULFILLED };
    let milliseconds: Vec<f64> = sqlx::query_scalar(
        "SELECT extract(epoch FROM t.at - s.born_at)::float8 * 1000
         FROM timeline AS t JOIN sagas AS s ON s.id = t.saga_id
         WHERE t.at > clock_timestamp() - make_interval(secs => $1)
           AND t.body::jsonb -> 'did' ->> 'label' = $2",
    )
    .bind(within.as_secs_f64())
    .bind(label)
    .fetch_all(engine)
    .await?;
    let seconds = milliseconds.into_iter().map(|ms| Duration::from_secs_f64(ms.max(0.0) / 1_000.0));
    Ok(Latency::of(seconds))
}
