//! What a process can be. Each role is started here from its settings; `dev` starts them all.

mod api;
mod dev;
pub mod engine;
mod migrate;

use std::{net::SocketAddr, process::ExitCode};

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::Role,
    process::{self, Process},
    services,
    settings::Settings,
    telemetry, topics,
};

/// Runs a role until it is told to stop.
pub async fn run(role: Role, mut settings: Settings) -> Result<ExitCode> {
    if let Role::Migrate = role {
        migrate::run(&settings).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let metrics = telemetry::metrics()?;
    let stop = CancellationToken::new();
    tokio::spawn(process::signalled(stop.clone()));
    if let Role::Dev(options) = role {
        return dev::run(options, settings, metrics, stop).await;
    }
    settings.listen = settings.listen.or(default_listen(&role));
    let topics = topics::all(&settings);
    let process = Process::begin(settings, &topics, metrics, stop.clone()).await?;
    match role {
        Role::Api => {
            let address = api::start(&process, None).await?;
            tracing::info!("takes orders on http://{address}");
        }
        Role::Engine => engine::start(&process, true).await?,
        Role::Worker { name } => {
            let service =
                services::find_worker(&name).with_context(|| format!("no worker is called {name}"))?;
            service.start(&process, true).await?;
        }
        Role::Dev(_) | Role::Migrate | Role::Config => unreachable!("handled above"),
    }
    stop.cancelled().await;
    tracing::info!("stopping");
    Ok(if process.ended().await { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn default_listen(role: &Role) -> Option<SocketAddr> {
    let port = match role {
        Role::Api => 8080,
        Role::Worker { name } => services::find_worker(name).and_then(|service| service.port).unwrap_or(0),
        _ => 0,
    };
    Some(SocketAddr::from(([127, 0, 0, 1], port)))
}
