//! `amends engine`: drives sagas.

use std::{future::Future, sync::Arc, time::Duration};

use amends_engine::{
    core::Catalog,
    port::{self, Clock, SagaStore},
    runtime::{
        Engine, Error, News, Ownership, RepeatBudget, deferred, recovery::Recovery, replies, rest, timers,
    },
};
use amends_kafka::{KafkaSink, KafkaSource};
use amends_postgres::{Database, PgSagaStore};
use amends_protocol::transport::Source;
use amends_workflows::Workflows;
use anyhow::Result;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::TokioClock,
    engine::command_sink,
    failpoints::point,
    fleet,
    process::{Process, engine_database},
    publisher, routes, topics, upkeep,
    webhooks::{self, fan_out::FanOut},
};

/// The consumer group whose members share the slots.
pub(crate) const ENGINE_GROUP: &str = "amends-engine";
/// The longest run of a loop.
const TURN_LONGEST: Duration = Duration::from_secs(30);
/// Interval between checks for slots to recover.
const RECOVERY_POLL: Duration = Duration::from_millis(100);

/// What an engine drives, and whether it publishes events.
pub struct Drives<S> {
    /// Creates the store of its sagas.
    pub store: Box<dyn FnOnce(Database) -> S + Send>,
    /// The workflows.
    pub catalog: Catalog,
    /// Workflows whose domain events are published; `None` for none.
    pub publishes: Option<Workflows>,
}

/// Starts its loops and, in a separate process, its listener.
pub async fn start(process: &Process, observed: bool) -> Result<()> {
    let workflows = amends_workflows::all(&process.settings.workflows());
    let catalog = workflows.catalog();
    let store = Box::new(|database| point("store", PgSagaStore::new(database)));
    drive(process, observed, Drives { store, catalog, publishes: Some(workflows) }).await
}

/// The same over any workflows.
pub async fn drive<S: SagaStore + 'static>(
    process: &Process,
    observed: bool,
    Drives { store, catalog, publishes }: Drives<S>,
) -> Result<()> {
    let (database, deployment) = engine_database(process, "engine").await?;
    let pool = database.pool.clone();
    let (ownership, news) = (Ownership::default(), News::default());
    let engine = Arc::new(Engine {
        store: store(database.clone()),
        sink: point("sink", command_sink(&process.kafka, &pool).await?),
        clock: TokioClock::default(),
        catalog,
        key: deployment.key,
        epoch: deployment.epoch,
        ownership: ownership.clone(),
        news: news.clone(),
        budget: RepeatBudget::default(),
        recent: Default::default(),
        passed_over: Default::default(),
        fleet: Default::default(),
    });
    fleet::join(process, &engine).await?;
    let mut source =
        point("source", KafkaSource::subscribe(&process.kafka, ENGINE_GROUP, &[topics::REPLIES])?);
    let stop = || process.stop.clone();

    let (shared, stopping) = (Arc::clone(&engine), stop());
    process.watch("replies", async move {
        let mut failures = 0;
        while !stopping.is_cancelled() {
            let taken = match timeout(TURN_LONGEST, replies::run_once(&*shared, &mut source)).await {
                Ok(taken) => taken.map(|_| Duration::ZERO),
                // Dropping it is like a crash: received messages are received again.
                Err(_) => source.rewind().map_err(Error::from).and_then(|()| late()),
            };
            pause("replies", taken, &mut failures, &stopping, &shared.clock).await;
        }
    });
    let (shared, stopping) = (Arc::clone(&engine), stop());
    process.watch("timers", async move {
        let (mut timers, mut failures) = (timers::Timers::default(), 0);
        while !stopping.is_cancelled() {
            let taken = timeout(TURN_LONGEST, timers.run_once(&shared)).await.unwrap_or_else(|_| late());
            let idle = taken.map(|n| if n < timers::BATCH as usize { timers::POLL } else { Duration::ZERO });
            pause("timers", idle, &mut failures, &stopping, &shared.clock).await;
        }
    });
    let (shared, stopping) = (Arc::clone(&engine), stop());
    process.watch("deferred", async move {
        let mut failures = 0;
        while !stopping.is_cancelled() {
            let taken = timeout(TURN_LONGEST, deferred::run_once(&shared)).await.unwrap_or_else(|_| late());
            let full = deferred::DEFERRED_BATCH as usize;
            let idle = taken.map(|n| if n < full { deferred::DEFERRED_POLL } else { Duration::ZERO });
            pause("deferred", idle, &mut failures, &stopping, &shared.clock).await;
        }
    });
    let (shared, stopping) = (Arc::clone(&engine), stop());
    process.watch("recovery", async move {
        let (mut recovery, mut failures) = (Recovery::default(), 0);
        while !stopping.is_cancelled() {
            let sent = timeout(TURN_LONGEST, recovery.run_once(&shared)).await.unwrap_or_else(|_| late());
            let sent = sent.map(|_: usize| RECOVERY_POLL);
            pause("recovery", sent, &mut failures, &stopping, &shared.clock).await;
        }
    });
    if let Some(workflows) = publishes {
        let fan_out = webhooks::start(process, deployment.homes).await?;
        publish(process, workflows, &database, ownership, news, fan_out)?;
    }
    upkeep::of_engine(process, deployment.homes, &engine.catalog, topics::all(&process.settings)).await?;
    if observed {
        process.observe(routes::health::Ready::database(&pool).and(process.broker_ready())).await?;
    }
    Ok(())
}

