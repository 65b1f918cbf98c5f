//! One row: warm-up, window, drain, books.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, stderr},
    time::Duration,
};

use anyhow::{Result, bail};

use crate::{
    args::Bench,
    books,
    history::{self, Lateness},
    load::{
        Running,
        ledger::{Recorded, Span},
        pace::Pace,
        shop::Shop,
    },
    meter::{
        Meter, Snapshot,
        latency::Latency,
        postgres::{Counters, Statement, Wal},
    },
    profile::Profile,
    report::{Figures, ReportRow, progress},
    seen,
    stage::{Settings, Stage},
};

/// How long the sagas under way may take to end once no new one starts.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long the roles run before the first row, so that the servers' code is compiled and their caches are filled.
const WARM_UP: Duration = Duration::from_secs(4);
/// Number of sagas in flight meanwhile.
const WARM_UP_IN_FLIGHT: usize = 256;
/// Number of statements shown for each database.
const STATEMENTS: i32 = 12;

/// Lets servers and roles run for a while.
pub async fn warm_up(stage: &Stage, args: &Bench) -> Result<()> {
    progress("before the first row");
    let shop = Shop::new(stage.mix, args.lines);
    let running = Running::start(&stage.entrance, shop, Pace::Closed(WARM_UP_IN_FLIGHT), &stage.ledger);
    tokio::time::sleep(WARM_UP).await;
    running.stop().await?;
    let left = stage.ledger.drained(PATIENCE).await;
    let Recorded { ended, failures, .. } = stage.ledger.take();
    if ended.is_empty() || left > 0 {
        bail!("nothing goes through: {left} of {} did not end; {failures:?}", ended.len() + left);
    }
    Ok(())
}

/// Of a longer window the WAL of its last minute stands for all: checkpoints remove what is older.
const WAL_SECONDS: u64 = 60;

/// Measures one row.
pub async fn measure(stage: &mut Stage, args: &Bench, pace: Pace) -> Result<ReportRow> {
    let meter = Meter::of(stage).await?;
    let shop = Shop::new(stage.mix, args.lines);
    let running = Running::start(&stage.entrance, shop, pace, &stage.ledger);
    progress("warming up");
    tokio::time::sleep(Duration::from_secs(args.warm_up)).await;
    if args.statements {
        meter.postgres.watch_statements().await?;
    }
    let timers = stage.timers().await;
    let profile = if args.profile { Some(Profile::begin(stage)?) } else { None };
    let from = meter.read().await?;
    let before = stage.ledger.ended();
    let mut sample = (from.postgres.clone(), before);
    for second in 1..=args.seconds {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let ended = stage.ledger.ended() - before;
        if args.seconds - second == WAL_SECONDS {
            sample = (meter.postgres.read().await?, before + ended);
        }
        if !stderr().is_terminal() && second % 5 != 0 {
            continue;
        }
        progress(&format!("{second} of {} s, {:.0} sagas/s", args.seconds, ended as f64 / second as f64));
    }
    let to = meter.read().await?;
    let (sampled_from, sampled_before) = sample;
    let whole =
        (stage.ledger.ended() - before) as f64 / (stage.ledger.ended() - sampled_before).max(1) as f64;
    let lateness = Lateness::between(&timers, &stage.timers().await);
    let profile = profile.map(Profile::end).transpose()?.unwrap_or_default();
    let memory_mb = meter.memory_mb();
    let statements = if args.statements { meter.postgres.statements(STATEMENTS).await? } else { Vec::new() };
    let engine = stage.deployment.pool("engine");
    let stored = match pace {
        Pace::Closed(1) => {
            seen::stored::latency(&engine, stage.mode, Duration::from_secs(args.seconds)).await?
        }
        _ => None,
    };
    running.stop().await?;
    progress("what is under way comes to its end");
    let left = stage.ledger.drained(PATIENCE).await;
    let recorded = stage.ledger.take();
    if let Some(fallen) = stage.fallen() {
        bail!(fallen);
    }
    // Before history is removed: that writes gigabytes, and what is kept of the WAL would not reach back so far.
    let wal = meter.postgres.wal(&sampled_from, &to.postgres).await?.times(whole);
    if args.parked + args.armed + args.ended > 0 {
        history::remove(&engine).await?;
    }
    progress("the books");
    let mut books = books::check(stage, PATIENCE).await?;
    if left > 0 {
        books.violations.push(format!("{left} were not seen to end within {} s", PATIENCE.as_secs()));
    }
    for (why, times) in &recorded.failures {
        books.violations.push(format!("{times} requests failed: {why}"));
    }
    let books_balanced = books.violations.is_empty();
    let measured = Measured { from, to, recorded, stored, memory_mb, statements, wal };
    Ok(ReportRow {
        mode: stage.mode,
        mix: stage.mix,
        r#loop: if let Pace::Closed(_) = pace { "closed" } else { "open" },
        in_flight: if let Pace::Closed(places) = pace { Some(places) } else { None },
        rate_per_s: if let Pace::Open(rate) = pace { Some(rate) } else { None },
        engines: args.engines,
        lines: args.lines,
        settings: Settings::of(args, stage.mix).roles,
        parked: args.parked,
        armed: args.armed,
        before_ended: args.ended,
        tokens: stage.wants_tokens(),
        pinned: args.pin,
        profile,
        timers: lateness,
        figures: books_balanced.then(|| measured.figures(pace)),
        books_balanced,
        books,
    })
}

