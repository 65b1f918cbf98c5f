//! Which rows there will be.

use anyhow::{Context, Result, bail};

use crate::{
    args::{Bench, Mix, Mode},
    load::pace::Pace,
};

/// Default number of sagas in flight.
const LEVELS: [usize; 5] = [1, 32, 128, 512, 2_048];

/// Rows that share servers and roles, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub mode: Mode,
    pub mix: Mix,
    pub loops: Vec<Asked>,
}

/// A pace that may depend on a rate that has yet to be measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Asked {
    Closed(usize),
    /// Arrivals a second.
    Rate(f64),
    /// A share of the highest rate of the group's closed loops.
    Share(f64),
}

impl Asked {
    /// The pace, once the highest rate is known.
    pub fn pace(self, most: f64) -> Pace {
        match self {
            Asked::Closed(places) => Pace::Closed(places),
            Asked::Rate(rate) => Pace::Open(rate),
            Asked::Share(share) => Pace::Open((most * share).max(1.0)),
        }
    }
}

/// The groups that the command line asks for.
pub fn groups(args: &Bench) -> Result<Vec<Group>> {
    let groups = asked(args)?;
    let history = args.parked + args.armed + args.ended > 0;
    if history && groups.iter().any(|group| group.loops.len() * args.times.max(1) > 1) {
        bail!(
            "--parked, --armed and --ended are gone once a row's books are checked: one row a mode and mix"
        );
    }
    Ok(groups)
}

fn asked(args: &Bench) -> Result<Vec<Group>> {
    if args.yardsticks || args.takeover {
        return Ok(Vec::new());
    }
    let group = |mode, mix, loops: &[usize]| Group {
        mode,
        mix,
        loops: loops.iter().copied().map(Asked::Closed).collect(),
    };
    if args.quick {
        let fulfilled = |mode, loops| group(mode, Mix::Fulfilled, loops);
        return Ok(vec![
            fulfilled(Mode::Engine, &[512]),
            fulfilled(Mode::Workers, &[512]),
            fulfilled(Mode::Orders, &[512, 1]),
        ]);
    }
    let rates = args.rate.iter().map(|rate| self::rate(rate)).collect::<Result<Vec<_>>>()?;
    let chosen =
        !args.modes.is_empty() || !args.mix.is_empty() || !args.in_flight.is_empty() || !rates.is_empty();
    if !chosen {
        return Ok(everything());
    }
    let modes = if args.modes.is_empty() { vec![Mode::Orders] } else { args.modes.clone() };
    let mixes = if args.mix.is_empty() { vec![Mix::Fulfilled] } else { args.mix.clone() };
    let levels = match (args.in_flight.is_empty(), rates.is_empty()) {
        (false, _) => args.in_flight.clone(),
        (true, true) => LEVELS.to_vec(),
        // A share needs a closed loop whose rate it is a share of.
        (true, false) if rates.iter().any(|rate| matches!(rate, Asked::Share(_))) => vec![512],
        (true, false) => Vec::new(),
    };
    if levels.contains(&0) {
        bail!("--in-flight: at least 1");
    }
    let mut groups = Vec::new();
    for mode in modes {
        for mix in mixes.iter().copied().filter(|mix| mode != Mode::Engine || *mix == Mix::Fulfilled) {
            let mut group = group(mode, mix, &levels);
            group.loops.extend(&rates);
            groups.push(group);
        }
    }
    Ok(groups)
}

/// All modes at all levels; the mixes and the open loop where customers are.
fn everything() -> Vec<Group> {
    let closed = LEVELS.map(Asked::Closed);
    let all = [Mode::Engine, Mode::Workers, Mode::Orders, Mode::Everything];
    let mut groups: Vec<Group> =
        all.map(|mode| Group { mode, mix: Mix::Fulfilled, loops: closed.to_vec() }).to_vec();
    groups[2].loops.extend([Asked::Share(0.5), Asked::Share(0.8)]);
    groups.push(Group {
        mode: Mode::Shop,
        mix: Mix::Fulfilled,
        loops: vec![Asked::Closed(32), Asked::Closed(512)],
    });
    for mix in [Mix::Undone10, Mix::Timeouts1] {
        groups.push(Group { mode: Mode::Orders, mix, loops: vec![Asked::Closed(128), Asked::Closed(512)] });
    }
    groups
}

fn rate(text: &str) -> Result<Asked> {
    let number = |text: &str| text.parse::<f64>().with_context(|| format!("--rate {text}"));
    let asked = match text.strip_suffix('%') {
        Some(percent) => Asked::Share(number(percent)? / 100.0),
        None => Asked::Rate(number(text)?),
    };
    match asked {
        Asked::Share(n) | Asked::Rate(n) if n <= 0.0 => bail!("--rate {text}: more than nothing"),
        asked => Ok(asked),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    fn plan(args: &[&str]) -> Vec<Group> {
        groups(&Cli::parse_from([&["amends-bench"], args].concat()).bench).unwrap()
    }

    #[test]
    fn quick_has_what_a_change_is_judged_by() {
        let quick = plan(&["--quick"]);
        let rows: Vec<_> = quick.iter().flat_map(|g| g.loops.iter().map(move |l| (g.mode, *l))).collect();
        for mode in [Mode::Engine, Mode::Workers, Mode::Orders] {
            assert!(rows.contains(&(mode, Asked::Closed(512))));
        }
        assert!(rows.contains(&(Mode::Orders, Asked::Closed(1))));
    }

    #[test]
    fn what_is_there_before_is_there_for_one_row() {
        let refused = |args: &[&str]| {
            let args = [&["amends-bench", "--modes", "orders", "--parked", "9"], args].concat();
            groups(&Cli::parse_from(args).bench).is_err()
        };
        assert!(!refused(&["--in-flight", "512"]));
        assert!(refused(&["--in-flight", "32,512"]));
        assert!(refused(&["--in-flight", "512", "--times", "3"]));
    }

    #[test]
    fn a_share_has_something_to_be_a_share_of() {
        let open = plan(&["--modes", "orders", "--rate", "50%,80%"]);
        assert_eq!(open[0].loops, [Asked::Closed(512), Asked::Share(0.5), Asked::Share(0.8)]);
        assert_eq!(plan(&["--rate", "100"])[0].loops, [Asked::Rate(100.0)]);
        assert_eq!(Asked::Share(0.5).pace(9_000.0), Pace::Open(4_500.0));
    }

    #[test]
    fn nothing_said_is_everything() {
        assert_eq!(plan(&[]).iter().map(|g| g.loops.len()).sum::<usize>(), 4 * 5 + 2 + 2 + 2 * 2);
        assert!(plan(&["--yardsticks"]).is_empty());
    }
}
