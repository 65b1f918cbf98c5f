//! `amends-bench`: starts real servers and the roles as processes, drives them, and prints one table.
//!
//! | module | is |
//! | --- | --- |
//! | [`args`] | the command line |
//! | [`plan`] | which rows there will be |
//! | [`stage`] | a deployment with the roles that a mode needs |
//! | [`load`] | what is ordered, at what pace, and how many are under way |
//! | [`seen`] | how the load learns that a saga has come to its end |
//! | [`meter`] | CPU, memory, WAL, commits, bytes: before and after |
//! | [`tokens`] | the key of the tokens that the load sends |
//! | [`history`] | what lies in the database before |
//! | [`books`] | whether every order has exactly the effects that it should have |
//! | [`yardstick`] | what this machine's Postgres does without us |
//! | [`profile`] | where each process spends its time |
//! | [`takeover`] | an engine is killed, and one stopped: when its sagas move again |
//! | [`row`] | one row: warm-up, window, drain, books |
//! | [`report`] | the table, the JSON, the plots |
//! | [`roles`] | processes of the benchmark's own: no-op workers, an engine of another workflow, a reader |

mod args;
mod books;
mod history;
mod load;
mod machine;
mod meter;
mod plan;
mod profile;
mod report;
mod roles;
mod row;
mod run;
mod seen;
mod stage;
mod takeover;
mod tokens;
mod yardstick;

use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("no threads to run on: {error}")),
    };
    let ran = runtime.block_on(async move {
        match cli.role {
            Some(args::Role::Role { which }) => roles::run(which).await,
            // Dropped, it takes its processes and their data with it.
            None => tokio::select! {
                ran = run::run(cli.bench) => ran,
                () = stopped() => Ok(ExitCode::from(130)),
            },
        }
    });
    match ran {
        Ok(code) => code,
        Err(error) => fail(&format!("{error:#}")),
    }
}

/// Told to stop, by Ctrl-C or otherwise.
async fn stopped() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => terminate.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated => {}
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("amends-bench: {why}");
    ExitCode::FAILURE
}
