//! Cuts two processes off from each other for some time: nothing of what is sent arrives, and neither end is informed. Meanwhile
//! orders are placed at who is not cut off, and the broker is asked who owns the partitions.

use std::time::Duration;

use serde_json::json;
use sqlx::PgPool;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use uuid::Uuid;

use super::{
    Error,
    plan::{Cut, FIRST_MEMBERS, JOINED, KAFKA, POSTGRES, member},
    shares::Group,
    site::Site,
};
use crate::campaign::{record::Record, workload::order};

/// Interval at which orders are placed during a cut.
const PACE: Duration = Duration::from_millis(700);
/// When it is checked that nothing arrives.
const CHECKED: Duration = Duration::from_millis(200);
/// How long orders may take that were placed when all was well, or when something was cut off that others do as well.
pub const PROGRESS: Duration = Duration::from_secs(20);
/// How long it may take after a cut until everything is as before: the orders, the shares, and who is ready.
pub const RECOVERY: Duration = Duration::from_secs(60);
/// What an api asks the inventory worker for, and how long its answer may take: it waits 5 s for the worker.
const STOCK: &str = "/api/inventory/canary";
const STOCK_PATIENCE: Duration = Duration::from_secs(6);
/// Number of orders of these that are fulfilled.
const FULFILLED: &str = "SELECT count(*) FROM sagas
    WHERE workflow = 'order_fulfilment' AND label = 'FULFILLED' AND business_key = ANY($1)";

/// What a cut did.
#[derive(Debug, Clone)]
pub struct CutOutcome {
    /// The cut.
    pub cut: Cut,
    /// When it began, relative to the run's beginning.
    pub at: Duration,
    /// Orders placed during it, at apis that could place them.
    pub placed: usize,
    /// How many of them were fulfilled before its end.
    pub fulfilled: usize,
    /// Those placed at least [`PROGRESS`] before its end, and how many of them were fulfilled before its end.
    pub early: (usize, usize),
    /// How long it took until others owned the client's partitions, if they did.
    pub moved: Option<Duration>,
    /// How long it took after its end until all that was placed during it was fulfilled.
    pub caught_up: Option<Duration>,
    /// Processes that had ended by themselves since the previous cut.
    pub ended: Vec<String>,
    /// What should not be so.
    pub broken: Vec<String>,
}

/// What a cut needs.
#[derive(Debug)]
pub struct Cutter<'a> {
    /// Everything that runs.
    pub site: &'a mut Site,
    /// What clients were answered.
    pub record: &'a Record,
    /// The engine's database.
    pub engine: PgPool,
    /// When the run began.
    pub begun: Instant,
}

