//! A run: yardsticks, groups of rows, report.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use amends_proof::deployment::Deployment;
use anyhow::{Context, Result, anyhow};

use crate::{
    args::{Bench, Mix},
    load::pace::Pace,
    machine::Machine,
    plan::{self, Group},
    report::{Report, ReportRow, plots, say, table},
    row,
    stage::{self, Settings, Stage},
    takeover, yardstick,
};

/// Runs what the command line asks for; fails if any row's books do not balance.
pub async fn run(mut args: Bench) -> Result<ExitCode> {
    if args.quick {
        args.warm_up = args.warm_up.min(4);
    }
    let begun = Instant::now();
    let groups = plan::groups(&args)?;
    let mut report = begin(&args);
    if !args.no_yardsticks {
        say("yardsticks: plain SQL, and an order's rows by the engine's own SQL");
        let deployment = stage::servers(&args, Mix::Fulfilled).await?;
        let yardsticks = yardstick::measure(&deployment).await?;
        report.machine.postgres = version(&deployment).await?;
        say(&format!(
            "  reference {} sagas/s, ceiling {} sagas/s",
            table::thousands(yardsticks.reference_per_s),
            table::thousands(yardsticks.ceiling_per_s)
        ));
        report.reference_per_s = Some(yardsticks.reference_per_s);
        report.ceiling_per_s = Some(yardsticks.ceiling_per_s);
    }
    if args.takeover {
        report.takeovers = takeover::measure(&args).await?;
    }
    for group in &groups {
        measure(&args, group, &mut report).await?;
    }
    println!("{}", table::render(&report));
    let kept = keep(&report)?;
    let drawn = plots::write(&report.rows, &directory()?).map_err(|error| anyhow!("plots: {error}"))?;
    if drawn {
        say(&format!("{0}/throughput.svg, {0}/latency.svg", directory()?.display()));
    }
    say(&format!("{} after {} s", kept.display(), begun.elapsed().as_secs()));
    let balanced = report.rows.iter().all(|row| row.books_balanced);
    Ok(if balanced { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn begin(args: &Bench) -> Report {
    let settings = Settings::of(args, Mix::Fulfilled);
    Report {
        machine: Machine::here(&std::env::temp_dir()),
        begun_at: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        postgres_settings: settings.postgres.into_iter().collect(),
        kafka_settings: settings.kafka.into_iter().collect(),
        kafka_jvm: settings.jvm,
        reference_per_s: None,
        ceiling_per_s: None,
        rows: Vec::new(),
        takeovers: Vec::new(),
    }
}

/// Rows of one mode and mix, on servers of their own.
async fn measure(args: &Bench, group: &Group, report: &mut Report) -> Result<()> {
    say(&format!("{} {}: starting servers and roles", table::word(&group.mode), table::word(&group.mix)));
    let deployment = stage::servers(args, group.mix).await?;
    report.machine.postgres = version(&deployment).await?;
    let mut stage = Stage::set(deployment, args, group.mode, group.mix).await?;
    row::warm_up(&stage, args).await.context("before the first row")?;
    let mut most = 0.0_f64;
    for asked in &group.loops {
        let pace = asked.pace(most);
        let mut rows = Vec::new();
        for _ in 0..args.times.max(1) {
            let row = row::measure(&mut stage, args, pace).await?;
            say(&summary(&row));
            rows.push(row);
        }
        let row = median(rows);
        if let Pace::Closed(_) = pace {
            most = most.max(rate(&row));
        }
        report.rows.push(row);
        // What has been measured is kept, whatever happens later.
        keep(report)?;
    }
    stage.clear().await;
    Ok(())
}

async fn version(deployment: &Deployment) -> Result<String> {
    let version = sqlx::query_scalar("SELECT current_setting('server_version')");
    Ok(version.fetch_one(&deployment.pool("engine")).await?)
}

fn summary(row: &ReportRow) -> String {
    let Some(figures) = &row.figures else {
        return format!("  {}: THE BOOKS DO NOT BALANCE: {}", row.title(), row.books.violations.join("; "));
    };
    let rate = table::thousands(figures.sagas_per_s);
    let latency = figures.latency.map(|l| format!("p50 {:.1} ms, p99 {:.1} ms", l.p50_ms, l.p99_ms));
    format!("  {}: {rate} sagas/s, {}, books balanced", row.title(), latency.unwrap_or_default())
}

fn rate(row: &ReportRow) -> f64 {
    row.figures.as_ref().map_or(0.0, |figures| figures.sagas_per_s)
}

/// The median by sagas a second; a row whose books do not balance comes first.
fn median(mut rows: Vec<ReportRow>) -> ReportRow {
    rows.sort_by(|a, b| a.books_balanced.cmp(&b.books_balanced).then(rate(a).total_cmp(&rate(b))));
    let all: Vec<f64> = rows.iter().map(rate).collect();
    let unbalanced = rows.iter().position(|row| !row.books_balanced);
    let mut row = rows.swap_remove(unbalanced.unwrap_or((rows.len() - 1) / 2));
    if let Some(figures) = row.figures.as_mut().filter(|_| all.len() > 1) {
        figures.all_sagas_per_s = all;
    }
    row
}

/// Writes the report; returns its path.
fn keep(report: &Report) -> Result<PathBuf> {
    let directory = directory()?;
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    let path = directory.join("latest.json");
    fs::write(&path, serde_json::to_vec_pretty(report)?)
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// `target/bench`, beside the profile that this program is in.
fn directory() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(program.parent().and_then(Path::parent).context("where is the target directory?")?.join("bench"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{args::Mode, report::tests::row};

    #[test]
    fn the_median_is_shown_unless_one_does_not_balance() {
        let of = |rate: f64| {
            let mut row = row(Mode::Orders, 1);
            row.figures.as_mut().unwrap().sagas_per_s = rate;
            row
        };
        let shown = median(vec![of(300.0), of(100.0), of(200.0)]).figures.unwrap();
        assert_eq!((shown.sagas_per_s, shown.all_sagas_per_s), (200.0, vec![100.0, 200.0, 300.0]));
        let mut bad = of(400.0);
        (bad.books_balanced, bad.figures) = (false, None);
        assert!(!median(vec![of(300.0), bad, of(200.0)]).books_balanced);
    }
}
