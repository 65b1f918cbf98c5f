//! Crash points: a process is killed before and after each call of each port, while an order goes forward, is
//! compensated, times out, is cancelled or has its row held; then the books are checked.

mod crew;
mod points;
mod scenario;

use std::{fmt, path::Path, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    books::{self, Report, Sources},
    deployment,
};
use crew::Crew;
pub use points::{MAY_BE_UNREACHED, POINTS};
pub use scenario::Scenario;

/// How long a deployment may take to come to rest.
const REST: Duration = Duration::from_secs(60);

/// Why the points could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Servers or processes did not start.
    #[error(transparent)]
    Deployment(#[from] deployment::Error),
    /// The books cannot be read.
    #[error(transparent)]
    Books(#[from] books::Error),
}

/// The result of one point in one scenario.
#[derive(Debug, Clone)]
pub struct Crash {
    /// Time from the death until the order had ended as expected; `None` if the point was not reached.
    pub recovered: Option<Duration>,
    /// What is wrong.
    pub wrong: Option<String>,
}

/// The results of a role's points.
#[derive(Debug)]
pub struct CrashPointsOutcome {
    /// Name of the role.
    pub role: &'static str,
    /// Each point, with its result in each scenario.
    pub points: Vec<(&'static str, Vec<Crash>)>,
    /// The books of its deployment.
    pub report: Report,
    /// Wrong answers to clients.
    pub odd: Vec<String>,
}

impl CrashPointsOutcome {
    /// Returns the number of points at which a process died in some scenario.
    pub fn reached(&self) -> usize {
        self.points.iter().filter(|(_, crashes)| crashes.iter().any(|c| c.recovered.is_some())).count()
    }

    /// Returns the number of deaths.
    pub fn crashes(&self) -> usize {
        self.points.iter().flat_map(|(_, crashes)| crashes).filter(|c| c.recovered.is_some()).count()
    }

    /// Returns the points that no scenario reached, though some should have.
    pub fn unreached(&self) -> Vec<&'static str> {
        let is_missed = |(point, crashes): &&(&'static str, Vec<Crash>)| {
            let may_be = MAY_BE_UNREACHED.iter().any(|(role, of, _)| *role == self.role && of == point);
            !may_be && crashes.iter().all(|crash| crash.recovered.is_none())
        };
        self.points.iter().filter(is_missed).map(|(point, _)| *point).collect()
    }

    /// Returns the number of violations: orders that ended otherwise, the books' violations, answers that no client
    /// should get, and points that were not reached.
    pub fn violations(&self) -> i64 {
        let wrong = self.points.iter().flat_map(|(_, crashes)| crashes).filter(|c| c.wrong.is_some()).count();
        self.report.violations() + (wrong + self.odd.len() + self.unreached().len()) as i64
    }
}

/// Runs the points of one role with its own deployment. `program` has the feature `failpoints`.
///
/// # Errors
/// [`Error`]: they could not be run.
pub async fn run(program: &Path, role: &[&str]) -> Result<CrashPointsOutcome, Error> {
    let found = POINTS.iter().find(|(of, _)| *of == role);
    let (role, points) = found.map_or(("", &[][..]), |(role, points)| (role[role.len() - 1], *points));
    let mut crew = Crew::start(program).await?;
    let mut each = Vec::new();
    for point in points.iter().copied() {
        let mut crashes = Vec::new();
        for (number, scenario) in scenario::ALL.into_iter().enumerate() {
            // A point that was not reached in the previous scenario is still armed.
            if number == 0 || crew.died.is_some() {
                crew.arm(role, point).await?;
            }
            let wrong = scenario.run(&mut crew, &format!("{role}-{point}-{number}")).await;
            let recovered = crew.died.map(|died| died.elapsed());
            if let Some(wrong) = &wrong {
                println!("{role} {point}, {}: {wrong}", scenario.name());
            }
            crashes.push(Crash { recovered, wrong });
        }
        println!("{}", line(role, point, &crashes));
        each.push((point, crashes));
    }
    crew.disarm().await?;
    rest(&crew).await;
    let report = books::report(&Sources::of(&crew.deployment), &crew.record.ledger()).await?;
    let outcome = CrashPointsOutcome { role, points: each, report, odd: crew.record.oddities() };
    crew.end().await;
    Ok(outcome)
}

/// Waits until nothing is in progress and all events are recorded. If that does not happen, the books show it.
async fn rest(crew: &Crew) {
    let (engine, notification) = (crew.deployment.pool("engine"), crew.deployment.pool("notification"));
    let begun = Instant::now();
    while begun.elapsed() < REST {
        let busy: Result<i64, _> =
            sqlx::query_scalar("SELECT count(*) FROM sagas WHERE live OR outcome IS NULL")
                .fetch_one(&engine)
                .await;
        let recorded = books::are_events_recorded(&engine, &notification).await;
        if matches!((busy, recorded), (Ok(0), Ok(true))) {
            return;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

fn line(role: &str, point: &str, crashes: &[Crash]) -> String {
    let cell = |crash: &Crash| match (&crash.wrong, crash.recovered) {
        (Some(_), _) => "**wrong**".to_owned(),
        (None, Some(after)) => format!("{:.1} s", after.as_secs_f64()),
        (None, None) => "–".to_owned(),
    };
    let cells: Vec<_> = crashes.iter().map(cell).collect();
    format!("| {role} | `{point}` | {} |", cells.join(" | "))
}

/// Returns the header of the table that shows the [`CrashPointsOutcome`]s.
pub fn heads() -> String {
    let names: Vec<_> = scenario::ALL.iter().map(|s| s.name()).collect();
    format!("| role | point | {} |\n| --- | ---{} |", names.join(" | "), " | --:".repeat(names.len()))
}

impl fmt::Display for CrashPointsOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.points.iter().try_for_each(|(point, crashes)| writeln!(f, "{}", line(self.role, point, crashes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(role: &'static str, points: &[(&'static str, bool)]) -> CrashPointsOutcome {
        let crash = |reached: &bool| Crash { recovered: reached.then_some(Duration::ZERO), wrong: None };
        let not_reached = Crash { recovered: None, wrong: None };
        let points =
            points.iter().map(|(point, reached)| (*point, vec![not_reached.clone(), crash(reached)]));
        CrashPointsOutcome {
            role,
            points: points.collect(),
            report: Report { lines: Vec::new() },
            odd: Vec::new(),
        }
    }

    #[test]
    fn a_point_that_no_situation_reaches_is_a_violation_unless_it_is_listed_with_a_reason() {
        let points = [("rows.due.after", false), ("rows.get.after", false), ("rows.lock.after", true)];
        let payment = outcome("payment", &points);
        assert_eq!((payment.unreached(), payment.violations()), (vec!["rows.get.after"], 1));
        let of_another = outcome("engine", &[("rows.due.after", false)]);
        assert_eq!(of_another.unreached(), ["rows.due.after"], "the reason is for one role");
    }

    #[test]
    fn only_points_that_exist_are_listed_as_unreached() {
        for (role, point, why) in MAY_BE_UNREACHED {
            let (_, points) = POINTS.iter().find(|(of, _)| of.last() == Some(&role)).unwrap();
            assert!(points.contains(&point) && !why.is_empty(), "{role} {point}");
        }
    }
}
