//! `amends-limits`: measures the limits of a deployment. Ends with status 1 if a limit is not held.

use std::{path::PathBuf, process::ExitCode, time::Instant};

use amends_proof::limits::ALL;
use clap::Parser;

/// Measures limits under stress, each with its own servers and processes.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only these: overdue, overload, failing, storm, backlog, pinned, unsent, away, silent, returns.
    limits: Vec<String>,
    /// The program `amends`; by default the one beside this one.
    #[arg(long)]
    program: Option<PathBuf>,
    /// Fraction of the required size for `unsent` (600 s), `away` (300,000 sagas) and `returns` (600 orders): 0.1 is a tenth.
    #[arg(long, default_value_t = 1.0)]
    size: f64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let beside = || std::env::current_exe().ok().map(|me| me.with_file_name("amends")).unwrap_or_default();
    let program = arguments.program.unwrap_or_else(beside);
    if let Some(unknown) = arguments.limits.iter().find(|name| ALL.iter().all(|limit| limit.name() != *name))
    {
        eprintln!("limits: there is no limit {unknown}");
        return ExitCode::from(2);
    }
    let wanted =
        |name: &str| arguments.limits.is_empty() || arguments.limits.iter().any(|limit| limit == name);
    let (mut held, mut of, mut failed) = (0, 0, false);
    for limit in ALL.into_iter().filter(|limit| wanted(limit.name())) {
        let begun = Instant::now();
        of += 1;
        let name = limit.name();
        match limit.measure(&program, arguments.size).await {
            Ok(finding) => {
                println!("{name} ({:.0} s): {finding}", begun.elapsed().as_secs_f64());
                held += u32::from(finding.is_held());
            }
            Err(error) => {
                println!("{name}: not measured: {error}");
                failed = true;
            }
        }
    }
    println!("limits: {held} of {of} held");
    match (failed, held == of) {
        (true, _) => ExitCode::from(2),
        (false, true) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