impl Cutter<'_> {
    /// Cuts, waits, heals, and waits until all is as before.
    pub async fn one(&mut self, cut: &Cut, number: usize) -> Result<CutOutcome, Error> {
        let ended = self.site.revive()?;
        let mut broken = Vec::new();
        if !self.site.comes_to_reach(cut).await {
            broken.push("no connection before the cut".to_owned());
        }
        let group = self.group(cut);
        let (began, at) = (Instant::now(), self.begun.elapsed());
        let end = began + cut.length;
        let barrier = self.site.cut(cut)?;
        let (orders, silent, moved, stock) = tokio::join!(
            self.place(cut, number, end),
            self.is_silent(cut),
            moved(group.as_ref(), cut, end),
            self.ask_for_stock(cut, end)
        );
        let ids = |some: &[(Instant, Uuid)]| some.iter().map(|(_, id)| id.to_string()).collect::<Vec<_>>();
        let early: Vec<_> = orders.iter().copied().filter(|(at, _)| *at + PROGRESS <= end).collect();
        let fulfilled = self.fulfilled(&ids(&orders)).await?;
        let early_fulfilled = self.fulfilled(&ids(&early)).await?;
        drop(barrier);
        match silent {
            Ok(true) => {}
            Ok(false) => broken.push("something arrived during the cut".to_owned()),
            Err(error) => broken.push(error.to_string()),
        }
        broken.extend(stock);
        let healed = Instant::now();
        let caught_up = self.catch_up(&ids(&orders), healed).await?;
        broken.extend(self.all_is_well(cut, group.as_ref(), healed).await);
        let mut outcome = CutOutcome {
            cut: cut.clone(),
            at,
            placed: orders.len(),
            fulfilled,
            early: (early.len(), early_fulfilled),
            moved,
            caught_up,
            ended,
            broken,
        };
        outcome.broken.extend(outcome.judge());
        Ok(outcome)
    }

    /// Returns the group of the client. An api is in none, and notification workers share out several topics together,
    /// so that each alone may be with one of them.
    fn group(&self, cut: &Cut) -> Option<Group> {
        let broker = self.site.deployment.kafka.address();
        JOINED.contains(&cut.link.client).then(|| Group::of(cut.link.client, broker, self.site.places()))
    }

    /// Places an order now and then until the end; returns when each was placed, once it was acknowledged.
    async fn place(&self, cut: &Cut, number: usize, end: Instant) -> Vec<(Instant, Uuid)> {
        let client = self.site.client(&apis_that_place(cut), self.record);
        let (mut placing, mut orders, mut count) = (JoinSet::new(), Vec::new(), 0);
        let mut next = Instant::now();
        while next < end {
            let (client, key) = (client.clone(), format!("cut-{number}-{count}"));
            placing.spawn(async move {
                let line = json!({ "productId": "canary", "quantity": 1, "unitPrice": 100 });
                let placed = Instant::now();
                let id = client.place(&order(vec![line], "EUR", "card_approved", "AT"), &key).await;
                id.map(|id| (placed, id))
            });
            (next, count) = (next + PACE, count + 1);
            sleep_until(next.min(end)).await;
        }
        while let Some(order) = placing.join_next().await {
            orders.extend(order.ok().flatten());
        }
        orders
    }

    async fn is_silent(&self, cut: &Cut) -> Result<bool, Error> {
        sleep(CHECKED).await;
        Ok(!self.site.reaches(cut).await?)
    }

    /// Asks an api that is cut off from the inventory worker for stock: it must say in time that it has no answer.
    async fn ask_for_stock(&self, cut: &Cut, end: Instant) -> Option<String> {
        if cut.link.server != "inventory" {
            return None;
        }
        sleep(CHECKED).await;
        let client = self.site.client(&[cut.number], self.record);
        let status = client.status(STOCK, STOCK_PATIENCE).await;
        let is_said = matches!(status, Some(503 | 504));
        (!is_said && Instant::now() < end)
            .then(|| format!("stock without the worker was answered {status:?}"))
    }

    async fn fulfilled(&self, ids: &[String]) -> Result<usize, Error> {
        let count: i64 = sqlx::query_scalar(FULFILLED).bind(ids).fetch_one(&self.engine).await?;
        Ok(usize::try_from(count).unwrap_or_default())
    }

    /// Waits until all these are fulfilled.
    async fn catch_up(&self, ids: &[String], since: Instant) -> Result<Option<Duration>, Error> {
        while since.elapsed() < RECOVERY {
            if self.fulfilled(ids).await? == ids.len() {
                return Ok(Some(since.elapsed()));
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(None)
    }

    /// Waits until the client reaches its server, is ready, and owns its share; returns what does not come to pass.
    async fn all_is_well(&mut self, cut: &Cut, group: Option<&Group>, since: Instant) -> Vec<String> {
        let mut broken = Vec::new();
        if !self.site.comes_to_reach(cut).await {
            broken.push("no connection after the cut".to_owned());
        }
        for name in [cut.client_place(), cut.link.server_place()] {
            if let Err(error) = self.site.ready(&name).await {
                broken.push(error.to_string());
            }
        }
        if let Some(group) = group {
            let members: Vec<_> = (1..=FIRST_MEMBERS).map(|number| member(cut.link.client, number)).collect();
            let left = RECOVERY.saturating_sub(since.elapsed());
            if let Err(last) = group.become_such(left, |shares| shares.are_even(&members)).await {
                broken.push(format!("after the cut the shares are: {last}"));
            }
        }
        if cut.link.server == "inventory" {
            let client = self.site.client(&[cut.number], self.record);
            let answered = async {
                while client.status(STOCK, STOCK_PATIENCE).await != Some(200) {
                    sleep(Duration::from_millis(100)).await;
                }
            };
            if tokio::time::timeout(RECOVERY, answered).await.is_err() {
                broken.push("no stock after the cut".to_owned());
            }
        }
        broken
    }
}

impl CutOutcome {
    /// Returns what a cut of this kind and length should have let happen, and did not.
    fn judge(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let (early, early_fulfilled) = self.early;
        if self.caught_up.is_none() {
            broken.push(format!("not all orders were fulfilled {} s after it", RECOVERY.as_secs()));
        }
        if early > 0 && early_fulfilled < self.least_progress(early) {
            broken.push(format!("only {early_fulfilled} of {early} early orders were fulfilled during it"));
        }
        if self.loses_its_session() && self.cut.length > PROGRESS && self.moved.is_none() {
            broken.push(format!("no other took over within {} s", self.cut.length.as_secs()));
        }
        broken
    }

    /// A consumer that the broker does not hear of: others take over its partitions.
    fn loses_its_session(&self) -> bool {
        self.cut.link.server == KAFKA && JOINED.contains(&self.cut.link.client)
    }

    /// How many of the early orders must be fulfilled during the cut. Who is cut off from its database keeps its session,
    /// and its share of the orders waits for it; it is half of them for each topic, and the sagas are spread by chance.
    fn least_progress(&self, early: usize) -> usize {
        let waits = self.cut.link.server == POSTGRES && JOINED.contains(&self.cut.link.client);
        if waits { 1 } else { early }
    }
}

/// Returns the apis that can place orders during a cut: one that does not reach its database cannot.
fn apis_that_place(cut: &Cut) -> Vec<usize> {
    let cannot = (cut.link.client == "api" && cut.link.server == POSTGRES).then_some(cut.number);
    (1..=FIRST_MEMBERS).filter(|number| Some(*number) != cannot).collect()
}

/// Returns how long it took until the client owned nothing any more.
async fn moved(group: Option<&Group>, cut: &Cut, end: Instant) -> Option<Duration> {
    let victim = cut.client_place();
    let left = end.saturating_duration_since(Instant::now());
    let moved = group?.become_such(left, |shares| shares.are_without(&victim)).await;
    moved.ok().map(|(_, took)| took)
}
