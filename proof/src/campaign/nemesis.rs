//! Injects one fault after the other, in an order drawn from the seed, each kind before any is repeated. After each it
//! places an order and measures how long that takes.

use std::time::Duration;

use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    Campaign, Error,
    broker::Broker,
    client::Client,
    faults::{self, Kind},
    fleet::Fleet,
    record::Record,
    workload::canary,
};
use crate::deployment;

/// How long a canary order may take before its fault counts as not recovered from.
const PATIENCE: Duration = Duration::from_secs(60);

/// A fault that was injected.
#[derive(Debug, Clone)]
pub struct Fault {
    /// The kind.
    pub kind: Kind,
    /// What it affected.
    pub victim: String,
    /// When it began, relative to the campaign's beginning.
    pub at: Duration,
    /// Its duration.
    pub lasted: Duration,
    /// How long an order took that was placed when the fault ended; `None` if it exceeded the patience.
    pub recovery: Option<Duration>,
    /// Why it was not injected.
    pub not_run: Option<String>,
    /// Processes that had ended by themselves since the previous fault.
    pub ended: Vec<String>,
}

/// What the nemesis works with.
#[derive(Debug)]
pub struct Nemesis {
    /// The processes that it disturbs.
    pub fleet: Fleet,
    /// The broker's topics.
    pub broker: Broker,
    /// Client for its canary orders.
    pub client: Client,
    /// Record of its poison.
    pub record: Record,
    /// When the campaign began.
    pub begun: Instant,
}

impl Nemesis {
    /// Injects this many faults, one every `pace`, until stopped. After a fault that takes longer, the next follow at
    /// once until the delay is made up for.
    pub async fn work(
        &mut self,
        campaign: &Campaign,
        pace: Duration,
        stop: &CancellationToken,
    ) -> Result<Vec<Fault>, Error> {
        let mut random = StdRng::seed_from_u64(campaign.seed ^ 0x006e_656d_6573_6973);
        let (mut faults, mut deck) = (Vec::new(), Vec::new());
        let mut next = Instant::now();
        while faults.len() < campaign.faults && !stop.is_cancelled() {
            if deck.is_empty() {
                deck = faults::possible(self.fleet.deployment.server.citus().is_some());
                deck.retain(|kind| kind.name().contains(&campaign.only));
                deck.shuffle(&mut random);
            }
            let Some(kind) = deck.pop() else { break };
            next += pace;
            let fault = self.one(kind, faults.len(), &mut random).await?;
            println!("{}", told(&fault));
            faults.push(fault);
            tokio::select! {
                () = sleep_until(next) => {}
                () = stop.cancelled() => {}
            }
        }
        Ok(faults)
    }

    async fn one(&mut self, kind: Kind, number: usize, random: &mut StdRng) -> Result<Fault, Error> {
        let ended = self.fleet.revive()?;
        let begun = Instant::now();
        let injected = faults::inject(kind, &mut self.fleet, &self.broker, &self.record, random).await;
        let (victim, not_run) = match injected {
            Ok(victim) => (victim, None),
            Err(Error::NotInjected(why)) => (String::new(), Some(why)),
            Err(Error::Database(why) | Error::Deployment(deployment::Error::Database(why))) => {
                (String::new(), Some(why.to_string()))
            }
            Err(other) => return Err(other),
        };
        let lasted = begun.elapsed();
        let recovery = canary(&self.client, &format!("canary-{number}"), PATIENCE).await;
        Ok(Fault { kind, victim, at: begun - self.begun, lasted, recovery, not_run, ended })
    }
}

fn told(fault: &Fault) -> String {
    let (at, lasted) = (fault.at.as_secs_f64(), fault.lasted.as_secs_f64());
    let after = match (fault.recovery, &fault.not_run) {
        (_, Some(why)) => format!("not run: {why}"),
        (Some(recovery), _) => format!("an order then took {:.2} s", recovery.as_secs_f64()),
        (None, _) => format!("no order came through in {} s", PATIENCE.as_secs()),
    };
    let ended = if fault.ended.is_empty() {
        String::new()
    } else {
        format!("; had ended: {}", fault.ended.join(", "))
    };
    format!("{at:7.1} s  {}: {} ({lasted:.1} s); {after}{ended}", fault.kind.name(), fault.victim)
}
