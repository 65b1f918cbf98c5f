//! `amends-guard`: what an order costs in numbers that repeat, against `bench/guard/baseline.json`.
//!
//! * instructions of the core's decisions and of the codecs, by valgrind's callgrind ([`work`]);
//! * WAL bytes and commits of the engine's database, by a fixed small run ([`rows`]), and WAL bytes of the workers'
//!   ([`workers`]);
//! * what these runs write in the logs at the default level ([`lines`]).
//!
//! It fails when one has grown by more than 5 %. Where that is on purpose, `make guard ARGS=--write` writes the new
//! baseline, to be committed with the change.

mod instructions;
mod lines;
mod rows;
mod wal;
mod work;
mod workers;

use std::{collections::BTreeMap, fs, path::Path, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// Counts what an order costs, and compares it with the committed baseline.
#[derive(Debug, Parser)]
#[command(name = "amends-guard", version, args_conflicts_with_subcommands = true)]
struct Cli {
    /// Writes what was counted as the new baseline.
    #[arg(long)]
    write: bool,
    #[command(subcommand)]
    inner: Option<Inner>,
}

#[derive(Debug, Subcommand)]
enum Inner {
    /// Does a piece of work so many times, for valgrind to count.
    #[command(hide = true)]
    Work { name: String, times: u32 },
}

/// Growth beyond this fails.
const TOLERANCE: f64 = 0.05;

/// The counts, by name.
type Counts = BTreeMap<String, u64>;

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    if let Some(Inner::Work { name, times }) = cli.inner {
        work::run(&name, times)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut counts = instructions::count()?;
    counts.extend(tokio::runtime::Runtime::new()?.block_on(written())?);
    let baseline = Path::new(env!("CARGO_MANIFEST_DIR")).join("baseline.json");
    if cli.write {
        fs::write(&baseline, serde_json::to_string_pretty(&counts)? + "\n")?;
    }
    let committed = fs::read_to_string(&baseline).context("reading bench/guard/baseline.json")?;
    Ok(if compare(&serde_json::from_str(&committed)?, &counts) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What an order writes in the databases, and in the logs.
async fn written() -> Result<Counts> {
    let (meter, server) = (lines::LogMeter::start()?, wal::Server::start().await?);
    let mut counts = rows::count(&server).await?;
    counts.extend(workers::count(&server).await?);
    counts.extend(meter.counts());
    server.stop().await;
    Ok(counts)
}

/// Prints a line for each count; returns whether none has grown too much and each has a baseline.
fn compare(committed: &Counts, counts: &Counts) -> bool {
    let mut sound = true;
    for (name, &count) in counts {
        let verdict = match committed.get(name) {
            None => "has no baseline",
            Some(&was) if count as f64 > was as f64 * (1.0 + TOLERANCE) => "has grown",
            Some(&was) if (count as f64) < was as f64 * (1.0 - TOLERANCE) => "is less: a new baseline?",
            Some(_) => "as it was",
        };
        sound &= !matches!(verdict, "has no baseline" | "has grown");
        let was = committed.get(name).map_or_else(|| "-".to_owned(), u64::to_string);
        println!("{name:<40}{was:>12}{count:>12}  {verdict}");
    }
    println!("guard: {} counted, {}", counts.len(), if sound { "none has grown" } else { "some have grown" });
    sound
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(count: u64) -> Counts {
        Counts::from([("a".to_owned(), count)])
    }

    #[test]
    fn growth_beyond_the_tolerance_fails_and_so_does_what_was_never_counted() {
        assert!(compare(&counts(1000), &counts(1050)));
        assert!(!compare(&counts(1000), &counts(1051)));
        assert!(compare(&counts(1000), &counts(10)));
        assert!(!compare(&Counts::new(), &counts(1)));
    }

    #[test]
    fn the_documents_table_is_the_baseline() {
        let committed: Counts = serde_json::from_str(include_str!("../baseline.json")).unwrap();
        let document = include_str!("../../../docs/PERFORMANCE.md");
        let (_, section) = document.split_once("### What does not depend on the machine").unwrap();
        let (_, table) = section.split_once("| --- | --: |\n").unwrap();
        let shown = table.lines().take_while(|line| line.starts_with('|'));
        let number = |line: &str| line.split('|').nth(2).unwrap().trim().replace(',', "").parse().unwrap();
        let mut shown: Vec<u64> = shown.map(number).collect();
        // Nothing is logged, which the table leaves out.
        let mut counted: Vec<u64> = committed.into_values().filter(|count| *count > 0).collect();
        shown.sort_unstable();
        counted.sort_unstable();
        assert_eq!(shown, counted);
    }
}