fn publish(
    process: &Process,
    workflows: Workflows,
    database: &Database,
    ownership: Ownership,
    news: News,
    fan_out: FanOut,
) -> Result<()> {
    let mut publisher = publisher::Publisher::new(
        workflows,
        database,
        point("events", KafkaSink::of_events(&process.kafka)?),
        ownership,
        news,
        fan_out,
    );
    let stopping = process.stop.clone();
    process.watch("publisher", async move {
        let (clock, mut failures) = (TokioClock::default(), 0);
        while !stopping.is_cancelled() {
            let read = timeout(TURN_LONGEST, publisher.run_once()).await.unwrap_or_else(|_| late());
            pause("publisher", read.map(publisher::rest), &mut failures, &stopping, &clock).await;
        }
        // What is not stored is published again by the next owner.
        let ended = timeout(TURN_LONGEST, publisher.end()).await.unwrap_or_else(|_| late());
        if let Err(error) = ended {
            tracing::warn!(%error, "the watermarks of published events could not be stored");
        }
    });
    Ok(())
}

/// The error for neither an answer nor an error: a server that hangs, or a connection that was never closed.
fn late<T>() -> Result<T, Error> {
    Err(port::Error::Unavailable(format!("no answer within {}s", TURN_LONGEST.as_secs())).into())
}

/// Pauses after a run: as long as the loop wants, or, after a failure, longer each time. A running role survives
/// outages of its broker and its database.
async fn pause(
    name: &'static str,
    turn: Result<Duration, Error>,
    failures: &mut u32,
    stop: &CancellationToken,
    clock: &TokioClock,
) {
    let idle = match turn {
        Ok(idle) => {
            if *failures > 0 {
                tracing::info!(name, failures, "recovered after failures");
            }
            *failures = 0;
            idle
        }
        Err(error) => {
            *failures += 1;
            metrics::counter!("amends_engine_loop_failures_total", "loop" => name).increment(1);
            // The first failure is logged; repetitions are logged ever more rarely.
            if failures.is_power_of_two() {
                tracing::warn!(name, %error, failures, "the run failed and will be retried");
            }
            rest(*failures, clock.jitter())
        }
    };
    if !idle.is_zero() {
        wait(stop, clock.sleep(idle)).await;
    }
}

async fn wait(stop: &CancellationToken, sleep: impl Future<Output = ()>) {
    tokio::select! {
        () = sleep => {}
        () = stop.cancelled() => {}
    }
}
