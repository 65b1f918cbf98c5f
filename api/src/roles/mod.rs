//! What a process can be. Each role is started here from its settings; `dev` starts them all.

mod api;
mod dev;
mod engine;
mod migrate;
mod worker;

use std::{future::Future, net::SocketAddr, process::ExitCode, time::Duration};

use amends_kafka::{KafkaSettings, topics};
use amends_workflows::events;
use anyhow::{Context, Result};
use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::{PgPool, migrate::Migrator};
use tokio::{net::TcpListener, signal::unix::SignalKind};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{cli::Role, settings::Settings, telemetry};

/// What every role of a process is given.
#[derive(Clone)]
pub struct Process {
    pub settings: Settings,
    pub kafka: KafkaSettings,
    pub metrics: PrometheusHandle,
    /// Cancelled when the process is to stop.
    pub stop: CancellationToken,
    /// What must end before the process does.
    pub tasks: TaskTracker,
}

/// Topics of commands: each has a worker.
pub const PARTICIPANTS: [&str; 3] = ["inventory", "payment", "shipment"];
/// Where workers answer.
pub const REPLIES: &str = "saga.replies";

/// Runs a role until it is told to stop.
pub async fn run(role: Role, mut settings: Settings) -> Result<ExitCode> {
    if let Role::Migrate = role {
        migrate::run(&settings).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let metrics = telemetry::metrics()?;
    let stop = CancellationToken::new();
    tokio::spawn(signalled(stop.clone()));
    if let Role::Dev(options) = role {
        return dev::run(options, settings, metrics, stop).await;
    }
    let kafka = kafka(&settings, settings.brokers()?.to_owned());
    within(&settings, "the broker", amends_kafka::check(&kafka, settings.start_timeout)).await?;
    topics::ensure(&kafka, &all_topics(&settings), settings.start_timeout).await?;
    settings.listen = settings.listen.or(default_listen(&role));
    let process = Process { settings, kafka, metrics, stop: stop.clone(), tasks: TaskTracker::new() };
    match role {
        Role::Api => {
            let address = api::start(&process, None).await?;
            tracing::info!("takes orders on http://{address}");
        }
        Role::Engine => engine::start(&process, true).await?,
        Role::Worker { name } => {
            worker::start(name, &process, true).await?;
        }
        Role::Dev(_) | Role::Migrate | Role::Config => unreachable!("handled above"),
    }
    stop.cancelled().await;
    tracing::info!("stopping");
    process.tasks.close();
    process.tasks.wait().await;
    Ok(ExitCode::SUCCESS)
}

fn default_listen(role: &Role) -> Option<SocketAddr> {
    let port = match role {
        Role::Api => 8080,
        Role::Worker { name: crate::cli::Worker::Inventory } => 8081,
        _ => 0,
    };
    Some(SocketAddr::from(([127, 0, 0, 1], port)))
}

async fn signalled(stop: CancellationToken) {
    let terminate = async {
        match tokio::signal::unix::signal(SignalKind::terminate()) {
            Ok(mut signal) => signal.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate => {}
    }
    stop.cancel();
}

/// How to talk to the broker.
pub fn kafka(settings: &Settings, brokers: String) -> KafkaSettings {
    KafkaSettings { session_timeout: settings.session_timeout, ..KafkaSettings::new(brokers) }
}

/// Every topic of a deployment.
pub fn all_topics(settings: &Settings) -> Vec<topics::Topic> {
    let commands =
        PARTICIPANTS.map(|p| topics::Topic::new(format!("{p}.commands"), settings.command_partitions));
    let replies = topics::Topic::new(REPLIES, settings.reply_partitions);
    let events = events::TYPES.map(|t| topics::Topic::new(t, settings.event_partitions));
    let with_dead_letters = |topic: topics::Topic| [topic.dead_letters(), topic];
    commands.into_iter().chain([replies]).chain(events).flat_map(with_dead_letters).collect()
}

/// Waits for something that a start needs, as long as a start may take.
async fn within<T, E: std::error::Error + Send + Sync + 'static>(
    settings: &Settings,
    what: &'static str,
    asked: impl Future<Output = Result<T, E>>,
) -> Result<T> {
    let bound = settings.start_timeout + Duration::from_secs(1);
    tokio::time::timeout(bound, asked)
        .await
        .with_context(|| format!("{what} did not answer within {}s", settings.start_timeout.as_secs()))?
        .with_context(|| format!("{what} cannot be used"))
}

/// A role's connections, once its database answers and has this program's schema.
async fn database(process: &Process, key: &'static str, migrator: &Migrator) -> Result<PgPool> {
    let url = process.settings.database(key)?;
    let name = format!("amends-{}", key.trim_end_matches("_database_url"));
    let pool = amends_postgres::pool::connect(url, process.settings.database_connections, &name)?;
    within(&process.settings, "the database", amends_postgres::pool::check(&pool)).await?;
    amends_postgres::pool::is_at(&pool, migrator).await?;
    Ok(pool)
}

/// Listens; an address that is taken is an error.
async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// Serves until the process stops.
fn serve(process: &Process, listener: TcpListener, router: Router) {
    let stop = process.stop.clone();
    process.tasks.spawn(async move {
        let serving = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = serving.await {
            tracing::error!(%error, "no longer listening");
        }
    });
}
