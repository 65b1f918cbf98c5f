//! The outcome of a campaign, in tables.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{
    CampaignOutcome,
    faults::{self, Kind},
    nemesis::Fault,
};

/// Returns the value below which this share of the sorted values lies.
pub fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let at = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied().unwrap_or_default()
}

/// Returns the recovery times by kind: count, median, 99th percentile, maximum.
pub fn recovery(faults: &[Fault]) -> String {
    let mut by_kind: BTreeMap<Kind, Vec<&Fault>> = BTreeMap::new();
    for fault in faults {
        by_kind.entry(fault.kind).or_default().push(fault);
    }
    let mut table =
        String::from("| fault | times | p50 s | p99 s | worst s |\n| --- | --: | --: | --: | --: |\n");
    for (kind, of) in &by_kind {
        table.push_str(&line(kind.name(), of.iter().copied()));
    }
    table.push_str(&line("all", faults.iter()));
    for kind in faults::ALL.iter().filter(|kind| !by_kind.contains_key(kind)) {
        table.push_str(&format!("| {} | *not run* | | | |\n", kind.name()));
    }
    for (name, why) in faults::NOT_RUN {
        table.push_str(&format!("| {name} | *not run*: {why} | | | |\n"));
    }
    table
}

fn line<'a>(name: &str, of: impl Iterator<Item = &'a Fault> + Clone) -> String {
    let run = of.clone().filter(|f| f.not_run.is_none()).count();
    let mut times: Vec<Duration> =
        of.clone().filter_map(|f| f.recovery.filter(|_| f.not_run.is_none())).collect();
    times.sort_unstable();
    let lost = of.filter(|f| f.not_run.is_none() && f.recovery.is_none()).count();
    let seconds = |share| format!("{:.2}", percentile(&times, share).as_secs_f64());
    let worst = if lost > 0 { format!("{lost} never") } else { seconds(1.0) };
    if run == 0 {
        return format!("| {name} | *not run* | | | |\n");
    }
    format!("| {name} | {run} | {} | {} | {worst} |\n", seconds(0.5), seconds(0.99))
}

impl fmt::Display for CampaignOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nTime until an order placed at the fault's end was fulfilled:\n\n{}",
            recovery(&self.faults)
        )?;
        writeln!(f, "How orders ended: {}", listed(&self.statuses))?;
        writeln!(f, "Clients: {}", self.clients)?;
        writeln!(
            f,
            "Parked, by reason: {}; done about it: {}",
            listed(&self.operator.parked),
            listed(&self.operator.done)
        )?;
        writeln!(f, "Dead letters: {} of {} poison messages\n", self.dead_letters, self.poison)?;
        writeln!(f, "{}", self.report)?;
        for odd in &self.odd {
            writeln!(f, "odd: {odd}")?;
        }
        let worst = self.faults.iter().filter_map(|fault| fault.recovery).max().unwrap_or_default();
        write!(
            f,
            "campaign: {} orders, {} faults, {} violations, worst recovery {:.1} s, at rest after {:.1} s, {:.0} s, seed {}",
            self.orders,
            self.injected(),
            self.violations(),
            worst.as_secs_f64(),
            self.settled.as_secs_f64(),
            self.took.as_secs_f64(),
            self.seed
        )
    }
}

/// Returns counts in words.
pub(crate) fn listed<N: fmt::Display>(counts: &BTreeMap<String, N>) -> String {
    let each: Vec<_> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    if each.is_empty() { "none".into() } else { each.join(", ") }
}
