//! A deployment with the roles that a mode needs.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use amends_api::clock::TokioClock;
use amends_engine::runtime::Engine;
use amends_kafka::{KafkaSettings, KafkaSink};
use amends_orders::OrderStore;
use amends_pool as pool;
use amends_postgres::{PgSagaStore, deployment::deployment};
use amends_proof::deployment::{Deployment, KafkaOptions, Options, PARTICIPANTS, Process, free_address};
use amends_workflows::order_fulfilment;
use anyhow::{Context, Result, bail};
use sqlx::{Postgres, Transaction};
use tokio::task::JoinHandle;

use crate::{
    args::{Bench, Mix, Mode},
    history::{self, Timers},
    load::{
        Entrance,
        births::Births,
        http::Http,
        ledger::Ledger,
        shop::{PRODUCTS, product},
    },
    roles::three_steps,
    seen,
    tokens::Tokens,
};

/// Postgres' settings, besides `--postgres`. `fsync` and `synchronous_commit` are on, as always.
const POSTGRES: [(&str, &str); 9] = [
    ("fsync", "on"),
    ("synchronous_commit", "on"),
    ("full_page_writes", "on"),
    ("shared_buffers", "1GB"),
    ("max_wal_size", "8GB"),
    ("checkpoint_timeout", "30min"),
    ("autovacuum", "on"),
    ("jit", "off"),
    // So that a row's WAL is still there to be counted after it.
    ("wal_keep_size", "8GB"),
];

/// Kafka's Java machine, unless `--jvm` says otherwise.
const JVM: &str = "-Xms1g -Xmx1g -XX:+UseSerialGC";

/// How long a call to the gateway may take where answers are lost, so that they do not fill a closed loop.
const LOST_AFTER: (&str, &str) = ("payment_call_timeout", "1s");

