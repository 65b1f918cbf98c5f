//! `amends-sim`: runs seeds.

use std::{
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use amends_sim::{
    coverage::Coverage,
    executor::SECOND,
    exhaustive,
    run::{ENDS_AT, Options, run},
    shrink::describe,
};
use clap::Parser;

/// Runs seeds of the simulator, and reports violations.
#[derive(Parser)]
struct Args {
    /// Number of seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Replays this one seed, with its trace.
    #[arg(long)]
    seed: Option<u64>,
    /// Explores every interleaving of small systems instead.
    #[arg(long)]
    exhaustive: bool,
    /// Shrinks this one seed.
    #[arg(long)]
    shrink: Option<u64>,
    /// Stops at the first seed with a violation, and does not shrink it.
    #[arg(long)]
    until_broken: bool,
    /// Number of threads; by default one per core.
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(seed) = args.seed {
        let report = run(seed, &Options { trace: true, ..Options::default() });
        print!("{}", report.trace);
        report.violations.iter().for_each(|v| println!("VIOLATION {v}"));
        println!("simulate: seed {seed}, {} violations", report.violations.len());
        return ExitCode::from(u8::from(!report.violations.is_empty()));
    }
    if args.exhaustive {
        let spaces = exhaustive::all();
        let mut broken = false;
        for (name, explore) in spaces {
            let began = Instant::now();
            let found = explore();
            println!("{} ({:.1} s)", found.report(name), began.elapsed().as_secs_f64());
            broken |= found.broken.is_some();
        }
        return ExitCode::from(u8::from(broken));
    }
    if let Some(seed) = args.shrink {
        print!("{}", describe(seed));
        return ExitCode::SUCCESS;
    }
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let (next, began) = (AtomicU64::new(0), Instant::now());
    let total = Mutex::new((Coverage::default(), Vec::new(), 0_usize));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Relaxed);
                    if n >= args.seeds {
                        break;
                    }
                    let report = run(args.first + n, &Options::default());
                    let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    total.0.add(report.coverage);
                    total.2 += report.orders;
                    if !report.violations.is_empty() {
                        for violation in &report.violations {
                            println!("seed {}: {violation}", report.seed);
                        }
                        total.1.push(report.seed);
                        if args.until_broken {
                            next.store(args.seeds, Relaxed);
                        }
                    }
                }
            });
        }
    });
    let (coverage, mut failed, orders) =
        total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    failed.sort_unstable();
    let took = began.elapsed().as_secs_f64();
    if let Some(seed) = failed.first().filter(|_| !args.until_broken) {
        println!("the least of the first:\n{}", describe(*seed));
    }
    println!("{}", coverage.report());
    let hours = args.seeds as f64 * (ENDS_AT / SECOND) as f64 / 3600.0;
    println!(
        "simulate: {} seeds, {} violations, {orders} orders, {hours:.0} simulated hours in {took:.1} s, {:.0} hours a second",
        args.seeds,
        failed.len(),
        hours / took
    );
    ExitCode::from(u8::from(!failed.is_empty()))
}
