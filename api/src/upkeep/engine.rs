//! Upkeep of the engine's database.

use std::{collections::BTreeSet, time::Duration};

use amends_engine::core::SagaState;
use amends_kafka::{
    KafkaSettings,
    topics::{self, Topic},
};
use amends_postgres::{
    Error,
    upkeep::{Survey, Upkeep as Database, Walk},
};
use anyhow::Result;

use super::{Piece, Upkeep};
use crate::process::Process;

/// Partitions are made for this many months ahead.
const MONTHS_AHEAD: u16 = 3;
/// A connection for each piece, made when it is needed: the loops' own are few, and no piece waits for another's.
const CONNECTIONS: u32 = 5;

/// States that are no end.
const STATES: [SagaState; 3] = [SagaState::Running, SagaState::Compensating, SagaState::Parked];

/// Starts the engine's upkeep. Each of these workflows has its gauges.
pub async fn of_engine(
    process: &Process,
    workflows: BTreeSet<&'static str>,
    topics: Vec<Topic>,
) -> Result<()> {
    let url = process.settings.database_of("engine")?;
    let database = Database::new(amends_pool::connect(url, CONNECTIONS, "amends-engine-upkeep")?);
    let stuck_after = process.settings.stuck_after;
    let upkeep = Upkeep::new().await?;
    upkeep.add(ExpireKeys(database.clone())).await?;
    upkeep.add(EnsurePartitions(database.clone())).await?;
    upkeep.add(MarkStuck { database: database.clone(), stuck_after, walk: Walk::default() }).await?;
    upkeep.add(SweepMissed(database.clone())).await?;
    upkeep.add(CountOpen { database, survey: Survey::default(), workflows }).await?;
    upkeep
        .add(EnsureTopics { kafka: process.kafka.clone(), topics, patience: process.settings.start_timeout })
        .await?;
    upkeep.start(process).await
}

/// Idempotency keys that have expired.
struct ExpireKeys(Database);

impl Piece for ExpireKeys {
    const NAME: &'static str = "expiry of idempotency keys";
    const PERIOD: Duration = Duration::from_secs(60);
    type Error = Error;

    async fn run_once(&mut self) -> Result<(), Error> {
        self.0.expire_keys(5_000).await.map(drop)
    }
}

/// Months to come.
struct EnsurePartitions(Database);

impl Piece for EnsurePartitions {
    const NAME: &'static str = "partitions";
    const PERIOD: Duration = Duration::from_secs(3600);
    type Error = Error;

    async fn run_once(&mut self) -> Result<(), Error> {
        let made = self.0.ensure_partitions(MONTHS_AHEAD).await?;
        if made > 0 {
            tracing::info!(partitions = made, "made partitions of the months to come");
        }
        Ok(())
    }
}

/// Sagas that do not get on.
struct MarkStuck {
    database: Database,
    stuck_after: Duration,
    walk: Walk,
}

impl Piece for MarkStuck {
    const NAME: &'static str = "marking the stuck";
    const PERIOD: Duration = Duration::from_secs(2);
    type Error = Error;

    async fn run_once(&mut self) -> Result<(), Error> {
        let marked = self.database.mark_stuck(self.stuck_after, &mut self.walk).await?;
        if let Some(first) = marked.first() {
            let after = self.stuck_after.as_secs();
            tracing::warn!(sagas = marked.len(), %first, "marked sagas as stuck: where they are for {after}s");
        }
        Ok(())
    }
}

/// Live sagas that nothing would wake.
struct SweepMissed(Database);

impl Piece for SweepMissed {
    const NAME: &'static str = "sweep for missed wake-ups";
    const PERIOD: Duration = Duration::from_secs(10);
    type Error = Error;

    async fn run_once(&mut self) -> Result<(), Error> {
        let woken = self.0.sweep_missed().await?;
        if let Some(first) = woken.first() {
            tracing::error!(sagas = woken.len(), %first, "woke sagas that were live and had no time to wake");
        }
        Ok(())
    }
}

/// Gauges of what has not ended.
struct CountOpen {
    database: Database,
    survey: Survey,
    workflows: BTreeSet<&'static str>,
}

impl Piece for CountOpen {
    const NAME: &'static str = "counts";
    const PERIOD: Duration = Duration::from_secs(2);
    type Error = Error;

    async fn run_once(&mut self) -> Result<(), Error> {
        let Some(counts) = self.database.count_some(&mut self.survey).await? else { return Ok(()) };
        // A gauge of what is no longer there would stand still.
        for (workflow, state) in
            self.workflows.iter().flat_map(|workflow| STATES.map(|state| (*workflow, state)))
        {
            if !counts.iter().any(|count| count.workflow == workflow && count.state == state) {
                let labels = [("workflow", workflow), ("state", state.as_str())];
                metrics::gauge!("amends_engine_sagas", &labels).set(0.0);
                metrics::gauge!("amends_engine_sagas_stuck", &labels).set(0.0);
            }
        }
        for count in counts {
            let labels = [("workflow", count.workflow), ("state", count.state.as_str().to_owned())];
            metrics::gauge!("amends_engine_sagas", &labels).set(count.sagas as f64);
            metrics::gauge!("amends_engine_sagas_stuck", &labels).set(count.stuck as f64);
        }
        Ok(())
    }
}

/// Topics that a broker has lost.
struct EnsureTopics {
    kafka: KafkaSettings,
    topics: Vec<Topic>,
    patience: Duration,
}

impl Piece for EnsureTopics {
    const NAME: &'static str = "topics";
    const PERIOD: Duration = Duration::from_secs(30);
    type Error = amends_kafka::Error;

    async fn run_once(&mut self) -> Result<(), amends_kafka::Error> {
        topics::ensure(&self.kafka, &self.topics, self.patience).await.map(drop)
    }
}
