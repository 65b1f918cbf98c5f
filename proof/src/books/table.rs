//! The report, for programs and for people.

use std::fmt;

/// RELIABILITY's invariants that databases can show, by number. 16 and 17 are not visible in them; 18 and 19 are our own.
pub const INVARIANTS: [(i32, &str); 17] = [
    (1, "stock adds up, none is negative"),
    (2, "money adds up, and the engine's ledger is the gateway's"),
    (3, "one outcome a saga, and it never changes"),
    (4, "no orphan reservation, charge or label"),
    (5, "fulfilled: one of each effect; undone: nothing left"),
    (6, "one effect a saga, step, part and generation"),
    (7, "every acknowledged order is there; a key is one order"),
    (8, "timelines have no gap and replay to the row"),
    (9, "workers' rows and timelines match"),
    (10, "no timer fires early, by the database's clock"),
    (11, "compensations in reverse, of what was sent"),
    (12, "every late success is undone"),
    (13, "nothing unfinished but what is parked with a reason"),
    (14, "dead letters = poison injected"),
    (15, "every operator action is in the timeline once"),
    (18, "no event of which customers are told is skipped or recorded twice"),
    (19, "every domain event is published, an order's without gaps"),
];

/// The result of one invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number in [`INVARIANTS`].
    pub number: i32,
    /// Number of things checked; `None` if the data for it is missing.
    pub looked_at: Option<i64>,
    /// Number of violations.
    pub violations: i64,
    /// Some violations, in words.
    pub examples: Vec<String>,
}

impl From<(i32, Option<i64>, i64, Vec<String>)> for Line {
    fn from((number, looked_at, violations, examples): (i32, Option<i64>, i64, Vec<String>)) -> Self {
        Self { number, looked_at, violations, examples }
    }
}

/// The report, one line per invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// By number.
    pub lines: Vec<Line>,
}

impl Report {
    /// Returns the total number of violations.
    pub fn violations(&self) -> i64 {
        self.lines.iter().map(|line| line.violations).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| # | invariant | looked at | violations |")?;
        writeln!(f, "| --: | --- | --: | --: |")?;
        for line in &self.lines {
            let name =
                INVARIANTS.iter().find(|(number, _)| *number == line.number).map_or("", |(_, name)| name);
            let looked_at = line.looked_at.map_or("not checked".to_owned(), |n| n.to_string());
            writeln!(f, "| {} | {name} | {looked_at} | {} |", line.number, line.violations)?;
        }
        for line in self.lines.iter().filter(|line| line.violations > 0) {
            writeln!(f, "\n{}:", line.number)?;
            for example in &line.examples {
                writeln!(f, "  {example}")?;
            }
        }
        Ok(())
    }
}
