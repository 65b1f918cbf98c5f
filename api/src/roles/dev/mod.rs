//! `amends dev`: everything on this machine.

mod data;

use std::{
    collections::HashMap,
    env, fs,
    io::{ErrorKind, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{Command, ExitCode},
    time::Duration,
};

use amends_embedded::{BrokerOptions, BrokerProcess, Postgres, PostgresOptions};
use amends_inventory::cache::StockCache;
use amends_postgres::keys::Rotation;
use anyhow::{Context, Result, bail};
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{api, engine, migrate};
use crate::{
    auth::{Authenticator, OwnKey, Role},
    cli::{Dev, EMBEDDED_BROKER, Token},
    process::{self, Process},
    samples, services,
    settings::Settings,
    topics,
};
use data::DataDirectory;

/// The worker that owns the stock.
const INVENTORY: &str = "inventory";
/// Unknown outcomes park soon, so that this can be watched.
const UNKNOWN_PATIENCE: Duration = Duration::from_secs(20);
/// The embedded broker allows a session this short.
const EMBEDDED_SESSION: Duration = Duration::from_secs(3);
/// The embedded broker does not answer a waiting fetch when messages arrive.
const EMBEDDED_FETCH_WAIT: Duration = Duration::from_millis(10);
/// Subject of the samples' requests where a token is needed.
const SAMPLES_SUBJECT: &str = "samples";
/// How long their token is valid; they end within minutes.
const SAMPLES_TOKEN_SECONDS: u64 = 3600;

/// Everything that runs. Each part ends before the parts that it depends on.
struct Running {
    /// Signs the samples' token.
    key: OwnKey,
    process: Process,
    /// The api's address.
    address: SocketAddr,
    /// The URL of the Postgres server.
    server: String,
    brokers: String,
    /// What workers that were left out need, one line each.
    left_out: Vec<String>,
    broker: Option<BrokerProcess>,
    postgres: Option<Postgres>,
    _data: DataDirectory,
}

/// Runs everything until `interrupted`. An interrupted start ends at once, whatever it waits for.
pub async fn run(
    options: Dev,
    settings: Settings,
    metrics: PrometheusHandle,
    interrupted: CancellationToken,
) -> Result<ExitCode> {
    let stop = interrupted.child_token();
    let running = tokio::select! {
        started = start(&options, settings, metrics, stop.clone()) => started?,
        () = interrupted.cancelled() => {
            say("stopping");
            return Ok(if options.once { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
    };
    println!("ready http://{}", running.address);
    for line in &running.left_out {
        println!("{line}");
    }
    std::io::stdout().flush()?;

    let mut code = ExitCode::SUCCESS;
    if options.samples || options.once {
        let url = format!("http://{}", running.address);
        let token = match options.auth {
            true => Some(running.key.mint(SAMPLES_SUBJECT, &Role::ALL, SAMPLES_TOKEN_SECONDS)?),
            false => None,
        };
        let all_well = tokio::select! {
            all_well = samples::run(&url, token) => all_well?,
            () = stop.cancelled() => false,
        };
        if options.once {
            code = if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE };
            stop.cancel();
        } else if !stop.is_cancelled() {
            samples::invite(&url, &running.server, &running.brokers, &options.data);
        }
    }
    stop.cancelled().await;
    say("stopping");
    if !running.process.ended().await {
        code = ExitCode::FAILURE;
    }
    if let Some(broker) = running.broker {
        broker.stop().await;
    }
    if let Some(postgres) = running.postgres {
        postgres.stop().await;
    }
    Ok(code)
}

async fn start(
    options: &Dev,
    mut settings: Settings,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> Result<Running> {
    settings.unknown_patience.get_or_insert(UNKNOWN_PATIENCE);
    settings.trace_sampling.get_or_insert(1.0);
    settings.metrics_listen = None;
    if settings.jwks_url.is_some() || settings.jwt_key_file.is_some() {
        bail!("`amends dev` has its own key: leave out the settings jwks_url and jwt_key_file");
    }
    let listener = listener(settings.listen, options.auth).await?;
    let data = DataDirectory::open(&options.data, options.fresh)?;
    say(&format!("data in {}", data.path().display()));
    let key = data.token_key()?;
    let (server, postgres) = postgres(options, &settings, &data).await?;
    let (brokers, broker) = broker(&mut settings).await?;

    say("bringing the databases up to date");
    let secret = data.secret()?;
    let passwords: HashMap<_, _> =
        services::names().into_iter().map(|name| (name, derived(&secret, name))).collect();
    migrate::migrate(&server, &passwords, None, settings.start_timeout).await?;
    for (name, password) in &passwords {
        settings.set_database_of(name, migrate::role_url(&server, name, password)?);
    }
    migrate::ensure_keys(&server, &settings, Rotation::Keep).await?;
    settings.service_token.get_or_insert_with(|| derived(&secret, "service-token").into());
    let webhook_key = || ["webhook-key-1", "webhook-key-2"].map(|name| derived(&secret, name)).concat();
    settings.webhook_key.get_or_insert_with(|| webhook_key().into());
    settings.webhook_allow_private.get_or_insert(true);
    // All senders are this program, and sign.
    settings.require_signatures = true;
    // Messages that cannot be sent can be read.
    settings.notification_previews = true;
    let mut own = listener.local_addr()?;
    if own.ip().is_unspecified() {
        own.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    settings.set_url_of("api", format!("http://{own}"));

    let kafka = process::kafka(&settings, brokers.clone());
    process::within(&settings, "the broker", amends_kafka::check(&kafka, settings.start_timeout)).await?;
    amends_kafka::topics::ensure(&kafka, &topics::all(&settings), settings.start_timeout).await?;
    say("starting the roles");
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    settings.listen = Some(loopback);
    // The roles stop before the servers that they use.
    let mut process = Process::new(settings, kafka, metrics, stop)?;
    let has_inventory = !options.without.iter().any(|name| name == INVENTORY);
    if process.redis.is_none() && has_inventory && postgres.is_some() && broker.is_some() {
        // Its own servers: all readers and writers of stock run in this process.
        process.stock_cache = StockCache::within_process();
    }
    let mut left_out = Vec::new();
    for service in services::workers() {
        if options.without.iter().any(|name| name == service.name) {
            left_out.push(needs(service.name, &process.settings, &brokers)?);
        } else if let Some(address) = service.start(&process, false).await? {
            process.settings.set_url_of(service.name, format!("http://{address}"));
        }
    }
    engine::start(&process, false).await?;
    let auth = Authenticator::of_dev(&key, !options.auth).context("using dev's own key")?;
    let address = api::serve_on(&process, listener, auth).await?;
    Ok(Running { key, process, address, server, brokers, left_out, broker, postgres, _data: data })
}

/// Returns the server of the settings, or starts one.
async fn postgres(
    options: &Dev,
    settings: &Settings,
    data: &DataDirectory,
) -> Result<(String, Option<Postgres>)> {
    if let Some(url) = &settings.database_url {
        return Ok((url.expose_secret().to_owned(), None));
    }
    say("starting Postgres");
    let own = PostgresOptions { fresh: options.fresh, ..PostgresOptions::new(data.postgres()) };
    let started = Postgres::start(own).await?;
    Ok((started.url("postgres"), Some(started)))
}

/// Returns the broker of the settings, or starts one, which has other limits.
async fn broker(settings: &mut Settings) -> Result<(String, Option<BrokerProcess>)> {
    if let Some(brokers) = &settings.kafka_brokers {
        return Ok((brokers.clone(), None));
    }
    say("starting a Kafka broker (in memory)");
    let topics = topics::all(settings).into_iter().map(|topic| (topic.name, topic.partitions)).collect();
    let program = env::current_exe().context("finding this program")?;
    let started = BrokerProcess::start(BrokerOptions::default(), topics, move |plan| {
        let mut command = Command::new(&program);
        command.arg(EMBEDDED_BROKER).arg(plan.to_string());
        command
    })
    .await?;
    if !started.is_private() {
        say("other users of this machine can read that broker's messages, which contain orders' addresses");
    }
    (settings.kafka_tls, settings.kafka_sasl_user) = (false, None);
    settings.session_timeout = EMBEDDED_SESSION;
    settings.fetch_wait = EMBEDDED_FETCH_WAIT;
    Ok((started.bootstrap_servers(), Some(started)))
}

/// Returns what a worker that is left out needs to take part.
fn needs(worker: &str, settings: &Settings, brokers: &str) -> Result<String> {
    let takes = match amends_workflows::all(&settings.workflows()).participants().contains(&worker) {
        true => format!("{worker}.commands"),
        false => "domain events".to_owned(),
    };
    let database = settings.database_of(worker)?;
    Ok(format!(
        "without worker {worker}: broker {brokers}, group {}, assignor {}, takes {takes}, database {database}",
        process::group(worker),
        amends_kafka::ASSIGNOR,
    ))
}

fn say(what: &str) {
    eprintln!("amends: {what}");
}

/// Listens on the requested address, or on port 8080, or on any free port. Without tokens, only on a loopback address.
async fn listener(wanted: Option<SocketAddr>, has_tokens: bool) -> Result<TcpListener> {
    if let Some(address) = wanted {
        if !has_tokens && !address.ip().is_loopback() {
            bail!(
                "setting listen: {address} is not a loopback address, and `dev` lets everyone in: add --auth"
            );
        }
        return process::bind(address).await;
    }
    match TcpListener::bind(("127.0.0.1", 8080)).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            say("port 8080 is taken; using a free one");
            process::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await
        }
        Err(error) => Err(error).context("cannot listen on 127.0.0.1:8080"),
    }
}

/// Mints a token with the key in the data directory, which may be that of a running `dev`. If asked to, writes the public
/// half of the key to a file.
///
/// # Errors
/// The directory cannot be used, or contains what others have made; or the file cannot be written.
pub fn token(options: &Token) -> Result<String> {
    let key = data::token_key(&options.data)?;
    if let Some(path) = &options.public_key {
        fs::write(path, key.public_pem()).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(key.mint(&options.subject, &options.role, options.ttl.as_secs())?)
}

fn derived(secret: &str, name: &str) -> String {
    let digest = Sha256::digest(format!("{secret}/{name}"));
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}
