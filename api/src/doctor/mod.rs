//! `amends doctor`: looks at a deployment through the settings of its roles, changes nothing, and says what is wrong and
//! what to do about it.

mod allowed;
mod broker;
mod database;
mod finding;
mod links;
mod others;
mod rights;
mod work;

use std::process::ExitCode;

use anyhow::Result;

use self::finding::{Finding, Grade, as_text};
use crate::{cli::OutputFormat, services::SERVICES, settings::Settings};

/// Prints what is found. The status is 1 if anything is wrong.
///
/// # Errors
/// Nothing can be looked at, because no setting names a database or a broker.
pub async fn run(settings: &Settings, output: OutputFormat) -> Result<ExitCode> {
    let findings = examine(settings).await;
    if findings.iter().all(|finding| finding.grade == Grade::Skipped) {
        anyhow::bail!("nothing to look at: set the database URLs and kafka_brokers of the roles");
    }
    match output {
        OutputFormat::Table => print!("{}", as_text(&findings)),
        OutputFormat::Json => println!("{}", serde_json::to_string_pretty(&findings)?),
    }
    let is_wrong = findings.iter().any(|finding| finding.grade == Grade::Wrong);
    Ok(if is_wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn examine(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in SERVICES {
        findings.extend(database::examine(settings, service).await);
    }
    findings.extend(broker::examine(settings).await);
    findings.extend(links::of_settings(settings));
    findings.extend(others::examine(settings).await);
    findings
}