/// The roles of one mode, and how the load reaches them.
pub struct Stage {
    pub deployment: Deployment,
    pub mode: Mode,
    pub mix: Mix,
    pub ledger: Arc<Ledger>,
    pub entrance: Entrance,
    /// The processes, each with the group that it is counted in.
    pub roles: Vec<(&'static str, Process)>,
    reading: Option<JoinHandle<()>>,
    /// What the api judges tokens by, where it wants them.
    tokens: Option<Tokens>,
    /// An idle transaction with a snapshot, where one was asked for.
    _pin: Option<Transaction<'static, Postgres>>,
}

/// Every setting of servers and roles that was given.
#[derive(Debug, Clone)]
pub struct Settings {
    pub postgres: Vec<(String, String)>,
    pub kafka: Vec<(String, String)>,
    pub jvm: String,
    pub roles: BTreeMap<String, String>,
}

impl Settings {
    /// The benchmark's own settings, with the changes of the command line.
    pub fn of(args: &Bench, mix: Mix) -> Self {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let mut postgres: Vec<_> = POSTGRES.iter().map(own).collect();
        if args.statements {
            postgres.push(own(&("shared_preload_libraries", "pg_stat_statements")));
        }
        postgres.retain(|(key, _)| args.postgres.iter().all(|(other, _)| other != key));
        postgres.extend(args.postgres.iter().cloned());
        let mut kafka = args.kafka.clone();
        if args.takeover {
            // A broker allows no session under six seconds unless it is configured so.
            kafka.push(own(&("group.min.session.timeout.ms", "1000")));
        }
        let mut roles = BTreeMap::new();
        if mix == Mix::Timeouts1 {
            roles.extend([own(&LOST_AFTER)]);
        }
        for key in ["command_partitions", "reply_partitions"] {
            roles.extend(args.partitions.map(|partitions| (key.to_owned(), partitions.to_string())));
        }
        roles.extend(args.set.iter().cloned());
        Self { postgres, kafka, jvm: args.jvm.clone().unwrap_or_else(|| JVM.to_owned()), roles }
    }
}

/// Starts the servers, without roles.
pub async fn servers(args: &Bench, mix: Mix) -> Result<Deployment> {
    let settings = Settings::of(args, mix);
    let mut options = Options::new(program(args)?);
    options.postgres = settings.postgres;
    let properties = settings.kafka.iter().map(|(key, value)| format!("{key}={value}")).collect();
    options.kafka = KafkaOptions { jvm: Some(settings.jvm), properties, ..KafkaOptions::default() };
    options.settings = settings.roles;
    options.log.clone_from(&args.log);
    Ok(Deployment::start(options).await?)
}

fn program(args: &Bench) -> Result<PathBuf> {
    if let Some(program) = &args.program {
        return Ok(program.clone());
    }
    let beside = std::env::current_exe()?.with_file_name("amends");
    if !beside.exists() {
        bail!("{} is missing: build amends-api with the same profile", beside.display());
    }
    Ok(beside)
}

impl Stage {
    /// Starts what the mode needs, and puts stock in.
    pub async fn set(deployment: Deployment, args: &Bench, mode: Mode, mix: Mix) -> Result<Self> {
        history::write(&deployment, args).await?;
        let ledger = Arc::new(Ledger::default());
        let mut roles: Vec<(&'static str, Process)> = Vec::new();
        let own = std::env::current_exe()?;
        let spawn_own = |role: &[&str]| deployment.spawn_program(&own, role, free_address()?, &[]);
        if mode == Mode::Engine {
            roles.push(("workers", spawn_own(&["role", "noop"])?));
        } else {
            for worker in PARTICIPANTS.iter() {
                let worker = match *worker {
                    "inventory" => deployment.spawn_inventory(&[])?,
                    other => deployment.spawn(&["worker", other], &[])?,
                };
                roles.push(("workers", worker));
            }
        }
        let over_http = mode.over_http();
        let report_to = seen::reported::listen(Arc::clone(&ledger)).await?.to_string();
        for _ in 0..args.engines.max(1) {
            roles.push((
                "engine",
                match mode {
                    Mode::Engine => spawn_own(&["role", "engine", &report_to, "--three-steps"])?,
                    Mode::Workers => spawn_own(&["role", "engine", &report_to])?,
                    Mode::Orders | Mode::Everything | Mode::Shop => deployment.spawn(&["engine"], &[])?,
                },
            ));
        }
        let tokens = if mode == Mode::Shop || args.tokens { Some(Tokens::draw()?) } else { None };
        if over_http {
            let settings = tokens.as_ref().map(Tokens::settings).transpose()?.unwrap_or_default();
            let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
            roles.push(("api", deployment.spawn(&["api"], &settings)?));
        }
        if mode == Mode::Everything {
            roles.push(("notification", deployment.spawn(&["worker", "notification"], &[])?));
            roles.push(("reader", spawn_own(&["role", "reader"])?));
        }
        for (_, role) in &mut roles {
            role.ready().await?;
        }
        if mode != Mode::Engine {
            stock(&deployment).await.context("putting stock in")?;
        }
        let kafka = KafkaSettings::new(deployment.kafka.address().to_string());
        let (entrance, reading) = if over_http {
            let api = roles.iter().find(|(group, _)| *group == "api").expect("it was started").1.address;
            // A broker that wakes it need not be asked every few milliseconds.
            let patient = KafkaSettings { fetch_wait: Duration::from_millis(500), ..kafka.clone() };
            let reading = seen::commands::read(&patient, mix == Mix::Undone10, Arc::clone(&ledger))?;
            let token = tokens.as_ref().map(Tokens::storefront).transpose()?;
            (Entrance::Http(Arc::new(Http::new(api, token, mode == Mode::Shop))), Some(reading))
        } else {
            (Entrance::Births(Arc::new(births(&deployment, &kafka, mode).await?)), None)
        };
        let pin = if args.pin { Some(pinned(&deployment).await?) } else { None };
        Ok(Self { deployment, mode, mix, ledger, entrance, roles, reading, tokens, _pin: pin })
    }

    /// Whether the api wants a token with each request.
    pub fn wants_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// The sum of all engines' histograms of timer lateness.
    pub async fn timers(&self) -> Timers {
        let mut sum = Timers::new();
        for (_, engine) in self.roles.iter().filter(|(group, _)| *group == "engine") {
            let Ok(answer) = reqwest::get(format!("http://{}/metrics", engine.address)).await else {
                continue;
            };
            let read = history::timers(&answer.text().await.unwrap_or_default());
            if sum.is_empty() {
                sum = read;
            } else {
                sum.iter_mut().zip(read).for_each(|((_, sum), (_, count))| *sum += count);
            }
        }
        sum
    }

    /// A role that has ended by itself, and its last log lines.
    pub fn fallen(&mut self) -> Option<String> {
        let fallen = self.roles.iter_mut().find_map(|(_, role)| (!role.is_running()).then_some(role));
        fallen.map(|role| format!("{} has ended: {}", role.role, role.last_log_lines()))
    }

    /// Ends the roles in good order, and then the servers.
    pub async fn clear(self) {
        if let Some(reading) = self.reading {
            reading.abort();
            // Its consumer leaves before the broker does.
            let _ = reading.await;
        }
        drop(self.entrance);
        let mut stopping = tokio::task::JoinSet::new();
        for (_, role) in self.roles {
            stopping.spawn(role.stop());
        }
        while stopping.join_next().await.is_some() {}
        // Dropped with its servers: nobody needs the data, and a shutdown would write it all.
    }
}

/// Holds a snapshot, as a forgotten session does.
async fn pinned(deployment: &Deployment) -> Result<Transaction<'static, Postgres>> {
    let mut pin = deployment.pool("engine").begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
    sqlx::query("SELECT count(*) FROM deployment").execute(&mut *pin).await?;
    Ok(pin)
}

/// Puts enough stock of every product in, over the inventory worker's own HTTP.
async fn stock(deployment: &Deployment) -> Result<()> {
    let (client, inventory) = (reqwest::Client::new(), deployment.inventory());
    for n in 0..PRODUCTS {
        let url = format!("http://{inventory}/api/inventory/{}/stock", product(n));
        let request =
            client.put(url).header("content-type", "application/json").body(r#"{"onHand":1000000000}"#);
        request.send().await?.error_for_status()?;
    }
    Ok(())
}

async fn births(deployment: &Deployment, kafka: &KafkaSettings, mode: Mode) -> Result<Births> {
    let pool = pool::connect(deployment.role_url("engine"), 4, "amends-bench")?;
    let this = deployment_of(&pool).await?;
    let workflows = amends_workflows::all(&Default::default());
    let (catalog, definition, orders) = match mode {
        Mode::Engine => (three_steps::catalog(), three_steps::definition(), None),
        _ => {
            let newest = workflows.newest(order_fulfilment::NAME).context("no workflow for orders")?;
            (workflows.catalog(), newest.definition.clone(), Some(OrderStore::new(pool.clone())))
        }
    };
    let engine = Engine {
        store: PgSagaStore::new(pool),
        sink: KafkaSink::new(kafka)?,
        clock: TokioClock::default(),
        catalog,
        key: this.key,
        epoch: this.epoch,
        ownership: Default::default(),
        news: Default::default(),
        budget: Default::default(),
        recent: Default::default(),
        passed_over: Default::default(),
        fleet: Default::default(),
    };
    Ok(Births { engine: Arc::new(engine), orders, definition, slots: Default::default() })
}

async fn deployment_of(pool: &pool::Pool) -> Result<amends_postgres::deployment::Deployment> {
    deployment(pool).await.context("the engine's database")
}
