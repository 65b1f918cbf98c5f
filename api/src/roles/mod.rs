//! The roles of a process. Each is started here from its settings; `dev` starts them all.

mod api;
pub mod dev;
pub mod engine;
mod health;
mod migrate;
mod restore;
mod topic_list;

use std::{net::SocketAddr, process::ExitCode};

use amends_postgres::keys::Rotation;
use anyhow::{Context, Result};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::{
    cli::Role,
    doctor, links,
    process::{self, Process},
    services,
    settings::Settings,
    stop::{self, Stop},
    telemetry, topics,
};

/// Runs a role until it is stopped.
pub async fn run(role: Role, mut settings: Settings) -> Result<ExitCode> {
    if !matches!(role, Role::Health(_)) {
        links::check_files(&settings)?;
    }
    if let Role::Migrate { rotate_keys } = role {
        let rotation = if rotate_keys { Rotation::Rotate } else { Rotation::Keep };
        migrate::run(&settings, rotation).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Role::Restore { dry_run, output } = role {
        restore::run(&settings, dry_run, output).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Role::Topics(options) = &role {
        topic_list::run(&settings, options).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Role::Doctor { output } = role {
        return doctor::run(&settings, output).await;
    }
    if let Role::Health(options) = &role {
        println!("{}", health::ask(options, settings.metrics_listen.or(settings.listen)).await?);
        return Ok(ExitCode::SUCCESS);
    }
    let metrics = telemetry::metrics()?;
    telemetry::catalog::begin(&roles_of(&role));
    let interrupted = Stop::default();
    tokio::spawn(stop::signalled(interrupted.clone(), settings.stop_delay));
    if let Role::Dev(options) = role {
        return dev::run(options, settings, metrics, interrupted).await;
    }
    settings.listen = settings.listen.or(default_listen(&role));
    let stop = interrupted.child();
    let process = tokio::select! {
        started = start(role, settings, metrics, stop.clone()) => started?,
        () = interrupted.now.cancelled() => return Ok(ExitCode::SUCCESS),
    };
    stop.now.cancelled().await;
    tracing::info!("stopping");
    Ok(if process.ended().await { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Starts a role in a separate process.
async fn start(role: Role, settings: Settings, metrics: PrometheusHandle, stop: Stop) -> Result<Process> {
    let topics = topics::all(&settings);
    links::check_redis(&settings).await?;
    if let Role::Api = role {
        // The api accepts orders without the broker: the engine drives them on by their rows.
        links::check_broker(&settings, &process::kafka(&settings, settings.brokers()?.to_owned())).await?;
        let process = Process::begin_before_broker(settings, topics, metrics, stop)?;
        let address = api::start(&process).await?;
        tracing::info!(%address, "accepting orders");
        return Ok(process);
    }
    let process = Process::begin(settings, &topics, metrics, stop).await?;
    match role {
        Role::Engine => engine::start(&process, true).await?,
        Role::Worker { name } => {
            let service =
                services::find_worker(&name).with_context(|| format!("no worker is called {name}"))?;
            service.start(&process, true).await?;
        }
        Role::Api
        | Role::Dev(_)
        | Role::Token(_)
        | Role::Migrate { .. }
        | Role::Restore { .. }
        | Role::Topics(_)
        | Role::Doctor { .. }
        | Role::Saga(_)
        | Role::Samples { .. }
        | Role::Config
        | Role::Notify { .. }
        | Role::Health(_)
        | Role::EmbeddedBroker { .. } => unreachable!("handled above"),
    }
    Ok(process)
}

/// Returns the names of the roles that run in the process of this one, for its metrics.
fn roles_of(role: &Role) -> Vec<&'static str> {
    match role {
        Role::Api => vec!["api"],
        Role::Engine => vec!["engine"],
        Role::Worker { name } => {
            services::find_worker(name).map(|service| service.name).into_iter().collect()
        }
        Role::Dev(_) => services::names().into_iter().chain(["api"]).collect(),
        _ => Vec::new(),
    }
}

fn default_listen(role: &Role) -> Option<SocketAddr> {
    let port = match role {
        Role::Api => 8080,
        Role::Worker { name } => services::find_worker(name).and_then(|service| service.port).unwrap_or(0),
        _ => 0,
    };
    Some(SocketAddr::from(([127, 0, 0, 1], port)))
}
