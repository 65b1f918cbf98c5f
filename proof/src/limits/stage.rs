//! One process of each role, which can be stopped and restarted at its address; and readings of their state.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};
use rustix::param::page_size;
use sqlx::PgPool;
use tokio::time::sleep;

use super::{
    Error,
    load::{PRODUCT, Shop},
};
use crate::{
    books::{self, Ledger, Report, Sources},
    campaign::{client::Client, record::Record},
    deployment::{Deployment, Options, Process, ROLES, free_address},
};

const BROKER_PATIENCE: Duration = Duration::from_secs(20);

/// One process of each role.
pub struct Stage {
    /// The servers.
    pub deployment: Deployment,
    /// The api.
    pub shop: Shop,
    /// The engine's database, as its owner.
    pub engine: PgPool,
    places: BTreeMap<&'static str, (&'static [&'static str], SocketAddr)>,
    processes: BTreeMap<&'static str, Process>,
}

impl Stage {
    /// Starts servers and a process of each role with these settings, and sets the stock.
    pub async fn set(program: &Path, settings: &[(&str, &str)]) -> Result<Self, Error> {
        let mut options = Options::new(program);
        options.kafka.properties.push("group.min.session.timeout.ms=1000".into());
        let own = [
            ("session_timeout", "3s"),
            ("start_timeout", "60s"),
            ("command_partitions", "6"),
            ("reply_partitions", "6"),
        ];
        for (key, value) in own.iter().chain(settings) {
            options.settings.insert((*key).to_owned(), (*value).to_owned());
        }
        let deployment = Deployment::start(options).await?;
        let mut places = BTreeMap::new();
        for role in ROLES.iter() {
            let name = role[role.len() - 1];
            let address = if name == "inventory" { deployment.inventory() } else { free_address()? };
            places.insert(name, (role.as_slice(), address));
        }
        let (shop, engine) = (Shop::new(places["api"].1), deployment.pool("engine"));
        let mut stage = Self { deployment, shop, engine, places, processes: BTreeMap::new() };
        for name in stage.places.keys().copied().collect::<Vec<_>>() {
            stage.spawn(name)?;
        }
        for process in stage.processes.values_mut() {
            process.ready().await?;
        }
        Client::new(&[stage.places["api"].1], Record::default()).stock(PRODUCT, 1_000_000_000).await;
        Ok(stage)
    }

    fn spawn(&mut self, name: &'static str) -> Result<(), Error> {
        let (role, address) = self.places[name];
        let process = self.deployment.spawn_at(role, address, &[])?;
        self.processes.insert(name, process);
        Ok(())
    }

    /// Shuts a role down in order.
    pub async fn stop(&mut self, name: &str) {
        if let Some(process) = self.processes.remove(name) {
            process.stop().await;
        }
    }

    /// Starts a role that was stopped, and waits until it is ready.
    pub async fn start(&mut self, name: &'static str) -> Result<(), Error> {
        self.spawn(name)?;
        if let Some(process) = self.processes.get_mut(name) {
            process.ready().await?;
        }
        Ok(())
    }

    /// Returns the memory in use by a role's process, in MiB (Linux' /proc).
    pub fn resident_mib(&self, name: &str) -> Result<f64, Error> {
        let unreadable = |why: String| Error::Unreadable { what: format!("{name}'s memory"), why };
        let process = self.processes.get(name).ok_or_else(|| unreadable("it does not run".into()))?;
        let statm = fs::read_to_string(format!("/proc/{}/statm", process.pid()));
        let statm = statm.map_err(|e| unreadable(e.to_string()))?;
        let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<f64>().ok());
        Ok(pages.ok_or_else(|| unreadable(statm.clone()))? * page_size() as f64 / 1_048_576.0)
    }

    /// Returns a role's metric: the sum over all of its labels; 0 before its first increment.
    pub async fn metric(&self, name: &str, metric: &str) -> Result<f64, Error> {
        let unreadable =
            |e: reqwest::Error| Error::Unreadable { what: format!("{name}'s metrics"), why: e.to_string() };
        let answer =
            reqwest::get(format!("http://{}/metrics", self.places[name].1)).await.map_err(unreadable)?;
        let text = answer.text().await.map_err(unreadable)?;
        let of = |line: &&str| line.strip_prefix(metric).is_some_and(|rest| rest.starts_with([' ', '{']));
        Ok(text.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Returns the number of messages ever produced to a topic.
    pub async fn produced(&self, topic: &'static str) -> Result<i64, Error> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.deployment.kafka.address().to_string());
        let looking = tokio::task::spawn_blocking(move || -> Result<i64, KafkaError> {
            let client: BaseConsumer = config.create()?;
            let metadata = client.fetch_metadata(Some(topic), BROKER_PATIENCE)?;
            let partitions = metadata.topics().iter().flat_map(|t| t.partitions());
            partitions.map(|p| Ok(client.fetch_watermarks(topic, p.id(), BROKER_PATIENCE)?.1)).sum()
        });
        Ok(looking.await.map_err(|e| Error::NotReached(e.to_string()))??)
    }

    /// Reads a number from the engine's database.
    pub async fn count(&self, sql: &'static str) -> Result<i64, Error> {
        count(&self.engine, sql).await
    }

    /// Waits until a number from the engine's database is 0; returns how long that took.
    pub async fn until_none(&self, sql: &'static str, patience: Duration) -> Result<Duration, Error> {
        until_none(&self.engine, sql, patience).await
    }

    /// Waits until every saga has ended and every domain event is recorded, and checks the books.
    pub async fn books(&self, ledger: &Ledger) -> Result<Report, Error> {
        settled_books(&self.deployment, ledger).await
    }

    /// Ends everything.
    pub async fn end(mut self) {
        self.processes.clear();
        self.engine.close().await;
        self.deployment.stop().await;
    }
}

async fn count(engine: &PgPool, sql: &'static str) -> Result<i64, Error> {
    Ok(sqlx::query_scalar(sql).fetch_one(engine).await?)
}

async fn until_none(engine: &PgPool, sql: &'static str, patience: Duration) -> Result<Duration, Error> {
    let begun = Instant::now();
    loop {
        let left = count(engine, sql).await?;
        if left == 0 {
            return Ok(begun.elapsed());
        }
        if begun.elapsed() > patience {
            return Err(Error::NotReached(format!("{left} after {patience:?}: {sql}")));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until every saga of a deployment has ended and every domain event is recorded, and checks the books.
pub async fn settled_books(deployment: &Deployment, ledger: &Ledger) -> Result<Report, Error> {
    let (engine, notification) = (deployment.pool("engine"), deployment.pool("notification"));
    until_none(&engine, "SELECT count(*) FROM sagas WHERE live", Duration::from_secs(60)).await?;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(30) {
        if books::are_events_recorded(&engine, &notification).await? {
            break;
        }
        sleep(Duration::from_millis(200)).await;
    }
    Ok(books::report(&Sources::of(deployment), ledger).await?)
}
