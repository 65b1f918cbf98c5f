//! Processes of the benchmark's own, on the same library as the program's roles and with the same settings.

mod engine;
mod noop;
mod reader;
pub mod three_steps;

use std::process::ExitCode;

use amends_api::{
    process::Process,
    services,
    settings::Settings,
    stop::{Stop, signalled},
    telemetry, topics,
};
use anyhow::{Context, Result, anyhow};

use crate::args::OwnRole;

/// Runs a role until the process is stopped.
pub async fn run(role: OwnRole) -> Result<ExitCode> {
    let settings = Settings::read(&services::names(), None, &[])?;
    telemetry::logs(&settings).map_err(|why| anyhow!(why))?;
    let metrics = telemetry::metrics().context("metrics")?;
    let stop = Stop::default();
    tokio::spawn(signalled(stop.clone(), settings.stop_delay));
    let topics = topics::all(&settings);
    let process = Process::begin(settings, &topics, metrics, stop.clone()).await?;
    match role {
        OwnRole::Engine { report_to, three_steps } => engine::start(&process, report_to, three_steps).await?,
        OwnRole::Noop => noop::start(&process).await?,
        OwnRole::Reader => reader::start(&process).await?,
    }
    stop.now.cancelled().await;
    Ok(if process.ended().await { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
