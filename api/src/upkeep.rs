//! What is done every so often, by tokio-cron-scheduler. Any number of processes may do it at once.

use std::{
    collections::BTreeSet,
    fmt::Display,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use amends_engine::core::SagaState;
use amends_kafka::topics::{self, Topic};
use amends_postgres::upkeep::Upkeep;
use amends_worker::{PgRows, Settings, expire_rows};
use anyhow::Result;
use sqlx::PgPool;
use tokio_cron_scheduler::{Job, JobScheduler};

use crate::process::Process;

const KEYS: u32 = 5_000;
/// Partitions are made for this many months ahead.
const MONTHS: u16 = 3;

/// What took long is not done again for so many times as long: a million parked sagas are not counted all the time.
const REST: u32 = 100;

const OFTEN: Duration = Duration::from_secs(10);
const HALF_MINUTE: Duration = Duration::from_secs(30);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// States that are no end.
const STATES: [SagaState; 3] = [SagaState::Running, SagaState::Compensating, SagaState::Parked];

/// One piece of upkeep of a database at a time: with millions of sagas that wait some take seconds, and the loops'
/// connections are few.
type Turn = Arc<tokio::sync::Mutex<()>>;

/// Starts the engine's upkeep.
pub async fn of_engine(
    process: &Process,
    pool: PgPool,
    workflows: BTreeSet<&'static str>,
    topics: Vec<Topic>,
) -> Result<()> {
    let stuck_after = process.settings.stuck_after;
    let (scheduler, turn) = (JobScheduler::new().await?, Turn::default());
    let upkeep = || Upkeep::new(pool.clone());
    every(&scheduler, &turn, MINUTE, "expiry of idempotency keys", upkeep(), |upkeep| async move {
        while upkeep.expire_keys(KEYS).await? >= u64::from(KEYS) {}
        Ok::<_, amends_postgres::Error>(())
    })
    .await?;
    every(&scheduler, &turn, HOUR, "partitions", upkeep(), |upkeep| async move {
        upkeep.ensure_partitions(MONTHS).await.map(drop)
    })
    .await?;
    every(&scheduler, &turn, OFTEN, "marking the stuck", upkeep(), move |upkeep| async move {
        for saga in upkeep.mark_stuck(stuck_after).await? {
            tracing::warn!(%saga, "stuck: where it is for {}s", stuck_after.as_secs());
        }
        Ok::<_, amends_postgres::Error>(())
    })
    .await?;
    every(&scheduler, &turn, OFTEN, "sweep for missed wake-ups", upkeep(), |upkeep| async move {
        for saga in upkeep.sweep_missed().await? {
            tracing::error!(%saga, "was live and had no time to wake; woken");
        }
        Ok::<_, amends_postgres::Error>(())
    })
    .await?;
    let asked = (upkeep(), workflows);
    every(&scheduler, &turn, OFTEN, "counts", asked, |(upkeep, workflows)| async move {
        let counted = upkeep.counts().await?;
        // A gauge of what is no longer there would stand still.
        for (workflow, state) in workflows.iter().flat_map(|workflow| STATES.map(|state| (*workflow, state)))
        {
            if !counted.iter().any(|c| c.workflow == workflow && c.state == state) {
                let labels = [("workflow", workflow), ("state", state.as_str())];
                metrics::gauge!("amends_engine_sagas", &labels).set(0.0);
                metrics::gauge!("amends_engine_sagas_stuck", &labels).set(0.0);
            }
        }
        for count in counted {
            let labels = [("workflow", count.workflow.clone()), ("state", count.state.as_str().to_owned())];
            metrics::gauge!("amends_engine_sagas", &labels).set(count.sagas as f64);
            metrics::gauge!("amends_engine_sagas_stuck", &labels).set(count.stuck as f64);
        }
        Ok::<_, amends_postgres::Error>(())
    })
    .await?;
    let asked = (process.kafka.clone(), topics, process.settings.start_timeout);
    // It waits for the broker, and keeps no connection.
    every(
        &scheduler,
        &Turn::default(),
        HALF_MINUTE,
        "topics",
        asked,
        |(kafka, topics, patience)| async move { topics::ensure(&kafka, &topics, patience).await.map(drop) },
    )
    .await?;
    until_stopped(process, scheduler).await
}

/// Starts a worker's upkeep.
pub async fn of_worker(process: &Process, pool: PgPool, settings: Settings) -> Result<()> {
    let scheduler = JobScheduler::new().await?;
    every(
        &scheduler,
        &Turn::default(),
        HOUR,
        "expiry of worker rows",
        (PgRows::new(pool), settings),
        |(rows, settings)| async move {
            let gone = expire_rows(&rows, &settings).await?;
            tracing::info!(worker = settings.name, rows = gone, "forgot rows past two horizons");
            Ok::<_, amends_worker::store::Error>(())
        },
    )
    .await?;
    until_stopped(process, scheduler).await
}

async fn until_stopped(process: &Process, mut scheduler: JobScheduler) -> Result<()> {
    scheduler.start().await?;
    let stop = process.stop.clone();
    process.watch("upkeep", async move {
        stop.cancelled().await;
        let _ = scheduler.shutdown().await;
    });
    Ok(())
}

/// Schedules one piece of upkeep; a failure is logged and it is done again next time.
async fn every<T, F, E>(
    scheduler: &JobScheduler,
    turn: &Turn,
    period: Duration,
    name: &'static str,
    with: T,
    work: impl Fn(T) -> F + Send + Sync + 'static,
) -> Result<()>
where
    T: Clone + Send + Sync + 'static,
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Display + Send + 'static,
{
    let (work, turn, rests_until) = (Arc::new(work), Arc::clone(turn), Arc::new(Mutex::new(Instant::now())));
    let run = move |_, _| -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (work, with, rests_until) = (Arc::clone(&work), with.clone(), Arc::clone(&rests_until));
        let turn = Arc::clone(&turn);
        Box::pin(async move {
            let _turn = turn.lock().await;
            let begun = Instant::now();
            if begun < *rests_until.lock().unwrap_or_else(PoisonError::into_inner) {
                return;
            }
            if let Err(error) = work(with).await {
                tracing::warn!(name, %error, "upkeep failed; it will be done again");
            }
            let rest = begun.elapsed() * REST;
            *rests_until.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + rest;
        })
    };
    scheduler.add(Job::new_repeated_async(period, run)?).await?;
    Ok(())
}
