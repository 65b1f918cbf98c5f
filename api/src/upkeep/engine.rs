//! Upkeep of the engine's database.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use amends_engine::core::{Catalog, SagaState};
use amends_kafka::{
    KafkaSettings,
    topics::{self, Topic},
};
use amends_orders::{
    answers::AnswerStore,
    keys::{self, KeyClass},
    webhook_deliveries::DeliveryStore,
};
use amends_pool::{Bounds, Pool};
use amends_postgres::{
    Database, Error, Homes,
    exposure::ExposureSurvey,
    lost_commits,
    retention::{History, RetiredMonth},
    upkeep::{Survey, Upkeep as EngineUpkeep, Walk},
};
use amends_workflows::{
    order_fulfilment::{MONEY_CAPTURED, STATUSES},
    order_refund,
};
use anyhow::Result;
use iso_currency::Currency;

use super::{
    Piece, Upkeep,
    statistics::CountWrites,
    webhooks::{CountDeliveries, ExpireDeliveries},
};
use crate::process::Process;

/// Number of months ahead for which partitions are created.
const MONTHS_AHEAD: u16 = 3;
/// One connection per piece, opened when needed: the loops have only a few, and no piece waits for another's.
const UPKEEP_CONNECTIONS: u32 = 14;
/// Maximum number of pages of expired answers that one run deletes.
const ANSWER_PAGES_MOST: usize = 50;

/// For how long lost commits are shown after they were noted.
const LOST_LATELY: Duration = Duration::from_secs(24 * 60 * 60);

/// States that are not final.
const STATES: [SagaState; 3] = [SagaState::Running, SagaState::Compensating, SagaState::Parked];

/// Starts the engine's upkeep. Each of these workflows has its gauges.
pub async fn of_engine(process: &Process, homes: Homes, catalog: &Catalog, topics: Vec<Topic>) -> Result<()> {
    let url = process.settings.database_of("engine")?;
    let all = Database::connect(url, UPKEEP_CONNECTIONS, "amends-engine-upkeep", Bounds::default(), homes)?;
    process.watch_statements(&all.pool);
    let (pool, database) = (all.pool.clone(), EngineUpkeep::new(all.clone()).of_workflows(catalog));
    let workflows = catalog.iter().map(|definition| definition.name).collect();
    let (stuck_after, retention) = (process.settings.stuck_after, process.settings.retention);
    let upkeep = Upkeep::new().await?;
    upkeep.add(ForgetAnswers(AnswerStore::new(all))).await?;
    upkeep.add(ExpireDeliveries(DeliveryStore::new(pool.clone()))).await?;
    upkeep.add(CountDeliveries(DeliveryStore::new(pool.clone()))).await?;
    upkeep.add(CountWrites::of("engine", pool.clone())).await?;
    upkeep.add(CountLostCommits(pool.clone())).await?;
    upkeep.add(TurnKeys(pool)).await?;
    upkeep.add(EnsurePartitions(database.clone())).await?;
    for what in History::ALL {
        upkeep.add(Retire { database: database.clone(), what, retention, walk: Walk::default() }).await?;
    }
    upkeep.add(MarkStuck { database: database.clone(), stuck_after, walk: Walk::default() }).await?;
    upkeep.add(SweepMissed(database.clone())).await?;
    upkeep
        .add(AddUpMoney {
            database: database.clone(),
            survey: ExposureSurvey::default(),
            shown: BTreeSet::new(),
        })
        .await?;
    upkeep.add(CountOpen { database, survey: Survey::default(), workflows }).await?;
    upkeep
        .add(EnsureTopics { kafka: process.kafka.clone(), topics, patience: process.settings.start_timeout })
        .await?;
    upkeep.start(process).await
}

/// Empties partitions of expired idempotency keys.
struct TurnKeys(Pool);

impl Piece for TurnKeys {
    const PERIOD: Duration = Duration::from_secs(60);
    type Error = Error;

    fn name(&self) -> &'static str {
        "expiry of idempotency keys"
    }

    async fn run_once(&mut self) -> Result<(), Error> {
        if keys::turn(&self.0, KeyClass::Placement).await? {
            tracing::info!("emptied the partition of the oldest expired idempotency keys");
        }
        Ok(())
    }
}

