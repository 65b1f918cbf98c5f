//! `amends-campaign`: orders, faults, and then the books. Ends with status 1 if they do not balance.

use std::{path::PathBuf, process::ExitCode};

use amends_proof::{
    campaign::{self, Campaign, faults},
    deployment::citus::Citus,
};
use clap::Parser;

/// Places orders while faults occur, and then checks the books.
#[derive(Debug, Parser)]
struct Arguments {
    /// Number of orders.
    #[arg(long, default_value_t = 2000)]
    orders: usize,
    /// Orders per second; by default such that there are five seconds for each fault, at most 100.
    #[arg(long)]
    rate: Option<f64>,
    /// Number of faults; by default one for every 300 orders, and at least as many as there are kinds.
    #[arg(long)]
    faults: Option<usize>,
    /// Also ends with status 1 if fewer faults than this were injected: a slow campaign has shown too little.
    #[arg(long, default_value_t = 0)]
    least: usize,
    /// Seed of all random choices.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only faults whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Directory for the processes' logs if the books do not balance.
    #[arg(long, default_value = "target/campaign")]
    logs: PathBuf,
    /// The coordinator of a Citus that has the databases, in place of an own Postgres; what earlier tests have left there is
    /// dropped.
    #[arg(long)]
    citus: Option<String>,
    /// The program `amends`; by default the one beside this one.
    #[arg(long)]
    program: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let beside = || std::env::current_exe().ok().map(|me| me.with_file_name("amends")).unwrap_or_default();
    let citus = match arguments.citus.as_deref().map(Citus::at).transpose() {
        Ok(citus) => citus,
        Err(error) => {
            eprintln!("campaign: --citus: {error}");
            return ExitCode::from(2);
        }
    };
    let kinds = faults::possible(citus.is_some()).len();
    let faults = arguments.faults.unwrap_or((arguments.orders / 300).max(kinds));
    let leisurely = arguments.orders as f64 / (faults.max(1) as f64 * 5.0);
    let campaign = Campaign {
        program: arguments.program.unwrap_or_else(beside),
        orders: arguments.orders,
        rate: arguments.rate.unwrap_or(leisurely.clamp(1.0, 100.0)),
        faults,
        seed: arguments.seed,
        only: arguments.only,
        logs: arguments.logs,
        citus,
    };
    match campaign::run(&campaign).await {
        Ok(outcome) => {
            println!("{outcome}");
            let enough = outcome.injected() >= arguments.least;
            if !enough {
                eprintln!(
                    "campaign: {} faults; at least {} were asked for",
                    outcome.injected(),
                    arguments.least
                );
            }
            if enough && outcome.violations() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("campaign: {error}");
            ExitCode::from(2)
        }
    }
}
