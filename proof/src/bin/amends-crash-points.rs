//! `amends-crash-points`: kills processes at named points, and then checks the books. Ends with status 1 if anything
//! was lost or done twice, or if a point was not reached.

use std::{path::PathBuf, process::ExitCode};

use amends_proof::crash_points::{self, POINTS};
use clap::Parser;
use futures::{StreamExt, stream};

/// Kills a process before and after each call of each port, in each kind of situation.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only this role: engine, inventory, payment, shipment, notification, api.
    #[arg(long)]
    role: Option<String>,
    /// Number of roles tested at the same time, each with its own servers: most of the time is spent waiting.
    #[arg(long, default_value_t = 3)]
    jobs: usize,
    /// The program `amends` with the feature `failpoints`; by default `amends-failpoints` beside this one.
    #[arg(long)]
    program: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let beside =
        || std::env::current_exe().ok().map(|me| me.with_file_name("amends-failpoints")).unwrap_or_default();
    let program = arguments.program.unwrap_or_else(beside);
    let wanted = |role: &&[&str]| arguments.role.as_deref().is_none_or(|name| role[role.len() - 1] == name);
    let roles = POINTS.iter().map(|(role, _)| *role).filter(wanted);
    let runs = stream::iter(roles).map(|role| crash_points::run(&program, role)).buffered(arguments.jobs);
    let outcomes: Vec<_> = runs.collect().await;
    let (mut points, mut crashes, mut violations, mut failed) = (0, 0, 0, false);
    println!("\nTime from the death until the order had ended as it should (–: the point is not reached):\n");
    println!("{}", crash_points::heads());
    for outcome in outcomes.iter().flatten() {
        print!("{outcome}");
    }
    for outcome in &outcomes {
        match outcome {
            Ok(outcome) => {
                println!("\nThe books after {}:\n\n{}", outcome.role, outcome.report);
                outcome.odd.iter().for_each(|odd| println!("odd: {odd}"));
                for point in outcome.unreached() {
                    println!("{}: no situation has reached {point}", outcome.role);
                }
                points += outcome.reached();
                crashes += outcome.crashes();
                violations += outcome.violations();
            }
            Err(error) => {
                eprintln!("crash-points: {error}");
                failed = true;
            }
        }
    }
    println!("crash-points: {points} points, {crashes} crashes, {violations} violations");
    match (failed, violations) {
        (true, _) => ExitCode::from(2),
        (false, 0) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