/// Deletes expired answers to requests with an idempotency key.
struct ForgetAnswers(AnswerStore);

impl Piece for ForgetAnswers {
    const PERIOD: Duration = Duration::from_secs(60);
    type Error = Error;

    fn name(&self) -> &'static str {
        "expiry of answers"
    }

    async fn run_once(&mut self) -> Result<(), Error> {
        for _ in 0..ANSWER_PAGES_MOST {
            if self.0.forget_expired().await? == 0 {
                break;
            }
        }
        Ok(())
    }
}

/// Sets the gauge of sagas whose commits were lost lately.
struct CountLostCommits(Pool);

impl Piece for CountLostCommits {
    const PERIOD: Duration = Duration::from_secs(30);
    type Error = Error;

    fn name(&self) -> &'static str {
        "count of lost commits"
    }

    async fn run_once(&mut self) -> Result<(), Error> {
        let lost = lost_commits::count(&self.0, LOST_LATELY).await?;
        metrics::gauge!("amends_engine_lost_commits").set(lost as f64);
        Ok(())
    }
}

/// Creates the partitions of coming months.
struct EnsurePartitions(EngineUpkeep);

impl Piece for EnsurePartitions {
    const PERIOD: Duration = Duration::from_secs(3600);
    type Error = Error;

    fn name(&self) -> &'static str {
        "partitions"
    }

    async fn run_once(&mut self) -> Result<(), Error> {
        let made = self.0.ensure_partitions(MONTHS_AHEAD).await?;
        if made > 0 {
            tracing::info!(partitions = made, "created partitions of the coming months");
        }
        Ok(())
    }
}

/// Drops history past its retention.
struct Retire {
    database: EngineUpkeep,
    what: History,
    retention: Duration,
    walk: Walk,
}

impl Piece for Retire {
    const PERIOD: Duration = Duration::from_secs(60);
    type Error = Error;

    fn name(&self) -> &'static str {
        match self.what {
            History::Sagas => "history of sagas",
            History::Strays => "history of strays",
            History::Orders => "history of orders",
        }
    }

    async fn run_once(&mut self) -> Result<(), Error> {
        let table = self.what.table();
        match self.database.retire_month(self.what, self.retention).await? {
            None => {}
            Some(RetiredMonth { month, moved, stays: false }) => {
                tracing::info!(table, month, moved, "dropped a month past its retention");
            }
            Some(RetiredMonth { month, moved, stays: true }) => {
                tracing::warn!(
                    table,
                    month,
                    unfinished = moved,
                    "a month past its retention stays: too many have not ended"
                );
            }
        }
        let gone = self.database.forget_leftovers(self.what, self.retention, &mut self.walk).await?;
        if gone > 0 {
            tracing::info!(
                table,
                rows = gone,
                "deleted rows that had outlived their month and are past their retention"
            );
        }
        Ok(())
    }
}

/// Marks sagas that make no progress.
struct MarkStuck {
    database: EngineUpkeep,
    stuck_after: Duration,
    walk: Walk,
}

impl Piece for MarkStuck {
    const PERIOD: Duration = Duration::from_secs(2);
    type Error = Error;

    fn name(&self) -> &'static str {
        "marking the stuck"
    }

    async fn run_once(&mut self) -> Result<(), Error> {
        let marked = self.database.mark_stuck(self.stuck_after, &mut self.walk).await?;
        if let Some(first) = marked.first() {
            let seconds = self.stuck_after.as_secs();
            tracing::warn!(sagas = marked.len(), %first, seconds, "marked sagas as stuck: no progress for that long");
        }
        Ok(())
    }
}

/// Wakes live sagas without a wake-up time.
struct SweepMissed(EngineUpkeep);

impl Piece for SweepMissed {
    const PERIOD: Duration = Duration::from_secs(10);
    type Error = Error;

