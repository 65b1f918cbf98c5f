//! `amends-campaign`: orders, faults, and then the books. Ends with 1 if they do not balance.

use std::{path::PathBuf, process::ExitCode};

use amends_proof::campaign::{self, Campaign};
use clap::Parser;

/// Places orders while everything fails, and then counts the books.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many orders.
    #[arg(long, default_value_t = 2000)]
    orders: usize,
    /// How many orders a second.
    #[arg(long, default_value_t = 60.0)]
    rate: f64,
    /// How many faults; by default one for every 300 orders, and at least 21: each kind once.
    #[arg(long)]
    faults: Option<usize>,
    /// Of everything that is drawn.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only faults whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Where the processes' logs go if the books do not balance.
    #[arg(long, default_value = "target/campaign")]
    logs: PathBuf,
    /// The program `amends`; by default the one beside this one.
    #[arg(long)]
    program: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let beside = || std::env::current_exe().ok().map(|me| me.with_file_name("amends")).unwrap_or_default();
    let campaign = Campaign {
        program: arguments.program.unwrap_or_else(beside),
        orders: arguments.orders,
        rate: arguments.rate,
        faults: arguments.faults.unwrap_or((arguments.orders / 300).max(21)),
        seed: arguments.seed,
        only: arguments.only,
        logs: arguments.logs,
    };
    match campaign::run(&campaign).await {
        Ok(outcome) => {
            println!("{outcome}");
            if outcome.violations() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("campaign: {error}");
            ExitCode::from(2)
        }
    }
}
