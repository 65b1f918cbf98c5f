//! Every process in a network namespace of its own: processes join and leave while orders run, any two that speak with
//! each other are cut off from each other, and then the books.

pub mod cuts;
pub mod growth;
pub mod namespaces;
pub mod plan;
pub mod shares;
pub mod site;
mod summary;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    books::{self, Report, Sources},
    campaign::{self, broker::Broker, operator, record::Record, workload},
    deployment,
};
use cuts::{CutOutcome, Cutter};
use growth::Growth;
use plan::{Direction, FIRST_MEMBERS, JOINED, Link};
use site::Site;

/// What a run is.
#[derive(Debug, Clone)]
pub struct Run {
    /// The program `amends`.
    pub program: PathBuf,
    /// Least number of orders; they are placed as long as there are cuts.
    pub orders: usize,
    /// Orders per second.
    pub rate: f64,
    /// How long the longest cuts may last.
    pub longest: Duration,
    /// Only pairs whose name contains this are cut.
    pub only: String,
    /// Seed of all random choices.
    pub seed: u64,
    /// Directory for the processes' logs if something is violated.
    pub logs: PathBuf,
}

/// Why a run could not be done. (Violations are an outcome.)
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Only root may make namespaces.
    #[error("it must run as root: `ip netns` makes namespaces, and mounts them")]
    NotRoot,
    /// There is no `ip`.
    #[error("`ip` is missing; install iproute2")]
    NoIproute2,
    /// Another run uses the same names and addresses.
    #[error("another run is in progress on this machine")]
    InUse,
    /// The kernel, or `ip`, refuses something.
    #[error("ip refuses (of the commands that begin with `{first}`): {said}")]
    Ip {
        /// What it said.
        said: String,
        /// The first of the commands that it was given.
        first: String,
    },
    /// An operation on a file, a process, or a connection failed.
    #[error("{doing}: {source}")]
    Io {
        /// The operation.
        doing: String,
        /// The system's error.
        source: io::Error,
    },
    /// `amends token` failed.
    #[error("amends token: {0}")]
    Token(String),
    /// Servers or processes did not start.
    #[error(transparent)]
    Deployment(#[from] deployment::Error),
    /// What a run shares with a campaign failed.
    #[error(transparent)]
    Campaign(#[from] campaign::Error),
    /// A database does not answer.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The books cannot be read.
    #[error(transparent)]
    Books(#[from] books::Error),
    /// A process' metrics cannot be read.
    #[error("reading {what}: {why}")]
    Unreadable {
        /// Their address.
        what: String,
        /// The cause.
        why: String,
    },
}

impl Error {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Io { doing: doing.into(), source }
    }
}

/// The outcome of a run. The last line of its text is a summary.
#[derive(Debug)]
pub struct RunOutcome {
    /// Orders placed.
    pub orders: usize,
    /// What joining and leaving did, by role.
    pub growth: Vec<Growth>,
    /// The cuts, in order.
    pub cuts: Vec<CutOutcome>,
    /// What was not cut and should have been.
    pub never_cut: Vec<(Link, Direction)>,
    /// The books.
    pub report: Report,
    /// Wrong answers to clients.
    pub odd: Vec<String>,
    /// Sagas by status.
    pub statuses: BTreeMap<String, i64>,
    /// What the operator saw and did.
    pub operator: operator::Seen,
    /// What clients met, in words.
    pub clients: String,
    /// Time from the last cut until everything was idle.
    pub settled: Duration,
    /// Total time.
    pub took: Duration,
    /// The seed.
    pub seed: u64,
}

impl RunOutcome {
    /// Returns the number of violations: of the books, of what must go on, and answers that no client should get.
    pub fn violations(&self) -> i64 {
        let growth: usize = self.growth.iter().map(|role| role.broken.len()).sum();
        let cuts: usize = self.cuts.iter().map(|cut| cut.broken.len()).sum();
        let others = growth + cuts + self.odd.len() + self.never_cut.len();
        self.report.violations() + i64::try_from(others).unwrap_or(i64::MAX)
    }
}

/// Does a run.
///
/// # Errors
/// [`Error`]: it could not be done.
pub async fn run(run: &Run) -> Result<RunOutcome, Error> {
    let begun = Instant::now();
    let mut site = Site::start(&run.program).await?;
    for place in site.places() {
        println!("{:>13}  {}", place.address, place.name);
    }
    let record = Record::default();
    let client = site.client(&(1..=FIRST_MEMBERS).collect::<Vec<_>>(), &record);
    let broker = Broker::new(site.deployment.kafka.address());
    let broker = broker.map_err(|error| campaign::Error::Broker(error.to_string()))?;
    workload::stock(&client, run.orders).await;
    said(begun, "everything runs");

    let (ended, placed_all) = (CancellationToken::new(), CancellationToken::new());
    let operating = tokio::spawn(operator::work(client.clone(), record.clone(), ended.clone()));
    let enough = Instant::now() + Duration::from_secs_f64(run.orders as f64 / run.rate);
    let load = async { Ok(workload::run(&client, usize::MAX, run.rate, run.seed, &placed_all).await) };
    let disturbances = async {
        let done = disturb(run, &mut site, &record, begun).await?;
        sleep_until(enough).await;
        placed_all.cancel();
        Ok::<_, Error>(done)
    };
    let (placed, (growth, cuts)) = tokio::try_join!(load, disturbances)?;
    said(begun, &format!("{placed} orders are placed; nothing is cut"));
    let healed = Instant::now();
    let at_rest = campaign::rest(&site.deployment, begun).await;
    let settled = healed.elapsed();
    ended.cancel();
    let operator = operating.await.unwrap_or_default();
    said(begun, if at_rest { "all at rest; the books" } else { "not at rest; the books" });

    let mut ledger = record.ledger();
    ledger.dead_letters = broker.dead_letters().await.map_err(campaign::Error::Broker)?;
    let report = books::report(&Sources::of(&site.deployment), &ledger).await?;
    let outcome = RunOutcome {
        orders: placed + cuts.iter().map(|cut| cut.placed).sum::<usize>(),
        never_cut: plan::never_cut(cuts.iter().map(|cut| &cut.cut), &run.only),
        growth,
        cuts,
        report,
        odd: record.oddities(),
        statuses: campaign::statuses(&site.deployment).await?,
        operator,
        clients: campaign::told(&client),
        settled,
        took: begun.elapsed(),
        seed: run.seed,
    };
    keep_logs_if_violated(&outcome, &site, &run.logs)?;
    site.end().await;
    Ok(outcome)
}

/// Has processes join and leave, and then cuts one pair after the other.
async fn disturb(
    run: &Run,
    site: &mut Site,
    record: &Record,
    begun: Instant,
) -> Result<(Vec<Growth>, Vec<CutOutcome>), Error> {
    let mut growth = Vec::new();
    for role in JOINED.iter().copied() {
        let seen = growth::grow(site, role).await?;
        said(begun, &seen.to_string());
        growth.push(seen);
    }
    let engine = site.deployment.pool("engine");
    let mut cutter = Cutter { site, record, engine, begun };
    let mut cuts = Vec::new();
    for (number, cut) in plan::cuts(run.seed, run.longest, &run.only).iter().enumerate() {
        let outcome = cutter.one(cut, number).await?;
        said(begun, &outcome.to_string());
        cuts.push(outcome);
    }
    Ok((growth, cuts))
}

fn keep_logs_if_violated(outcome: &RunOutcome, site: &Site, logs: &Path) -> Result<(), Error> {
    if outcome.violations() > 0 {
        campaign::keep_logs(&site.deployment, logs)?;
    }
    Ok(())
}

fn said(begun: Instant, what: &str) {
    println!("{:7.1} s  {what}", begun.elapsed().as_secs_f64());
}
