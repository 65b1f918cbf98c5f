//! `amends dev`: everything on this machine.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{ErrorKind, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use amends_embedded::{Broker, BrokerOptions, Postgres, PostgresOptions};
use anyhow::{Context, Result, bail};
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{api, engine, migrate};
use crate::{
    cli::Dev,
    process::{self, Process},
    samples, services,
    settings::Settings,
    topics,
};

/// The embedded broker allows a session this short.
const EMBEDDED_SESSION: Duration = Duration::from_secs(3);
/// It does not wake a fetch that waits.
const EMBEDDED_FETCH_WAIT: Duration = Duration::from_millis(10);

/// Runs everything until told to stop.
pub async fn run(
    options: Dev,
    mut settings: Settings,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> Result<ExitCode> {
    let listener = listener(settings.listen, settings.no_auth).await?;
    let (data, _lock) = data_directory(&options)?;
    say(&format!("data in {}", data.display()));

    let mut postgres = None;
    let server = match &settings.database_url {
        Some(url) => url.expose_secret().to_owned(),
        None => {
            say("starting Postgres");
            let started = Postgres::start(PostgresOptions {
                fresh: options.fresh,
                ..PostgresOptions::new(data.join("postgres"))
            })
            .await?;
            let url = started.url("postgres");
            postgres = Some(started);
            url
        }
    };
    let broker = match &settings.kafka_brokers {
        Some(_) => None,
        None => {
            say("starting a Kafka broker (in memory)");
            let broker = Broker::start(BrokerOptions::default())?;
            for topic in topics::all(&settings) {
                broker.create_topic(&topic.name, topic.partitions)?;
            }
            settings.session_timeout = EMBEDDED_SESSION;
            settings.fetch_wait = EMBEDDED_FETCH_WAIT;
            Some(broker)
        }
    };
    let brokers = broker.as_ref().map(Broker::bootstrap_servers).or(settings.kafka_brokers.clone());
    let brokers = brokers.unwrap_or_default();

    say("bringing the databases up to date");
    let secret = secret(&data)?;
    let passwords: HashMap<_, _> =
        services::names().into_iter().map(|name| (name, derived(&secret, name))).collect();
    migrate::migrate(&server, &passwords, settings.start_timeout).await?;
    for (name, password) in &passwords {
        settings.set_database_of(name, migrate::role_url(&server, name, password)?);
    }

    let kafka = process::kafka(&settings, brokers.clone());
    process::within(&settings, "the broker", amends_kafka::check(&kafka, settings.start_timeout)).await?;
    amends_kafka::topics::ensure(&kafka, &topics::all(&settings), settings.start_timeout).await?;
    say("starting the roles");
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    settings.listen = Some(loopback);
    // The roles stop before what they stand on.
    let mut process = Process::new(settings, kafka, metrics, stop.clone())?;
    for service in services::workers() {
        if let Some(address) = service.start(&process, false).await? {
            process.settings.set_url_of(service.name, format!("http://{address}"));
        }
    }
    engine::start(&process, false).await?;
    let address = api::start(&process, Some(listener)).await?;
    println!("ready http://{address}");
    std::io::stdout().flush()?;

    let mut code = ExitCode::SUCCESS;
    if options.samples || options.once {
        let url = format!("http://{address}");
        let all_well = tokio::select! {
            all_well = samples::run(&url) => all_well?,
            () = stop.cancelled() => false,
        };
        if options.once {
            code = if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE };
            stop.cancel();
        } else if !stop.is_cancelled() {
            samples::invite(&url, &server, &brokers);
        }
    }
    stop.cancelled().await;
    say("stopping");
    if !process.ended().await {
        code = ExitCode::FAILURE;
    }
    drop(broker);
    if let Some(postgres) = postgres {
        postgres.stop().await;
    }
    Ok(code)
}

fn say(what: &str) {
    eprintln!("amends: {what}");
}

/// The address asked for, or 8080, or any.
async fn listener(wanted: Option<SocketAddr>, no_auth: bool) -> Result<TcpListener> {
    if let Some(address) = wanted {
        return process::listen(address, no_auth).await;
    }
    match TcpListener::bind(("127.0.0.1", 8080)).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            say("port 8080 is taken; taking a free one");
            process::listen(SocketAddr::from(([127, 0, 0, 1], 0)), no_auth).await
        }
        Err(error) => Err(error).context("cannot listen on 127.0.0.1:8080"),
    }
}

/// Made if missing; emptied if `--fresh` and if it is ours. The lock keeps others out until we end.
fn data_directory(options: &Dev) -> Result<(PathBuf, File)> {
    const MARK: &str = "amends-data";
    let data = std::path::absolute(&options.data)?;
    fs::create_dir_all(&data).with_context(|| format!("making {}", data.display()))?;
    let lock = File::open(&data).with_context(|| format!("opening {}", data.display()))?;
    if lock.try_lock().is_err() {
        bail!("another `amends dev` runs on {}", data.display());
    }
    if options.fresh {
        let entries: Vec<PathBuf> =
            fs::read_dir(&data)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        if !entries.is_empty() && !data.join(MARK).exists() {
            bail!("--fresh: {} was not made by `amends dev`; it is left alone", data.display());
        }
        for entry in entries {
            let removed = if entry.is_dir() { fs::remove_dir_all(&entry) } else { fs::remove_file(&entry) };
            removed.with_context(|| format!("removing {}", entry.display()))?;
        }
    }
    fs::write(data.join(MARK), "made by `amends dev`\n")?;
    Ok((data, lock))
}

/// What the roles' passwords are derived from; drawn once, kept with the data.
fn secret(data: &Path) -> Result<String> {
    let path = data.join("secret");
    match fs::read_to_string(&path) {
        Ok(secret) if secret.len() == 64 => return Ok(secret),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).context("reading the data directory's secret"),
    }
    let bytes: [u8; 32] = rand::random();
    let secret: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    file.write_all(secret.as_bytes())?;
    Ok(secret)
}

fn derived(secret: &str, name: &str) -> String {
    let digest = Sha256::digest(format!("{secret}/{name}"));
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}