    fn name(&self) -> &'static str {
        "sweep for missed wake-ups"
    }

    async fn run_once(&mut self) -> Result<(), Error> {
        let woken = self.0.sweep_missed().await?;
        if let Some(first) = woken.first() {
            tracing::error!(sagas = woken.len(), %first, "woke live sagas that had no wake-up time");
        }
        Ok(())
    }
}

/// Sets the gauges of sagas that have not ended.
struct CountOpen {
    database: EngineUpkeep,
    survey: Survey,
    workflows: BTreeSet<&'static str>,
}

impl Piece for CountOpen {
    const PERIOD: Duration = Duration::from_secs(2);
    type Error = Error;

    fn name(&self) -> &'static str {
        "counts"
    }

    async fn run_once(&mut self) -> Result<(), Error> {
        let Some(counts) = self.database.count_some(&mut self.survey).await? else { return Ok(()) };
        // The gauge of a combination that no longer exists would keep its last value.
        for (workflow, state) in
            self.workflows.iter().flat_map(|workflow| STATES.map(|state| (*workflow, state)))
        {
            if !counts.sagas.iter().any(|count| count.workflow == workflow && count.state == state) {
                let labels = [("workflow", workflow), ("state", state.as_str())];
                metrics::gauge!("amends_engine_sagas", &labels).set(0.0);
                metrics::gauge!("amends_engine_sagas_stuck", &labels).set(0.0);
            }
        }
        show_statuses(&counts.labels);
        metrics::gauge!("amends_engine_orphans").set(counts.orphans as f64);
        for count in counts.sagas {
            let labels = [("workflow", count.workflow), ("state", count.state.as_str().to_owned())];
            metrics::gauge!("amends_engine_sagas", &labels).set(count.sagas as f64);
            metrics::gauge!("amends_engine_sagas_stuck", &labels).set(count.stuck as f64);
        }
        Ok(())
    }
}

/// Sets the gauges of orders by status.
fn show_statuses(labels: &BTreeMap<(String, String), u64>) {
    for status in STATUSES {
        // A refund's label is no status of the order.
        let of_status =
            labels.iter().filter(|((workflow, label), _)| label == status && workflow != order_refund::NAME);
        let orders: u64 = of_status.map(|(_, sagas)| sagas).sum();
        metrics::gauge!("amends_orders_open", "status" => status).set(orders as f64);
    }
}

/// Sets the gauges of money that sagas hold.
struct AddUpMoney {
    database: EngineUpkeep,
    survey: ExposureSurvey,
    /// The gauges set so far, by currency and state.
    shown: BTreeSet<(String, &'static str)>,
}

impl Piece for AddUpMoney {
    const PERIOD: Duration = Duration::from_secs(2);
    type Error = Error;

    fn name(&self) -> &'static str {
        "money held"
    }

    async fn run_once(&mut self) -> Result<(), Error> {
        let Some(sums) = self.database.add_up_some(&mut self.survey, MONEY_CAPTURED).await? else {
            return Ok(());
        };
        // A worker states the unit: only a currency becomes a label.
        let sums = sums.into_iter().filter(|held| Currency::from_code(&held.unit).is_some());
        let sums: BTreeMap<_, _> = sums.map(|held| ((held.unit, held.state.as_str()), held.amount)).collect();
        self.shown.extend(sums.keys().cloned());
        // The gauge of what is not held any more would keep its last value.
        for shown in &self.shown {
            let labels = [("currency", shown.0.clone()), ("state", shown.1.to_owned())];
            let amount = sums.get(shown).copied().unwrap_or_default();
            metrics::gauge!("amends_engine_money_held_minor_units", &labels).set(amount as f64);
        }
        Ok(())
    }
}

/// Creates topics that a broker has lost.
struct EnsureTopics {
    kafka: KafkaSettings,
    topics: Vec<Topic>,
    patience: Duration,
}

impl Piece for EnsureTopics {
    const PERIOD: Duration = Duration::from_secs(30);
    type Error = amends_kafka::Error;

    fn name(&self) -> &'static str {
        "topics"
    }

    async fn run_once(&mut self) -> Result<(), amends_kafka::Error> {
        topics::ensure(&self.kafka, &self.topics, self.patience).await.map(drop)
    }
}
