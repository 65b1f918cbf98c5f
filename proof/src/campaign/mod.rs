//! A campaign: orders of every outcome at a steady rate, a fault every few seconds, then the books.

pub mod broker;
pub mod client;
pub mod faults;
pub mod fleet;
pub mod nemesis;
pub mod operator;
pub mod record;
pub mod summary;
pub mod workload;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Duration,
};

use sqlx::PgPool;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    books::{self, Report, Sources},
    deployment::{self, Deployment, Options, citus::Citus},
};
use broker::Broker;
use client::Client;
use fleet::Fleet;
use nemesis::{Fault, Nemesis};
use record::Record;

/// How long the deployment may take to come to rest after it has healed.
const REST: Duration = Duration::from_secs(120);

/// Parameters of a campaign.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// The program `amends`.
    pub program: PathBuf,
    /// Number of orders.
    pub orders: usize,
    /// Orders per second.
    pub rate: f64,
    /// Number of faults.
    pub faults: usize,
    /// Seed of all random choices.
    pub seed: u64,
    /// Only faults whose name contains this.
    pub only: String,
    /// Directory for the processes' logs if the books do not balance.
    pub logs: PathBuf,
    /// The Citus with the databases, in place of one Postgres.
    pub citus: Option<Citus>,
}

/// Why a campaign could not be run. (Violations are an outcome.)
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Servers or processes did not start.
    #[error(transparent)]
    Deployment(#[from] deployment::Error),
    /// The broker's clients failed.
    #[error("broker: {0}")]
    Broker(String),
    /// An error of a file, a port or a signal.
    #[error("{0}")]
    Io(io::Error),
    /// A database does not answer.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The books cannot be read.
    #[error(transparent)]
    Books(#[from] books::Error),
    /// A fault could not be injected this time.
    #[error("not injected: {0}")]
    NotInjected(String),
}

impl Error {
    pub(crate) fn proxy(source: io::Error) -> Self {
        Self::Io(source)
    }
}

/// The outcome of a campaign. The last line of its text is a summary.
#[derive(Debug)]
pub struct CampaignOutcome {
    /// Orders placed, including canaries.
    pub orders: usize,
    /// The faults, in order.
    pub faults: Vec<Fault>,
    /// The books.
    pub report: Report,
    /// Wrong answers to clients.
    pub odd: Vec<String>,
    /// Orders by status.
    pub statuses: BTreeMap<String, i64>,
    /// What the operator saw and did.
    pub operator: operator::Seen,
    /// What clients met, in words.
    pub clients: String,
    /// Number of dead letters.
    pub dead_letters: usize,
    /// Number of poison messages injected.
    pub poison: usize,
    /// Whether everything was idle in the end.
    pub at_rest: bool,
    /// Time from healing until everything was idle, or was given up.
    pub settled: Duration,
    /// Total time.
    pub took: Duration,
    /// The seed.
    pub seed: u64,
}

impl CampaignOutcome {
    /// Returns the number of violations: the books', answers that no client should get, faults after which no order was
    /// fulfilled, and that something was still under way in the end.
    pub fn violations(&self) -> i64 {
        let for_ever = self.faults.iter().filter(|fault| fault.not_run.is_none() && fault.recovery.is_none());
        let others = self.odd.len() + for_ever.count() + usize::from(!self.at_rest);
        self.report.violations() + others as i64
    }

    /// Returns the number of faults injected.
    pub fn injected(&self) -> usize {
        self.faults.iter().filter(|fault| fault.not_run.is_none()).count()
    }
}

/// Runs a campaign.
///
/// # Errors
/// [`Error`]: it could not be run.
pub async fn run(campaign: &Campaign) -> Result<CampaignOutcome, Error> {
    let begun = Instant::now();
    let options = Options { citus: campaign.citus.clone(), ..Options::new(&campaign.program) };
    let fleet = Fleet::start(options).await?;
    let record = Record::default();
    let client = Client::new(&fleet.apis(), record.clone());
    let broker = Broker::new(fleet.deployment.kafka.address()).map_err(|e| Error::Broker(e.to_string()))?;
    workload::stock(&client, campaign.orders).await;
    println!("{:7.1} s  everything runs", begun.elapsed().as_secs_f64());

    let (ended, load_ended) = (CancellationToken::new(), CancellationToken::new());
    let operating = tokio::spawn(operator::work(client.clone(), record.clone(), ended.clone()));
    let mut nemesis = Nemesis { fleet, broker, client: client.clone(), record: record.clone(), begun };
    // The last fault ends with the load.
    let time = campaign.orders as f64 / campaign.rate;
    let pace = Duration::from_secs_f64(time / campaign.faults.max(1) as f64);
    let load = async {
        let placed = workload::run(&client, campaign.orders, campaign.rate, campaign.seed, &ended).await;
        load_ended.cancel();
        placed
    };
    let (placed, faults) = tokio::join!(load, nemesis.work(campaign, pace, &load_ended));
    let faults = faults?;
    println!("{:7.1} s  {placed} orders are placed; everything heals", begun.elapsed().as_secs_f64());
    nemesis.fleet.heal().await?;
    let healed = Instant::now();
    let at_rest = rest(&nemesis.fleet.deployment, begun).await;
    let settled = healed.elapsed();
    ended.cancel();
    let operator = operating.await.unwrap_or_default();
    println!(
        "{:7.1} s  {}; the books",
        begun.elapsed().as_secs_f64(),
        if at_rest { "all at rest" } else { "not at rest" }
    );

    let mut ledger = record.ledger();
    ledger.dead_letters = nemesis.broker.dead_letters().await.map_err(Error::Broker)?;
    let report = books::report(&Sources::of(&nemesis.fleet.deployment), &ledger).await?;
    let statuses = statuses(&nemesis.fleet.deployment).await?;
    let outcome = CampaignOutcome {
        orders: placed + faults.len(),
        faults,
        report,
        odd: record.oddities(),
        statuses,
        operator,
        clients: told(&client),
        dead_letters: ledger.dead_letters.len(),
        poison: ledger.poison.len(),
        at_rest,
        settled,
        took: begun.elapsed(),
        seed: campaign.seed,
    };
    if outcome.violations() > 0 {
        keep_logs(&nemesis.fleet.deployment, &campaign.logs)?;
    }
    nemesis.fleet.end().await;
    Ok(outcome)
}

/// Copies the processes' logs.
pub(crate) fn keep_logs(deployment: &Deployment, to: &Path) -> Result<(), Error> {
    fs::create_dir_all(to).map_err(Error::Io)?;
    for entry in fs::read_dir(deployment.directory()).map_err(Error::Io)? {
        let path = entry.map_err(Error::Io)?.path();
        if let (Some(name), true) = (path.file_name(), path.extension().is_some_and(|e| e == "log")) {
            fs::copy(&path, to.join(name)).map_err(Error::Io)?;
        }
    }
    println!("logs are in {}", to.display());
    Ok(())
}

/// Returns what clients met, in words.
pub(crate) fn told(client: &Client) -> String {
    let counts = client.counts();
    let n = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    format!(
        "{} requests without an answer, {} turned away, {} first answers repeated, {} cancellations promised, {} too late, {} returns, decisions and refunds",
        n(&counts.unanswered),
        n(&counts.turned_away),
        n(&counts.replayed),
        n(&counts.cancelled),
        n(&counts.too_late),
        n(&counts.changed)
    )
}

/// Waits until every saga has ended and every domain event is recorded; returns whether that happened.
pub(crate) async fn rest(deployment: &Deployment, begun: Instant) -> bool {
    let (engine, notification) = (deployment.pool("engine"), deployment.pool("notification"));
    let (since, mut told) = (Instant::now(), Instant::now());
    while since.elapsed() < REST {
        let unfinished = count(&engine, "SELECT count(*) FROM sagas WHERE live OR outcome IS NULL").await;
        let recorded = books::are_events_recorded(&engine, &notification).await;
        if unfinished == Some(0) && matches!(recorded, Ok(true)) {
            return true;
        }
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            println!("{:7.1} s  {} unfinished", begun.elapsed().as_secs_f64(), unfinished.unwrap_or(-1));
        }
        sleep(Duration::from_millis(500)).await;
    }
    false
}

async fn count(pool: &PgPool, sql: &'static str) -> Option<i64> {
    sqlx::query_scalar(sql).fetch_one(pool).await.ok()
}

/// Counts the sagas by status.
pub(crate) async fn statuses(deployment: &Deployment) -> Result<BTreeMap<String, i64>, Error> {
    let pool = deployment.pool("engine");
    let rows: Vec<(String, i64)> =
        sqlx::query_as("SELECT label, count(*) FROM sagas GROUP BY 1").fetch_all(&pool).await?;
    Ok(rows.into_iter().collect())
}