/// The counts of a window, before they are divided by its sagas.
struct Measured {
    from: Snapshot,
    to: Snapshot,
    recorded: Recorded,
    stored: Option<Latency>,
    memory_mb: BTreeMap<&'static str, f64>,
    statements: Vec<Statement>,
    wal: Wal,
}

impl Measured {
    /// In a closed loop latency is of what ended in the window; in an open one of what should have begun in it, so
    /// that what waits for an overloaded server is not left out.
    fn latency(&self, spans: &[Span], pace: Pace) -> Option<Latency> {
        let inside = |span: &&Span| {
            let at = if let Pace::Closed(_) = pace { span.to } else { span.from };
            self.from.at <= at && at < self.to.at
        };
        Latency::of(spans.iter().filter(inside).map(Span::long))
    }

    /// Sagas a second in each sixth of the window: whether it gets slower. Of half an hour each is five minutes.
    fn sixths(&self) -> Vec<f64> {
        let sixth = self.to.at.duration_since(self.from.at) / 6;
        let in_sixth = |n: u32| {
            let from = self.from.at + sixth * n;
            self.recorded.ended.iter().filter(|span| from <= span.to && span.to < from + sixth).count()
        };
        (0..6).map(|n| in_sixth(n) as f64 / sixth.as_secs_f64()).collect()
    }

    fn figures(self, pace: Pace) -> Figures {
        let seconds = self.to.at.duration_since(self.from.at).as_secs_f64();
        let in_window = |span: &&Span| self.from.at <= span.to && span.to < self.to.at;
        let sagas = self.recorded.ended.iter().filter(in_window).count();
        let each = |total: f64| total / sagas.max(1) as f64;
        let grown = |group: &&'static str| self.to.cpu_ms[*group] - self.from.cpu_ms[*group];
        let cpu_ms: BTreeMap<&'static str, f64> =
            self.to.cpu_ms.keys().map(|group| (*group, each(grown(group)))).collect();
        let sixths_sagas_per_s = self.sixths();
        let transactions = |counters: &Counters| counters.transactions.values().sum::<i64>();
        Figures {
            seconds,
            sagas,
            sagas_per_s: sagas as f64 / seconds,
            latency: self.latency(&self.recorded.ended, pace),
            answer: self.latency(&self.recorded.answers, pace),
            read: self.latency(&self.recorded.reads, pace),
            stored: self.stored,
            cpu_ms_per_saga: cpu_ms.iter().filter(|(group, _)| **group != "load").map(|(_, ms)| ms).sum(),
            cpu_ms_per_saga_by_group: cpu_ms,
            cores_busy: self.to.cpu_ms.keys().map(grown).sum::<f64>() / seconds / 1_000.0,
            commits_per_saga: each(self.wal.commits as f64),
            transactions_per_saga: each(
                (transactions(&self.to.postgres) - transactions(&self.from.postgres)) as f64,
            ),
            wal_bytes_per_saga: each(self.wal.bytes as f64),
            wal: self.wal,
            kafka_bytes_per_saga: each(self.to.kafka_bytes.saturating_sub(self.from.kafka_bytes) as f64),
            memory_mb: self.memory_mb,
            statements: self.statements,
            sixths_sagas_per_s,
            all_sagas_per_s: Vec::new(),
        }
    }
}
