//! What a run has shown, in tables.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{
    RunOutcome,
    cuts::CutOutcome,
    growth::Growth,
    plan::{DIRECTIONS, Direction, Link},
};
use crate::campaign::summary::listed;

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}; a third joins, after {:.1} s {}; done meanwhile: {}; it leaves, after {:.1} s {}",
            self.role,
            self.two,
            self.three.1.as_secs_f64(),
            self.three.0,
            listed(&self.work),
            self.again.1.as_secs_f64(),
            self.again.0
        )?;
        violated(f, &self.broken)
    }
}

impl fmt::Display for CutOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} from {}, {}, for {:.1} s: {} of {} orders fulfilled meanwhile",
            self.cut.client_place(),
            self.cut.link.server_place(),
            self.cut.direction,
            self.cut.length.as_secs_f64(),
            self.fulfilled,
            self.placed
        )?;
        if let Some(moved) = self.moved {
            write!(f, "; others had its share after {:.1} s", moved.as_secs_f64())?;
        }
        if let Some(caught_up) = self.caught_up {
            write!(f, "; all of them {:.1} s after it", caught_up.as_secs_f64())?;
        }
        if !self.ended.is_empty() {
            write!(f, "; had ended: {}", self.ended.join(", "))?;
        }
        violated(f, &self.broken)
    }
}

fn violated(f: &mut fmt::Formatter<'_>, broken: &[String]) -> fmt::Result {
    if broken.is_empty() { Ok(()) } else { write!(f, "; VIOLATED: {}", broken.join("; ")) }
}

impl fmt::Display for RunOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nWho owns which partitions as a third process joins and leaves:\n\n{}",
            growth(&self.growth)
        )?;
        writeln!(
            f,
            "Seconds that each pair was cut, by what was lost, and what went on:\n\n{}",
            pairs(&self.cuts)
        )?;
        for (link, direction) in &self.never_cut {
            writeln!(f, "never cut: {link}, {direction}")?;
        }
        writeln!(f, "How sagas ended: {}", listed(&self.statuses))?;
        writeln!(f, "Clients: {}", self.clients)?;
        let (parked, done) = (listed(&self.operator.parked), listed(&self.operator.done));
        writeln!(f, "Parked, by reason: {parked}; done about it: {done}\n")?;
        writeln!(f, "{}", self.report)?;
        for odd in &self.odd {
            writeln!(f, "odd: {odd}")?;
        }
        for broken in self.growth.iter().filter(|role| !role.broken.is_empty()) {
            writeln!(f, "{broken}")?;
        }
        for broken in self.cuts.iter().filter(|cut| !cut.broken.is_empty()) {
            writeln!(f, "{broken}")?;
        }
        let met = self.cuts.iter().map(|cut| cut.cut.link).collect::<std::collections::BTreeSet<_>>().len();
        write!(
            f,
            "network: {} orders, {} cuts of {met} pairs, {} violations, at rest after {:.1} s, {:.0} s, seed {}",
            self.orders,
            self.cuts.len(),
            self.violations(),
            self.settled.as_secs_f64(),
            self.took.as_secs_f64(),
            self.seed
        )
    }
}

fn growth(roles: &[Growth]) -> String {
    let mut table = String::from(
        "| two | three | after s | done by each in 10 s | two again | after s |\n| --- | --- | --: | --- | --- | --: |\n",
    );
    for role in roles {
        let done: Vec<_> = role.work.values().map(u64::to_string).collect();
        table.push_str(&format!(
            "| {} | {} | {:.1} | {} | {} | {:.1} |\n",
            role.two,
            role.three.0,
            role.three.1.as_secs_f64(),
            done.join(", "),
            role.again.0,
            role.again.1.as_secs_f64()
        ));
    }
    table
}

/// Each pair with the lengths of its cuts by direction, how many of the orders placed meanwhile were fulfilled before the
/// end, the longest that it took others to own the client's share, and the longest until all of the orders were fulfilled.
fn pairs(cuts: &[CutOutcome]) -> String {
    let mut by_link: BTreeMap<Link, Vec<&CutOutcome>> = BTreeMap::new();
    for cut in cuts {
        by_link.entry(cut.cut.link).or_default().push(cut);
    }
    let mut table = String::from(
        "| pair | both ways | to the server | to the client | orders fulfilled meanwhile | others had the share after s | all orders s after it |\n\
         | --- | --: | --: | --: | --: | --: | --: |\n",
    );
    for (link, of) in by_link {
        let lengths = DIRECTIONS.map(|direction| lengths(&of, direction)).join(" | ");
        let (placed, fulfilled) = (sum(&of, |cut| cut.placed), sum(&of, |cut| cut.fulfilled));
        let longest = |each: fn(&CutOutcome) -> Option<Duration>| {
            let most = of.iter().filter_map(|cut| each(cut)).max();
            most.map_or("–".to_owned(), |most| format!("{:.1}", most.as_secs_f64()))
        };
        let (moved, caught_up) = (longest(|cut| cut.moved), longest(|cut| cut.caught_up));
        table
            .push_str(&format!("| {link} | {lengths} | {fulfilled} of {placed} | {moved} | {caught_up} |\n"));
    }
    table
}

fn lengths(of: &[&CutOutcome], direction: Direction) -> String {
    let cuts = of.iter().filter(|cut| cut.cut.direction == direction);
    let seconds: Vec<_> = cuts.map(|cut| format!("{:.1}", cut.cut.length.as_secs_f64())).collect();
    if seconds.is_empty() { "*none*".into() } else { seconds.join(", ") }
}

fn sum(of: &[&CutOutcome], each: fn(&CutOutcome) -> usize) -> usize {
    of.iter().map(|cut| each(cut)).sum()
}
