//! `amends-network`: every process in a network namespace of its own, cuts between any two, and then the books. Ends with
//! status 1 if something is violated, and with 2 if it cannot be done here.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use amends_proof::network::{self, Run};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Runs every process in a network namespace of its own, cuts any two off from each other, and then checks the books.
#[derive(Debug, Parser)]
struct Arguments {
    /// Least number of orders; they are placed as long as there are cuts.
    #[arg(long, default_value_t = 2000)]
    orders: usize,
    /// Orders per second.
    #[arg(long, default_value_t = 4.0)]
    rate: f64,
    /// Seconds that the longest cuts may last.
    #[arg(long, default_value_t = 60.0)]
    longest: f64,
    /// Only pairs whose name contains this are cut (`engine–postgres`).
    #[arg(long, default_value = "")]
    only: String,
    /// Seed of all random choices.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Directory for the processes' logs if something is violated.
    #[arg(long, default_value = "target/network")]
    logs: PathBuf,
    /// The program `amends`; by default the one beside this one.
    #[arg(long)]
    program: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let beside = || std::env::current_exe().ok().map(|me| me.with_file_name("amends")).unwrap_or_default();
    let Ok(longest) = Duration::try_from_secs_f64(arguments.longest) else {
        eprintln!("network: --longest: no time");
        return ExitCode::from(2);
    };
    let run = Run {
        program: arguments.program.unwrap_or_else(beside),
        orders: arguments.orders,
        rate: arguments.rate.max(0.1),
        longest,
        only: arguments.only,
        seed: arguments.seed,
        logs: arguments.logs,
    };
    // Dropped at a signal, a run ends its processes and removes its namespaces.
    let outcome = tokio::select! {
        outcome = network::run(&run) => outcome,
        () = told_to_end() => {
            eprintln!("network: told to end; nothing was checked");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(outcome) => {
            println!("{outcome}");
            if outcome.violations() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("network: {error}");
            ExitCode::from(2)
        }
    }
}

/// Waits for Ctrl-C, or for SIGTERM.
async fn told_to_end() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
